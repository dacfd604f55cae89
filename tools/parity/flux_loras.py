"""Random LoRAs for the small Flux checkpoints in the formats that people have, and runs with them:
`flux_loras.py OUTPUT_FOLDER`, where `flux.py` has written the checkpoints.

diffusers' own converters take the files apart. Its converter of kohya's files knows one width, 3072: here it is told
another. Layers outside of the blocks it leaves without the component's name, and then drops them: they get the name here.
"""

import inspect
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from diffusers.loaders import lora_conversion_utils as converters
from safetensors.torch import load_file, save_file

from flux import LENGTHS, run
from lora import layers_of, matrices, text_layers

RUNS = [
    {**run("lora_kohya", "dev", "text", steps=2), "loras": [["kohya", 0.8]]},
    {**run("lora_peft", "schnell", "text", steps=2), "loras": [["peft", -0.7]]},
    {**run("lora_xlabs", "schnell", "text", steps=2), "loras": [["xlabs", 1.0]]},
    {**run("lora_two", "dev", "text", steps=2), "loras": [["kohya", 0.5], ["peft", 0.6]]},
]
WIDTH = 32


def pair(out_features, in_features, rank, generator):
    return matrices(torch.randn(out_features, in_features, generator=generator) * in_features**-0.5, rank, generator)


def kohya(pipe, generator):
    """The layers of the original code, queries, keys and values in one; and CLIP's."""
    w, out = WIDTH, {}

    def add(name, outputs, inputs, rank=3, alpha=1.5):
        out[f"{name}.lora_down.weight"], out[f"{name}.lora_up.weight"] = pair(outputs, inputs, rank, generator)
        out[f"{name}.alpha"] = torch.tensor(float(alpha))

    for i in range(2):
        block = f"lora_unet_double_blocks_{i}"
        for stream in ("img", "txt"):
            add(f"{block}_{stream}_attn_qkv", 3 * w, w)
            add(f"{block}_{stream}_attn_proj", w, w)
            add(f"{block}_{stream}_mlp_0", 4 * w, w)
            add(f"{block}_{stream}_mlp_2", w, 4 * w)
            add(f"{block}_{stream}_mod_lin", 6 * w, w)
        block = f"lora_unet_single_blocks_{i}"
        add(f"{block}_linear1", 7 * w, w)
        add(f"{block}_linear2", w, 5 * w)
        add(f"{block}_modulation_lin", 3 * w, w)
    # diffusers does not look at the alpha of the last layers: they have the rank.
    add("lora_unet_final_layer_adaLN_modulation_1", 2 * w, w, alpha=3)
    add("lora_unet_final_layer_linear", 64, w, alpha=3)
    add("lora_unet_img_in", w, 64)
    add("lora_unet_txt_in", w, 32)
    add("lora_unet_vector_in_in_layer", w, 24)
    add("lora_unet_time_in_out_layer", w, w)
    # As trained with queries, keys and values apart: every third of the rows has ranks of its own.
    up = out["lora_unet_double_blocks_1_img_attn_qkv.lora_up.weight"]
    for i in range(3):
        keep = torch.zeros(3, dtype=torch.bool)
        keep[i] = True
        up[i * w : (i + 1) * w, ~keep] = 0
    for name, weight in text_layers(pipe.text_encoder):
        add(f"lora_te1_text_model_{name.removeprefix('text_model.').replace('.', '_')}", *weight.shape, rank=2, alpha=1)
    return out


def peft(pipe, generator):
    """diffusers' names, attention and feed-forward layers."""
    out = {}
    wanted = ("attn.to_q", "attn.to_v", "attn.add_k_proj", "attn.to_out.0", "ff.net.0.proj", "ff_context.net.2", "proj_mlp")
    for name, weight in layers_of(pipe.transformer, lambda name: name.endswith(wanted)):
        stem = f"transformer.{name}"
        out[f"{stem}.lora_A.weight"], out[f"{stem}.lora_B.weight"] = matrices(weight, 2, generator)
    return out


