"""Masks with soft edges and inpainting of the part around a mask alone: each of diffusers' steps, and whole runs.
`masking.py OUTPUT_FOLDER`, with the checkpoints of `checkpoints.py` in that folder."""

import json
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from safetensors.torch import save_file

import matrix
import runs
import samplers

SIZE = (88, 56)
BLURS = (1, 2, 3, 4, 7, 13, 32, 64)
# Left, top, right, bottom of what is white, padding, and width and height that the part is drawn at.
REGIONS = [
    ([30, 20, 50, 30], 0, (64, 64)), ([30, 20, 50, 30], 6, (64, 64)), ([30, 20, 50, 30], 6, (64, 128)),
    ([30, 20, 50, 30], 6, (128, 64)), ([0, 0, 9, 11], 5, (64, 64)), ([80, 40, 88, 56], 3, (72, 64)),
    ([2, 30, 86, 33], 0, (64, 64)), ([40, 1, 43, 55], 1, (64, 64)), ([0, 0, 88, 56], 2048, (64, 72)),
    ([87, 55, 88, 56], 0, (2048, 64)), ([13, 17, 46, 30], 7, (104, 72)),
]
# Name, part, and sides that it is drawn at: smaller, larger, wider and higher than those.
RESIZED = [
    ("smaller", [5, 3, 83, 53], (24, 16)), ("larger", [30, 20, 41, 29], (40, 32)),
    ("wider", [2, 20, 86, 37], (40, 40)), ("higher", [40, 0, 53, 56], (40, 32)),
]
RUNS = [
    runs.run("blend", "text", "inpaint", "ddim", steps=4, strength=1.0, blur=4, padding=6),
    runs.run("blend_sharp", "text", "inpaint", "euler", steps=4, strength=0.7, blur=0, padding=0),
    runs.run("channels", "inpaint", "inpaint", "ddim", steps=4, strength=1.0, guidance_scale=3.0, blur=3, padding=8),
    runs.run("soft", "text", "inpaint", "ddim", steps=4, strength=1.0, width=88, height=56, blur=4, padding=None),
]


def mask():
    """In black and white, away from the middle, with a hole and a lone pixel."""
    y, x = np.mgrid[0:SIZE[1], 0:SIZE[0]]
    inside = (x >= 40) & (x < 69) & (y >= 20) & (y < 37) & ~((x > 50) & (x < 56) & (y > 24) & (y < 30))
    return np.where(inside | ((x == 36) & (y == 40)), 255, 0).astype(np.uint8)


def steps(out, processor):
    image, white = Image.fromarray(runs.picture(*SIZE)), Image.fromarray(mask())
    out["image"], out["mask"] = np.asarray(image), np.asarray(white)
    for radius in BLURS:
        out[f"blur.{radius}"] = np.asarray(processor.blur(white, radius))
    for name, (left, top, right, bottom), (width, height) in RESIZED:
        part = image.crop((left, top, right, bottom))
        out[f"filled.{name}"] = np.asarray(processor.resize(part, height, width, resize_mode="fill"))
        back = Image.fromarray(out[f"filled.{name}"])
        out[f"cropped.{name}"] = np.asarray(processor.resize(back, bottom - top, right - left, resize_mode="crop"))


def regions(processor):
    for white, padding, (width, height) in REGIONS:
        left, top, right, bottom = white
        picture = Image.new("L", SIZE)
        picture.paste(1, (left, top, right, bottom))
        region = processor.get_crop_region(picture, width, height, pad=padding)
        yield dict(white=white, padding=padding, size=[width, height], region=[int(side) for side in region])


def one(case, checkpoint, out):
    parts = dict(checkpoint.components)
    name, switches = samplers.KINDS[case["scheduler"]]
    unclipped = dict(parts["scheduler"].config, clip_sample=False)
    parts["scheduler"] = getattr(diffusers, name).from_config(unclipped, **switches)
    pipe = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    latents = []

    def keep(_pipe, _i, _t, values):
        latents.append(values["latents"].clone())
        return values

    image, white = Image.fromarray(runs.picture(*SIZE)), Image.fromarray(mask())
    white = pipe.mask_processor.blur(white, case["blur"])
    result = pipe(
        prompt=case["prompt"], negative_prompt=case["negative_prompt"], num_inference_steps=case["steps"],
        guidance_scale=case["guidance_scale"], strength=case["strength"], image=image, mask_image=white,
        width=case["width"], height=case["height"], padding_mask_crop=case["padding"],
        generator=torch.Generator().manual_seed(case["seed"]), callback_on_step_end=keep).images[0]
    if case["padding"] is None:
        # Without a crop the pipeline does not lay it over the picture by itself.
        result = pipe.image_processor.apply_overlay(white, image, result)
    out[f"{case['name']}.latents"] = latents[-1]
    out[f"{case['name']}.image"] = np.asarray(result)


def make(folder: Path):
    processor = VaeImageProcessor(do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    out = {}
    steps(out, processor)
    for case in RUNS:
        one(case, matrix.load(folder / case["checkpoint"]), out)
    tensors = {name: torch.as_tensor(np.array(value)) for name, value in out.items()}
    save_file(tensors, folder / "masking.safetensors")
    cases = dict(regions=list(regions(processor)), resized=RESIZED, runs=RUNS)
    (folder / "masking.json").write_text(json.dumps(cases, indent=1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
