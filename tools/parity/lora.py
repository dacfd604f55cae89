"""Random LoRAs in every format for two of the small checkpoints, and runs with them: `lora.py OUTPUT_FOLDER`."""

import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import runs

RUNS = [
    runs.run("lora_kohya", "text", "text", None, loras=[["text/kohya", 1.0]]),
    runs.run("lora_peft", "text", "text", "euler", loras=[["text/peft", 0.8]]),
    runs.run("lora_old", "text", "image", "ddim", strength=0.7, loras=[["text/old", 1.0]]),
    runs.run("lora_mixed", "text", "text", None, steps=3, loras=[["text/mixed", 0.9]]),
    runs.run("lora_negative", "text", "text", None, clip_skip=1, loras=[["text/kohya", -0.6]]),
    runs.run("lora_two", "text", "text", "euler_a", loras=[["text/kohya", 0.7], ["text/peft", -0.4]]),
    runs.run("lora_xl_original", "xl", "text", None, loras=[["xl/original", 1.0]]),
    runs.run("lora_xl_peft", "xl", "text", "ddim", negative_prompt=None, loras=[["xl/peft", 0.9]]),
    runs.run("lora_xl_two", "xl", "text", None, steps=3, loras=[["xl/peft", 0.5], ["xl/original", 1.2]]),
]

# Files whose ranks and alphas differ from layer to layer.
MIXED = ("text_mixed",)
DOWN = (".lora_down.weight", ".lora_A.weight", ".lora_linear_layer.down.weight", "_lora.down.weight")
UP = (".lora_up.weight", ".lora_B.weight", ".lora_linear_layer.up.weight", "_lora.up.weight")

TEXT_LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
ATTENTION = tuple(f"attn{i}.{layer}" for i in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0"))


def layers_of(model, wanted):
    """Names and weights of the linear layers and convolutions whose name `wanted` holds for."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [(name, layer.weight) for name, layer in model.named_modules() if isinstance(layer, kinds) and wanted(name)]


def matrices(weight, rank, generator, flat=False):
    """As large as to change a layer's output by some tenths. `flat`: without the kernel of a 1x1 convolution."""
    out, inputs = weight.shape[:2]
    down = torch.randn(rank, *weight.shape[1:], generator=generator) * (weight[0].numel() ** -0.5)
    up = torch.randn(out, rank, *(1,) * (weight.dim() - 2), generator=generator) * 0.3 * weight.std() * inputs**0.5
    return (down.flatten(1), up.flatten(1)) if flat else (down, up)


def original_name(name, layers=1):
    """What SDXL's own code calls a layer of the UNet."""
    parts = name.split(".")
    stride = layers + 1
    inner = dict(conv1="in_layers.2", conv2="out_layers.3", time_emb_proj="emb_layers.1", conv_shortcut="skip_connection")
    if parts[0] == "mid_block":
        place = [f"middle_block.{2 * int(parts[2]) + (parts[1] == 'attentions')}", *parts[3:]]
    elif parts[2] == "downsamplers":
        return f"input_blocks.{(int(parts[1]) + 1) * stride}.0.op"
    elif parts[0] == "down_blocks":
        place = [f"input_blocks.{int(parts[1]) * stride + int(parts[3]) + 1}.{int(parts[2] == 'attentions')}", *parts[4:]]
    else:
        place = [f"output_blocks.{int(parts[1]) * stride + int(parts[3])}.{int(parts[2] == 'attentions')}", *parts[4:]]
    return ".".join(inner.get(part, part) for part in place)


def kohya(parts, generator, name_of=lambda name: name, ranks=(4,), alphas=(2,)):
    """`parts`: prefix, layers. Ranks and alphas take turns; every layer has an alpha."""
    out = {}
    for prefix, layers in parts:
        for i, (name, weight) in enumerate(layers):
            name = name_of(name) if prefix == "lora_unet_" else f"text_model.{name.removeprefix('text_model.')}"
            stem, rank = prefix + name.replace(".", "_"), ranks[i % len(ranks)]
            out[f"{stem}.lora_down.weight"], out[f"{stem}.lora_up.weight"] = matrices(weight, rank, generator)
            out[f"{stem}.alpha"] = torch.tensor(float(alphas[i % len(alphas)]))
    return out


def peft(parts, generator):
    """`parts`: component, layers. No alphas."""
    out = {}
    for component, layers in parts:
        for name, weight in layers:
            stem = f"{component}.{name}"
            out[f"{stem}.lora_A.weight"], out[f"{stem}.lora_B.weight"] = matrices(weight, 3, generator)
    return out


def old(parts, generator):
    """diffusers before peft: attention processors of the UNet, and the text encoder's attention."""
    out = {}
    for component, layers in parts:
        for name, weight in layers:
            if component == "unet":
                attention, layer = name.removesuffix(".0").rsplit(".", 1)
                stem = f"unet.{attention}.processor.{layer}_lora"
            else:
                stem = f"text_encoder.text_model.{name}.lora_linear_layer"
            out[f"{stem}.down.weight"], out[f"{stem}.up.weight"] = matrices(weight, 2, generator)
    return out


def text_layers(encoder):
    return layers_of(encoder, lambda name: name.endswith(TEXT_LAYERS))


def files(pipes):
    """Every file: its tensors, and the header's text."""
    generator = torch.Generator().manual_seed(4242)
    text, xl = pipes["text"], pipes["xl"]
    everything = lambda name: "blocks" in name or "mid_block" in name
    linear = lambda name: ".attentions." in name
    attention = lambda name: name.endswith(ATTENTION)
    yield "text/kohya", kohya(
        [("lora_unet_", layers_of(text.unet, lambda name: linear(name) or "resnets" in name or "samplers" in name)),
         ("lora_te_", text_layers(text.text_encoder))], generator), None
    yield "text/mixed", kohya(
        [("lora_unet_", layers_of(text.unet, attention)), ("lora_te_", text_layers(text.text_encoder))], generator,
        ranks=(2, 4, 3), alphas=(1, 4, 2)), None
    yield "text/peft", peft(
        [("unet", layers_of(text.unet, everything)), ("text_encoder", text_layers(text.text_encoder))], generator), {
            "unet.r": 3, "unet.lora_alpha": 6, "text_encoder.r": 3, "text_encoder.lora_alpha": 1.5}
    yield "text/old", old(
        [("unet", layers_of(text.unet, attention)),
         ("text_encoder", layers_of(text.text_encoder, lambda name: name.endswith(TEXT_LAYERS[:4])))], generator), None
    yield "xl/original", kohya(
        [("lora_unet_", layers_of(xl.unet, linear)), ("lora_te1_", text_layers(xl.text_encoder)),
         ("lora_te2_", text_layers(xl.text_encoder_2))], generator, original_name), None
    yield "xl/peft", peft(
        [("unet", layers_of(xl.unet, attention)), ("text_encoder", text_layers(xl.text_encoder)),
         ("text_encoder_2", text_layers(xl.text_encoder_2))], generator), None


def write(folder, pipes):
    shutil.rmtree(folder, ignore_errors=True)
    for name, tensors, settings in files(pipes):
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        notes = {"format": "pt"}
        if settings:
            layers = [key.removesuffix(".lora_A.weight").split(".", 1) for key in tensors if ".lora_A." in key]
            for component in ("unet", "text_encoder"):
                settings[f"{component}.target_modules"] = [name for part, name in layers if part == component]
            notes["lora_adapter_metadata"] = json.dumps(settings)
        tensors = {key: value if key.endswith("alpha") else value.half() for key, value in tensors.items()}
        save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata=notes)


