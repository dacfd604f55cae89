"""Trains the checkpoint from nothing: tokenizer, text encoder, VAE, latents, UNet, export.

Every stage is seeded and keeps its state in the work folder; `--resume` goes on from there.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from bpe import train_tokenizer
from draw import draw_grid
from export import export, load_vae
from text_encoder import train_text_encoder
from training import Schedule
from unet import cache_latents, train_unet
from vae import train_vae


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes (diffusers layout)")
    parser.add_argument("--work", type=Path, default=Path("work"), help="state, latents and full-precision weights")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from the state in the work folder")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile")
    parser.add_argument("--stages", default="text,vae,latents,unet,export", help="which stages to run")
    parser.add_argument("--text-steps", type=int, default=400)
    parser.add_argument("--vae-steps", type=int, default=2400)
    parser.add_argument("--vae-whole", type=int, default=400, help="last steps of the VAE, on whole pictures")
    parser.add_argument("--vae-decay", type=int, default=700, help="last steps of the VAE, at a falling rate")
    parser.add_argument("--scenes", type=int, default=10000, help="scenes whose latents the UNet learns from")
    parser.add_argument("--unet-steps", type=int, default=1600)
    parser.add_argument("--unet-decay", type=int, default=650, help="last steps of the UNet, at a falling rate")
    parser.add_argument("--unet-batch", type=int, default=48)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    stages = args.stages.split(",")
    text_folder, vae_folder = args.work / "text_encoder", args.work / "vae"
    if "text" in stages and not (args.resume and (text_folder / "config.json").exists()):
        tokenizer = train_tokenizer(args.work / "tokenizer", args.seed)
        train_text_encoder(tokenizer, text_folder, args.seed, args.text_steps)
    if "vae" in stages and not (args.resume and (vae_folder / "config.json").exists()):
        schedule = Schedule(rate=2e-3, total=args.vae_steps, decay=args.vae_decay)
        train_vae(vae_folder, args.seed, schedule, args.vae_whole, 8, args.resume, args.compile)
    latents = args.work / "latents.pt"
    if "latents" in stages and not (args.resume and latents.exists()):
        cache_latents(load_vae(args.work), latents, args.seed, args.scenes, args.compile)
    if "unet" in stages:
        train_unet(
            args.work / "unet",
            CLIPTokenizer.from_pretrained(args.work / "tokenizer"),
            CLIPTextModel.from_pretrained(text_folder).eval().requires_grad_(False),
            torch.load(latents, weights_only=True)["latents"],
            args.seed,
            Schedule(rate=1.5e-3, total=args.unet_steps, decay=args.unet_decay),
            args.unet_batch,
            args.resume,
            args.compile,
        )
    if "export" in stages:
        export(args.work, args.out)
        draw_grid(args.out, args.out / "grid.png")


if __name__ == "__main__":
    main()
