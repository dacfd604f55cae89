"""Draws a manifest's prompts with diffusers, and the grid picture of a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

BATCH = 27
GRID_SEED = 1
GRID_PROMPTS = (
    "a large red circle on a blue background",
    "a large yellow star on a black background",
    "a large green heart on a pink background",
    "a large white square on a red background",
    "a large black triangle on an orange background",
    "a large purple ring on a yellow background",
    "a small blue star on a white background",
    "a small pink heart on a purple background",
    "a small orange triangle on a blue background",
    "a small red ring on a green background",
    "a small black square on a pink background",
    "a small white circle on a black background",
)


def load_pipeline(model: Path) -> StableDiffusionPipeline:
    """The f16 checkpoint, computing in f32."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_batch(
    pipeline: StableDiffusionPipeline, prompts: list[str], seeds: list[int], steps: int, guidance: float
) -> list[Image.Image]:
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return pipeline(prompts, num_inference_steps=steps, guidance_scale=guidance, generator=generators).images


def draw(model: Path, folder: Path, manifest: list[dict[str, str | int]], steps: int, guidance: float) -> None:
    pipeline = load_pipeline(model)
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(manifest), BATCH):
        lines = manifest[start : start + BATCH]
        seeds = [int(line["seed"]) for line in lines]
        images = draw_batch(pipeline, [str(line["prompt"]) for line in lines], seeds, steps, guidance)
        for line, image in zip(lines, images):
            image.save(folder / str(line["file"]))


def draw_grid(model: Path, path: Path, steps: int = 20, guidance: float = 7.5, columns: int = 6) -> None:
    seeds = [GRID_SEED + index for index in range(len(GRID_PROMPTS))]
    images = draw_batch(load_pipeline(model), list(GRID_PROMPTS), seeds, steps, guidance)
    tiles = [np.asarray(image) for image in images]
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--grid", type=Path, required=True, help="the PNG to write")
    args = parser.parse_args()
    draw_grid(args.model, args.grid)


if __name__ == "__main__":
    main()
