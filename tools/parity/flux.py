"""Two small Flux.1 checkpoints of random weights and what diffusers computes from them: `flux.py OUTPUT_FOLDER`.

`schnell` has no guidance embedding, a fixed shift and f16 weights; `dev` has guidance embedding, a shift that follows
the picture's size and bf16 weights, as published.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from checkpoints import MERGES, randomise, scale_output, vocabulary
from modules import PROMPTS
from runs import mask, picture

PROMPT = "a red circle on the blue"
# Tokens of a T5 prompt: 256 is schnell's own length; dev's tokenizer is set to fewer than its 512 to keep this small.
LENGTHS = {"schnell": 256, "dev": 48}
CLASSES = {"text": FluxPipeline, "image": FluxImg2ImgPipeline, "inpaint": FluxInpaintPipeline}


def run(name, checkpoint, source, **more):
    defaults = dict(prompt=PROMPT, guidance_scale=3.5, seed=42, steps=4, strength=1.0, width=64, height=64)
    return dict(name=name, checkpoint=checkpoint, source=source, **{**defaults, **more})


RUNS = [
    run("text_schnell", "schnell", "text", seed=2**32 + 5),
    run("text_schnell_odd", "schnell", "text", width=104, height=72, steps=1),
    run("text_dev", "dev", "text", width=96, height=48, steps=5),
    run("text_dev_low", "dev", "text", guidance_scale=1.0, prompt="red " * 90, steps=2),
    run("image_schnell", "schnell", "image", strength=0.6),
    run("image_dev_odd", "dev", "image", strength=0.5, width=104, height=72, steps=5),
    run("inpaint_schnell_odd", "schnell", "inpaint", width=104, height=72),
    run("inpaint_dev", "dev", "inpaint", strength=0.7, steps=5),
]


def pieces():
    """A unigram vocabulary in T5's order: special tokens, letters, the starts of words, whole words."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'():[]-"
    words = ["a", "the", "red", "blue", "large", "circle", "on", "background", "lines", "and", "sp", "typed", "middle"]
    plain = [("\u2581", -3.0)] + [(letter, -6.0 - 0.01 * i) for i, letter in enumerate(letters)]
    more = [("\u2581" + word, -4.0 - 0.1 * i) for i, word in enumerate(words)] + [("circ", -5.0), ("le", -4.5)]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *plain, *more]


def checkpoint(folder: Path, name: str):
    dev = name == "dev"
    torch.manual_seed(41 + dev)
    generator = torch.Generator().manual_seed(51 + dev)
    tokenizer = CLIPTokenizer(vocab=vocabulary(), merges=MERGES, model_max_length=77)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(vocabulary()), hidden_size=24, intermediate_size=48, num_attention_heads=3,
        num_hidden_layers=2, max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=24,
        # The openai files name 2 here, whatever the end token is; transformers then takes the largest id.
        bos_token_id=0, eos_token_id=2 if dev else tokenizer.eos_token_id, pad_token_id=1,
    ))
    tokenizer_2 = T5Tokenizer(vocab=pieces(), extra_ids=4, model_max_length=LENGTHS["dev"] if dev else 512)
    text_2 = T5EncoderModel(T5Config(
        vocab_size=128, d_model=32, d_kv=12, d_ff=48, num_layers=3, num_heads=3, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ))
    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=24, guidance_embeds=dev, axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 12, 12), layers_per_block=1, norm_num_groups=4, latent_channels=16, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.3611,
        shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
    )
    for module in (text, text_2, transformer, vae):
        randomise(module, generator)
    with torch.no_grad():
        inputs = transformer_inputs(transformer, dev, generator)
        scale_output(transformer.proj_out, transformer(**inputs).sample, 1.0)
        pictures = torch.rand(1, 3, 64, 64, generator=generator)
        scale_output(vae.encoder.conv_out, vae.encode(pictures).latent_dist.mean, 2.0)
        scale_output(vae.decoder.conv_out, vae.decode(3 * torch.randn(1, 16, 8, 8, generator=generator)).sample, 0.5)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0 if dev else 1.0, use_dynamic_shifting=dev)
    pipe = FluxPipeline(
        scheduler=scheduler, vae=vae, text_encoder=text, tokenizer=tokenizer, text_encoder_2=text_2,
        tokenizer_2=tokenizer_2, transformer=transformer)
    pipe.to(torch.bfloat16 if dev else torch.float16).save_pretrained(folder)


def transformer_inputs(transformer, guided, generator):
    """Two samples at different timesteps, over a picture of 2 x 3 patches and 7 words."""
    rows, columns, words = 2, 3, 7
    config = transformer.config
    ids = torch.zeros(rows * columns, 3)
    ids[:, 1] = torch.arange(rows).repeat_interleave(columns)
    ids[:, 2] = torch.arange(columns).repeat(rows)
    return dict(
        hidden_states=torch.randn(2, rows * columns, config.in_channels, generator=generator),
        encoder_hidden_states=torch.randn(2, words, config.joint_attention_dim, generator=generator),
        pooled_projections=torch.randn(2, config.pooled_projection_dim, generator=generator),
        timestep=torch.tensor([1.0, 0.2375]), guidance=torch.tensor([3.5, 7.0]) if guided else None,
        img_ids=ids, txt_ids=torch.zeros(words, 3))


