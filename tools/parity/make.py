"""Writes the checkpoints and everything that diffusers computes from them: `make.py OUTPUT_FOLDER`."""

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline, UNet2DConditionModel

import adapters
import checkpoints
import families
import few_steps
import flux
import fp8
import flux_loras
import inversions
import lora
import masking
import matrix
import modules
import originals
import prompts
import rescale
import runs
import samplers
import segmenter
import single_file
import z_image


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    modules.noise(folder)
    samplers.make(folder)
    checkpoints.make(folder)
    quiet = dict(torch_dtype=torch.float32, safety_checker=None, requires_safety_checker=False)
    pipes = {
        "text": StableDiffusionPipeline.from_pretrained(folder / "text", **quiet),
        "inpaint": StableDiffusionInpaintPipeline.from_pretrained(
            folder / "inpaint", unet=UNet2DConditionModel.from_pretrained(folder / "inpaint/unet", variant="fp16"),
            **quiet),
    }
    for pipe in pipes.values():
        pipe.unet.float()
        # clip_skip in diffusers 0.42.1 asks for an attribute that transformers 5 no longer has.
        pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder
    for name, pipe in pipes.items():
        modules.tokens(pipe, folder / f"{name}.tokens.json")
        modules.modules(pipe, folder / f"{name}.modules.safetensors")
    runs.make(pipes, folder)
    families.make(folder)
    matrix.make(folder)
    masking.make(folder)
    flux.make(folder)
    flux_loras.make(folder)
    z_image.make(folder)
    segmenter.make(folder)
    single_file.make(folder)
    originals.make(folder)
    fp8.make(folder)
    rescale.make(folder)
    prompts.make(folder)
    lora.make(folder)
    few_steps.make(folder)
    adapters.make(folder)
    inversions.make(folder)


if __name__ == "__main__":
    main()