def xlabs(_pipe, generator):
    """Processors of attention, `1` of the picture and `2` of the text; no alphas."""
    w, out = WIDTH, {}
    for i in range(2):
        for name, outputs in (("qkv_lora1", 3 * w), ("qkv_lora2", 3 * w), ("proj_lora1", w), ("proj_lora2", w)):
            stem = f"double_blocks.{i}.processor.{name}"
            out[f"{stem}.down.weight"], out[f"{stem}.up.weight"] = pair(outputs, w, 2, generator)
        stem = f"single_blocks.{i}.processor.qkv_lora"
        out[f"{stem}.down.weight"], out[f"{stem}.up.weight"] = pair(3 * w, w, 2, generator)
    return out


def converted(name, tensors):
    """What diffusers makes of a file."""
    if name == "peft":
        return tensors
    if name == "xlabs":
        return converters._convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    source = inspect.getsource(converters._convert_kohya_flux_lora_to_diffusers)
    known = "dims=[3072, 3072, 3072, 12288]"
    assert known in source
    scope = dict(vars(converters))
    exec(source.replace(known, f"dims={[WIDTH] * 3 + [4 * WIDTH]}"), scope)
    state = scope["_convert_kohya_flux_lora_to_diffusers"](dict(tensors))
    return {key if key.startswith(("transformer.", "text_encoder.")) else f"transformer.{key}": value
            for key, value in state.items()}


def load(folder, checkpoint):
    return FluxPipeline.from_pretrained(folder / checkpoint, torch_dtype=torch.float32)


def one(case, folder: Path, out):
    name, checkpoint = case["name"], case["checkpoint"]
    pipe = load(folder, checkpoint)
    pipe.set_progress_bar_config(disable=True)
    for lora, _ in case["loras"]:
        state = converted(lora, {key: value.float() for key, value in load_file(folder / f"loras/{lora}.safetensors").items()})
        pipe.load_lora_weights(state, adapter_name=lora)
        layers = [module for component in (pipe.transformer, pipe.text_encoder) for module in component.modules()
                  if lora in getattr(module, "lora_A", ())]
        expected = sum("lora_A" in key or ".down." in key for key in state)
        assert len(layers) == expected, f"{lora}: {len(layers)} of {expected} layers"
    pipe.set_adapters([lora for lora, _ in case["loras"]], [strength for _, strength in case["loras"]])
    latents = []

    def keep(pipe, _i, _t, values):
        size = (case["height"], case["width"], pipe.vae_scale_factor)
        latents.append(pipe._unpack_latents(values["latents"], *size))
        return values

    result = pipe(
        prompt=case["prompt"], num_inference_steps=case["steps"], guidance_scale=case["guidance_scale"],
        height=case["height"], width=case["width"], max_sequence_length=LENGTHS[checkpoint], output_type="np",
        generator=torch.Generator().manual_seed(case["seed"]), callback_on_step_end=keep).images[0]
    out[f"{name}.latents"] = torch.cat(latents)
    out[f"{name}.image"] = torch.from_numpy((result * 255).round().astype(np.uint8))
    print(f"  {name}: latents' std " + " ".join(f"{x.std():.2f}" for x in latents) + f"; picture's std {result.std() * 255:.0f}")


def make(folder: Path):
    folder = folder / "flux"
    shutil.rmtree(folder / "loras", ignore_errors=True)
    (folder / "loras").mkdir()
    generator = torch.Generator().manual_seed(3000)
    pipe = load(folder, "dev")
    for name, format in (("kohya", kohya), ("peft", peft), ("xlabs", xlabs)):
        tensors = {key: value if key.endswith("alpha") else value.detach().half().contiguous()
                   for key, value in format(pipe, generator).items()}
        save_file(tensors, folder / f"loras/{name}.safetensors")
    out = {}
    for case in RUNS:
        one(case, folder, out)
    save_file({name: value.contiguous() for name, value in out.items()}, folder / "lora_runs.safetensors")
    (folder / "lora_runs.json").write_text(json.dumps(RUNS, indent=1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
