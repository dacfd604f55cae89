"""What single modules compute."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

PROMPTS = [
    "",
    "a large red circle on a blue background",
    "  Two\n\tlines   and    SPACES  ",
    "don't we'll it's 1984, 3.14!? (brackets:1.2) [x]",
    "caf\u00e9 cafe\u0301 na\u00efve \u00dcber \u4f60\u597d \U0001f600 \u0130stanbul",
    "typed <|endoftext|> in the middle <|startoftext|>",
    "red " * 74 + "circle",
    "red " * 75 + "circle",
    "the red circle " * 60,
]


def noise(folder: Path):
    """`torch.randn` of several sizes, one after the other from one generator, and alone."""
    tensors = {}
    for seed in (0, 1, 42, 2**31 + 7, 2**32 + 5, 2**53 - 1):
        for size in (1, 5, 15, 16, 17, 100, 4096):
            generator = torch.Generator().manual_seed(seed)
            tensors[f"{seed}.{size}"] = torch.randn(size, generator=generator)
    generator = torch.Generator().manual_seed(9)
    for i, size in enumerate((3, 20, 4, 1, 16, 700, 2)):
        tensors[f"mixed.{i}.{size}"] = torch.randn(size, generator=generator)
    save_file(tensors, folder / "noise.safetensors")


def tokens(pipe, path: Path):
    ids = pipe.tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True).input_ids
    path.write_text(json.dumps([{"prompt": p, "ids": i} for p, i in zip(PROMPTS, ids)]))


@torch.no_grad()
def modules(pipe, path: Path):
    generator = torch.Generator().manual_seed(1)
    unet, vae = pipe.unet, pipe.vae
    out = {}
    for clip_skip in (0, 1):
        embeddings, negative = pipe.encode_prompt(
            PROMPTS[1], "cpu", 1, True, "the blue", clip_skip=clip_skip or None)
        out[f"text.{clip_skip}"] = embeddings
        out["text.negative"] = negative
    for name, (height, width) in {"even": (8, 8), "odd": (9, 13)}.items():
        latents = torch.randn(2, unet.config.in_channels, height, width, generator=generator)
        text = torch.cat([out["text.negative"], out["text.0"]])
        timesteps = torch.tensor([981.0, 21.0])
        out[f"unet.{name}.input"] = latents
        out[f"unet.{name}.output"] = unet(latents, timesteps, text).sample
    picture = torch.rand(1, 3, 72, 104, generator=generator) * 2 - 1
    posterior = vae.encode(picture).latent_dist
    out["vae.picture"] = picture
    out["vae.mean"], out["vae.std"] = posterior.mean, posterior.std
    out["vae.latents"] = torch.randn(1, 4, 9, 13, generator=generator)
    out["vae.decoded"] = vae.decode(out["vae.latents"]).sample
    for name, value in out.items():
        print(f"  {path.stem} {name}: std {value.std():.3f}")
    save_file({name: value.contiguous() for name, value in out.items()}, path)