@torch.no_grad()
def modules(pipe, name: str, folder: Path):
    generator = torch.Generator().manual_seed(61)
    length, out = LENGTHS[name], {}
    embeddings, pooled, _ = pipe.encode_prompt(PROMPTS[1], max_sequence_length=length)
    out["t5"], out["pooled"] = embeddings, pooled
    inputs = transformer_inputs(pipe.transformer, name == "dev", generator)
    out["transformer.latents"] = inputs["hidden_states"]
    out["transformer.text"] = inputs["encoder_hidden_states"]
    out["transformer.pooled"] = inputs["pooled_projections"]
    out["transformer.output"] = pipe.transformer(**inputs).sample
    pictures = torch.rand(1, 3, 48, 32, generator=generator) * 2 - 1
    out["vae.picture"], out["vae.mean"] = pictures, pipe.vae.encode(pictures).latent_dist.mean
    out["vae.latents"] = torch.randn(1, 16, 6, 4, generator=generator)
    out["vae.decoded"] = pipe.vae.decode(out["vae.latents"]).sample
    for key, value in out.items():
        print(f"  flux {name} {key}: std {value.std():.3f}")
    save_file({key: value.contiguous() for key, value in out.items()}, folder / f"{name}.modules.safetensors")
    ids = pipe.tokenizer_2(PROMPTS, padding="max_length", max_length=length, truncation=True).input_ids
    cases = [{"prompt": prompt, "ids": row} for prompt, row in zip(PROMPTS, ids)]
    (folder / f"{name}.tokens.json").write_text(json.dumps(cases))


def schedules(folder: Path):
    """Sigmas of FluxPipeline's call over configurations, sizes and steps."""
    cases = []
    for config in (
        {}, dict(shift=3.0), dict(use_dynamic_shifting=True), dict(use_dynamic_shifting=True, shift_terminal=0.02),
        dict(use_dynamic_shifting=True, time_shift_type="linear", base_shift=0.7, max_shift=1.3),
        dict(use_dynamic_shifting=True, base_image_seq_len=64, max_image_seq_len=1024),
    ):
        for tokens in (16, 256, 4096):
            for steps in (1, 2, 4, 20, 50):
                if steps == 1 and "shift_terminal" in config:
                    continue
                scheduler = FlowMatchEulerDiscreteScheduler(**config)
                values = scheduler.config
                slope = (values.max_shift - values.base_shift) / (values.max_image_seq_len - values.base_image_seq_len)
                mu = tokens * slope + (values.base_shift - slope * values.base_image_seq_len)
                scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
                cases.append(dict(
                    config={"_class_name": "FlowMatchEulerDiscreteScheduler", **config}, tokens=tokens, steps=steps,
                    sigmas=scheduler.sigmas.tolist(), timesteps=scheduler.timesteps.tolist()))
    (folder / "schedules.json").write_text(json.dumps(cases, separators=(",", ":")))


def padded(values, sides):
    """Grown to multiples of 16 by repeating the last row and column."""
    width, height = sides
    grow = ((0, -height % 16), (0, -width % 16), (0, 0))[: values.ndim]
    return np.pad(values, grow, mode="edge")


def runs(pipes, folder: Path):
    out = {}
    for case in RUNS:
        name, checkpoint, size = case["name"], case["checkpoint"], (case["width"], case["height"])
        image, painted = picture(*size), mask(*size)
        whole = padded(image, size)
        latents = []

        def keep(pipe, _i, _t, values):
            latents.append(pipe._unpack_latents(values["latents"], *whole.shape[:2], pipe.vae_scale_factor))
            return values

        inputs = dict(
            prompt=case["prompt"], num_inference_steps=case["steps"], guidance_scale=case["guidance_scale"],
            height=whole.shape[0], width=whole.shape[1], max_sequence_length=LENGTHS[checkpoint], output_type="np",
            generator=torch.Generator().manual_seed(case["seed"]), callback_on_step_end=keep)
        if case["source"] != "text":
            inputs |= dict(image=Image.fromarray(whole), strength=case["strength"])
            out[f"{name}.input"] = torch.from_numpy(image)
        if case["source"] == "inpaint":
            inputs |= dict(mask_image=Image.fromarray(padded(painted, size)))
            out[f"{name}.mask"] = torch.from_numpy(painted)
        pipe = CLASSES[case["source"]](**pipes[checkpoint].components)
        pipe.set_progress_bar_config(disable=True)
        result = (pipe(**inputs).images[0] * 255).round().astype(np.uint8)[: size[1], : size[0]]
        if case["source"] == "inpaint":
            result = np.where((painted >= 128)[:, :, None], result, image)
        out[f"{name}.latents"] = torch.cat(latents)
        out[f"{name}.image"] = torch.from_numpy(result)
        stds = " ".join(f"{x.std():.2f}" for x in latents)
        clipped = np.mean((result == 0) | (result == 255))
        print(f"  {name}: latents' std {stds}; picture's std {result.std():.0f}, at the ends {clipped:.0%}")
    save_file({name: value.contiguous() for name, value in out.items()}, folder / "runs.safetensors")
    (folder / "runs.json").write_text(json.dumps(RUNS, indent=1))


def make(folder: Path):
    folder = folder / "flux"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pipes = {}
    for name in ("schnell", "dev"):
        checkpoint(folder / name, name)
        pipes[name] = FluxPipeline.from_pretrained(folder / name, torch_dtype=torch.float32)
        modules(pipes[name], name, folder)
    schedules(folder)
    runs(pipes, folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