def load_pipes(folder):
    quiet = dict(torch_dtype=torch.float32)
    pipes = dict(
        text=StableDiffusionPipeline.from_pretrained(
            folder / "text", safety_checker=None, requires_safety_checker=False, **quiet),
        xl=StableDiffusionXLPipeline.from_pretrained(folder / "xl", **quiet))
    return pipes


def check(pipe, adapter, path, strength):
    """Every pair of the file is in a layer as it is in the file, with the file's scale.

    diffusers 0.42.1 loses alphas that differ from the file's most frequent one: it hands peft the names of their layers
    in a form that peft does not find. The format says alpha by rank for each layer, so that is set here for MIXED.
    """
    tensors, notes = load_file(path), settings_of(path)
    pairs = [key for key in tensors if key.endswith(DOWN)]
    arrived = 0
    for component in ("unet", "text_encoder", "text_encoder_2"):
        model = getattr(pipe, component, None)
        for module in [] if model is None else model.modules():
            if adapter not in getattr(module, "lora_A", ()):
                continue
            down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            [key] = [key for key in pairs if same(tensors[key], down)]
            end = next(end for end in DOWN if key.endswith(end))
            stem = key.removesuffix(end)
            assert same(tensors[stem + UP[DOWN.index(end)]], up), key
            rank = down.shape[0]
            alpha = float(tensors.get(f"{stem}.alpha", notes.get(f"{component}.lora_alpha", rank)))
            scale = strength * alpha / rank
            if adapter in MIXED:
                module.scaling[adapter] = scale
            assert abs(module.scaling[adapter] - scale) < 1e-6, f"{key}: scale {module.scaling[adapter]}, not {scale}"
            arrived += 1
    assert arrived == len(pairs), f"{path}: {arrived} of {len(pairs)} layers"


def same(one, other):
    return one.shape == other.shape and torch.equal(one.float(), other)


def settings_of(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata().get("lora_adapter_metadata", "{}"))


def apply(pipe, folder, loras):
    """Loads the files as diffusers does."""
    names = [name.replace("/", "_") for name, _ in loras]
    for (name, _), adapter in zip(loras, names):
        path = folder / f"{name}.safetensors"
        pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=adapter)
    pipe.set_adapters(names, adapter_weights=[strength for _, strength in loras])
    for (name, strength), adapter in zip(loras, names):
        check(pipe, adapter, folder / f"{name}.safetensors", strength)
    # clip_skip in diffusers 0.42.1 asks for an attribute that transformers 5 no longer has; loading asks that it has not.
    pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder


def make(folder: Path):
    write(folder / "loras", load_pipes(folder))
    out = {}
    for case in RUNS:
        # Loaded anew each time: what one case did to the layers is not carried to the next.
        pipe = load_pipes(folder)[case["checkpoint"]]
        apply(pipe, folder / "loras", case["loras"])
        cls = type(pipe) if case["source"] == "text" else runs.PIPELINES[case["source"]]
        runs.one(case, pipe, cls, out)
    save_file({name: value.contiguous() for name, value in out.items()}, folder / "loras.safetensors")
    (folder / "loras.json").write_text(json.dumps(RUNS, indent=1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
