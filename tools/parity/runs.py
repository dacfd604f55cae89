"""Whole runs of diffusers' three pipelines: latents after each step, and the picture."""

import inspect
import json
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from safetensors.torch import save_file

import samplers

PROMPT, NEGATIVE = "a red circle on the blue", "the circle"


def run(name, checkpoint, source, scheduler, **more):
    defaults = dict(
        prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=7.5, seed=42, steps=5, clip_skip=0, strength=1.0,
        width=64, height=64)
    return dict(name=name, checkpoint=checkpoint, source=source, scheduler=scheduler, **{**defaults, **more})


RUNS = [
    run("text_ddim", "text", "text", "ddim"),
    run("text_euler", "text", "text", "euler", seed=2**32 + 5),
    run("text_euler_a", "text", "text", "euler_a", negative_prompt=None),
    run("text_odd", "text", "text", None, width=104, height=72, guidance_scale=1.0, clip_skip=1, steps=3),
    run("image_ddim", "text", "image", "ddim", strength=0.7),
    run("image_euler", "text", "image", "euler", strength=0.5, width=104, height=72),
    run("image_euler_a", "text", "image", "euler_a", strength=0.9, guidance_scale=0.0),
    run("blend_ddim", "text", "inpaint", "ddim", strength=1.0),
    run("blend_euler", "text", "inpaint", "euler", strength=0.7, width=104, height=72),
    run("blend_euler_a", "text", "inpaint", "euler_a", strength=1.0),
    run("channels_ddim", "inpaint", "inpaint", "ddim", strength=1.0, guidance_scale=3.0),
    run("channels_euler", "inpaint", "inpaint", None, strength=0.6, width=104, height=72, guidance_scale=3.0),
    run("channels_euler_a", "inpaint", "inpaint", "euler_a", strength=0.6, guidance_scale=3.0),
]


def picture(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], axis=2).astype(np.uint8)


def mask(width, height):
    """Not aligned to latents, with values on both sides of the threshold."""
    y, x = np.mgrid[0:height, 0:width]
    inside = (x > width // 4 + 1) & (y > height // 3 - 2)
    return np.where(inside, np.where(x % 2 == 0, 255, 128), np.where(y % 2 == 0, 0, 127)).astype(np.uint8)


PIPELINES = dict(text=StableDiffusionPipeline, image=StableDiffusionImg2ImgPipeline, inpaint=StableDiffusionInpaintPipeline)


def one(case, checkpoint, cls, out, quiet=False):
    """Runs `cls` with a checkpoint's components; latents after each step, inputs and picture go into `out`."""
    size = (case["width"], case["height"])
    parts = dict(checkpoint.components)
    if case["scheduler"]:
        # Latents are not clipped to -1..1: two of the three pipelines set this themselves.
        unclipped = dict(parts["scheduler"].config, clip_sample=False)
        name, switches = samplers.KINDS[case["scheduler"]]
        parts["scheduler"] = getattr(diffusers, name).from_config(
            unclipped, **{**switches, **case.get("scheduler_options", {})})
    latents = []

    def keep(_pipe, _i, _t, values):
        latents.append(values["latents"].clone())
        return values

    inputs = dict(
        prompt=case["prompt"], negative_prompt=case["negative_prompt"], num_inference_steps=case["steps"],
        guidance_scale=case["guidance_scale"], clip_skip=case["clip_skip"] or None, output_type="np",
        generator=torch.Generator().manual_seed(case["seed"]), callback_on_step_end=keep)
    if "guidance_rescale" in case:
        inputs["guidance_rescale"] = case["guidance_rescale"]
    image, painted = Image.fromarray(picture(*size)), mask(*size)
    match case["source"]:
        case "text":
            inputs |= dict(width=size[0], height=size[1])
        case "image":
            inputs |= dict(image=image, strength=case["strength"])
        case "inpaint":
            inputs |= dict(
                image=image, mask_image=Image.fromarray(painted), strength=case["strength"], width=size[0],
                height=size[1])
    known = inspect.signature(cls.__init__).parameters
    flags = dict(requires_safety_checker=False, add_watermarker=False)
    for flag in ("requires_aesthetics_score", "force_zeros_for_empty_prompt"):
        if flag in checkpoint.config:
            flags[flag] = checkpoint.config[flag]
    pipe = cls(**parts, **{flag: value for flag, value in flags.items() if flag in known})
    pipe.set_progress_bar_config(disable=True)
    result = (pipe(**inputs).images[0] * 255).round().astype(np.uint8)
    name = case["name"]
    if case["source"] == "inpaint":
        out[f"{name}.mask"] = torch.from_numpy(painted)
        result = np.where((painted >= 128)[:, :, None], result, picture(*size))
    if case["source"] != "text":
        out[f"{name}.input"] = torch.from_numpy(picture(*size))
    out[f"{name}.latents"] = torch.cat(latents)
    out[f"{name}.image"] = torch.from_numpy(result)
    if quiet:
        return
    stds = " ".join(f"{x.std():.2f}" for x in latents)
    clipped = np.mean((result == 0) | (result == 255))
    print(f"  {name}: latents' std {stds}; picture's std {result.std():.0f}, at the ends {clipped:.0%}")


def make(pipes, folder: Path):
    out = {}
    for case in RUNS:
        one(case, pipes[case["checkpoint"]], PIPELINES[case["source"]], out)
    save_file({name: value.contiguous() for name, value in out.items()}, folder / "runs.safetensors")
    (folder / "runs.json").write_text(json.dumps(RUNS, indent=1))
