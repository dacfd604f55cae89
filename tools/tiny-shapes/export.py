"""Puts the stages together as a Stable Diffusion pipeline in f16, finished or not.

`python export.py --work work --out DIR` exports the averaged weights of a run that is
still going.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from unet import new_scheduler, new_unet
from vae import new_vae


def averaged(model: nn.Module, state: Path) -> nn.Module:
    model.load_state_dict(torch.load(state, map_location="cpu", weights_only=True)["average"])
    return model.eval()


def load_vae(work: Path) -> AutoencoderKL:
    return averaged(new_vae(), work / "vae" / "state.pt")


def export(work: Path, out: Path) -> None:
    """Writes what `StableDiffusionPipeline.save_pretrained` writes, and the two hub tokenizer files."""
    vae = load_vae(work)
    vae.register_to_config(scaling_factor=torch.load(work / "latents.pt", weights_only=True)["factor"])
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=averaged(new_unet(), work / "unet" / "state.pt"),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16)
    pipeline.save_pretrained(out)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(work / "tokenizer" / name, out / "tokenizer" / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    export(args.work, args.out)


if __name__ == "__main__":
    main()
