"""Two small Z-Image checkpoints of random weights and what diffusers computes from them: `z_image.py OUTPUT_FOLDER`.

`turbo` has the shift that Z-Image-Turbo was published with and bf16 weights; `base` is guided, has another shift, other
heads and f32 weights.
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
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from PIL import Image
from safetensors.torch import save_file
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from checkpoints import byte_alphabet, randomise, scale_output
from flux import padded
from modules import PROMPTS
from runs import mask, picture

PROMPT, NEGATIVE = "a red circle on the blue", "the circle"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [
    ("\u0120", "a"), ("r", "e"), ("re", "d"), ("c", "i"), ("ci", "r"), ("cir", "c"), ("l", "e"), ("circ", "le"), ("\u0120", "circle"),
    ("\u0120", "t"), ("\u0120t", "h"), ("\u0120th", "e"), ("b", "l"), ("u", "e"), ("bl", "ue"), ("\u0120", "blue"), ("o", "n"),
    ("u", "s"), ("e", "r"), ("us", "er"), ("\u0120", "red"),
]
# What Qwen3's template makes of one user's message with thinking enabled.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CLASSES = {"text": ZImagePipeline, "image": ZImageImg2ImgPipeline, "inpaint": ZImageInpaintPipeline}


def run(name, checkpoint, source, **more):
    defaults = dict(
        prompt=PROMPT, negative_prompt=None, guidance_scale=0.0, seed=42, steps=4, strength=1.0, width=64, height=64)
    return dict(name=name, checkpoint=checkpoint, source=source, **{**defaults, **more})


RUNS = [
    run("text_turbo", "turbo", "text", seed=2**32 + 5),
    run("text_turbo_odd", "turbo", "text", width=104, height=72, steps=1),
    run("text_base", "base", "text", guidance_scale=5.0, negative_prompt=NEGATIVE, width=96, height=48, steps=5),
    run("text_base_long", "base", "text", guidance_scale=0.5, prompt="red " * 40, steps=2),
    run("image_turbo", "turbo", "image", strength=0.6),
    run("image_base_odd", "base", "image", guidance_scale=3.0, strength=0.5, width=104, height=72, steps=5),
    run("inpaint_turbo_odd", "turbo", "inpaint", width=104, height=72),
    run("inpaint_base", "base", "inpaint", guidance_scale=2.0, strength=0.7, steps=5),
]


def vocabulary():
    """Bytes, merged pieces, then the special tokens, as in Qwen2's."""
    words = [*byte_alphabet(), *("".join(merge) for merge in MERGES)]
    return {word: i for i, word in enumerate(words)}


def checkpoint(folder: Path, name: str):
    turbo = name == "turbo"
    torch.manual_seed(71 + turbo)
    generator = torch.Generator().manual_seed(81 + turbo)
    words = vocabulary()
    tokenizer = Qwen2Tokenizer(vocab=words, merges=MERGES, unk_token=None, pad_token=SPECIAL[0], eos_token=SPECIAL[2],
                               additional_special_tokens=SPECIAL, model_max_length=1024)
    tokenizer.chat_template = TEMPLATE
    text = Qwen3Model(Qwen3Config(
        vocab_size=288, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, rms_norm_eps=1e-6,
        rope_parameters=dict(rope_type="default", rope_theta=1e6),
    ))
    transformer = ZImageTransformer2DModel(
        in_channels=16, dim=24 if turbo else 32, n_layers=2, n_refiner_layers=1 if turbo else 2,
        n_heads=2 if turbo else 1, n_kv_heads=2 if turbo else 1, cap_feat_dim=24,
        axes_dims=[4, 4, 4] if turbo else [8, 12, 12], axes_lens=[256, 32, 32],
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 12, 12), layers_per_block=1, norm_num_groups=4, latent_channels=16, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.3611,
        shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
    )
    for module in (text, transformer, vae):
        randomise(module, generator)
    with torch.no_grad():
        latents, times, captions = transformer_inputs(transformer, generator)
        out = torch.cat([x.flatten() for x in transformer(latents, times, captions).sample])
        scale_output(transformer.all_final_layer["2-1"].linear, out, 1.0)
        pictures = torch.rand(1, 3, 64, 64, generator=generator)
        scale_output(vae.encoder.conv_out, vae.encode(pictures).latent_dist.mean, 2.0)
        scale_output(vae.decoder.conv_out, vae.decode(3 * torch.randn(1, 16, 8, 8, generator=generator)).sample, 0.5)
    pipe = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if turbo else 6.0), vae=vae, text_encoder=text,
        tokenizer=tokenizer, transformer=transformer)
    pipe.to(torch.bfloat16 if turbo else torch.float32).save_pretrained(folder)


def transformer_inputs(transformer, generator):
    """Two samples at different times, over 2 x 3 patches, with captions of 7 and 40 tokens."""
    width = transformer.config.cap_feat_dim
    return (
        [torch.randn(16, 1, 4, 6, generator=generator) for _ in range(2)],
        torch.tensor([0.0, 0.7625]),
        [torch.randn(length, width, generator=generator) for length in (7, 40)],
    )


@torch.no_grad()
def modules(pipe, name: str, folder: Path):
    generator = torch.Generator().manual_seed(91)
    out = {}
    (embeddings,), _ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    out["text"] = embeddings
    latents, times, captions = transformer_inputs(pipe.transformer, generator)
    answers = pipe.transformer(latents, times, captions).sample
    for i in range(2):
        out[f"transformer.latents.{i}"], out[f"transformer.caption.{i}"] = latents[i][:, 0], captions[i]
        out[f"transformer.output.{i}"] = answers[i][:, 0]
    for key, value in out.items():
        print(f"  z_image {name} {key}: {list(value.shape)} std {value.std():.3f}")
    save_file({key: value.contiguous() for key, value in out.items()}, folder / f"{name}.modules.safetensors")
    cases = []
    for prompt in PROMPTS:
        text = pipe.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True)
        cases.append({"prompt": prompt, "ids": pipe.tokenizer(text, max_length=512, truncation=True).input_ids})
    (folder / f"{name}.tokens.json").write_text(json.dumps(cases))


def runs(pipes, folder: Path):
    out = {}
    for case in RUNS:
        name, size = case["name"], (case["width"], case["height"])
        image, painted = picture(*size), mask(*size)
        whole = padded(image, size)
        latents = []

        def keep(_pipe, _i, _t, values):
            latents.append(values["latents"].clone())
            return values

        inputs = dict(
            prompt=case["prompt"], negative_prompt=case["negative_prompt"], num_inference_steps=case["steps"],
            guidance_scale=case["guidance_scale"], height=whole.shape[0], width=whole.shape[1], output_type="np",
            generator=torch.Generator().manual_seed(case["seed"]), callback_on_step_end=keep)
        if case["source"] != "text":
            inputs |= dict(image=Image.fromarray(whole), strength=case["strength"])
            out[f"{name}.input"] = torch.from_numpy(image)
        if case["source"] == "inpaint":
            inputs |= dict(mask_image=Image.fromarray(padded(painted, size)))
            out[f"{name}.mask"] = torch.from_numpy(painted)
        pipe = CLASSES[case["source"]](**pipes[case["checkpoint"]].components)
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
    folder = folder / "z_image"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pipes = {}
    for name in ("turbo", "base"):
        checkpoint(folder / name, name)
        pipes[name] = ZImagePipeline.from_pretrained(folder / name, torch_dtype=torch.float32)
        modules(pipes[name], name, folder)
    runs(pipes, folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
