"""Every family with every scheduler: where diffusers' latents end after a few steps. `matrix.py OUTPUT_FOLDER`, with the
checkpoints of `checkpoints.py` and `families.py` in that folder."""

import json
import sys
import warnings
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

import families
import runs
import samplers

STEPS = 5
# Family, what names of cases begin with, checkpoint, what its pictures start from, guidance scale, strength. Masks with
# UNets of 4 channels put back what is kept after every step: at 0.8 that begins within the schedule, at 1 from noise.
ROWS = [
    ("SD 1.x", "text", "text", "text", 7.5, 0.8),
    ("SD 1.x inpainting, 9 channels", "inpaint", "inpaint", "inpaint", 3.0, 0.8),
    ("SD 2.x", "sd2", "sd2", "text", 7.5, 0.8),
    ("SD-Turbo", "turbo", "turbo", "text", 0.0, 0.8),
    ("LCM", "lcm", "lcm", "text", 8.5, 0.8),
    ("SDXL base", "xl", "xl", "text", 7.5, 0.8),
    ("SDXL-Turbo", "xl_turbo", "xl_turbo", "text", 0.0, 0.8),
    ("SDXL inpainting, 9 channels", "xl_inpaint", "xl_inpaint", "inpaint", 5.0, 0.8),
    ("SDXL refiner", "refiner", "refiner", "image", 5.0, 0.8),
    ("SD 1.x with a mask, strength 0.8", "masked", "text", "inpaint", 7.5, 0.8),
    ("SD 1.x with a mask, strength 1", "masked_full", "text", "inpaint", 7.5, 1.0),
    ("SD 2.x with a mask, strength 0.8", "sd2_masked", "sd2", "inpaint", 7.5, 0.8),
    ("SDXL base with a mask, strength 0.8", "xl_masked", "xl", "inpaint", 7.5, 0.8),
    ("SDXL base with a mask, strength 1", "xl_masked_full", "xl", "inpaint", 7.5, 1.0),
]


def load(folder: Path):
    quiet = dict(torch_dtype=torch.float32)
    if folder.name in ("text", "sd2", "turbo", "lcm"):
        return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False, **quiet)
    if folder.name == "inpaint":
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", variant="fp16").float()
        return StableDiffusionInpaintPipeline.from_pretrained(
            folder, unet=unet, safety_checker=None, requires_safety_checker=False, **quiet)
    return DiffusionPipeline.from_pretrained(folder, **quiet)


def make(folder: Path):
    out, cases = {}, []
    for family, prefix, checkpoint, source, guidance, strength in ROWS:
        pipe = load(folder / checkpoint)
        classes = families.XL if "SDXL" in family else families.SD
        for kind in samplers.KINDS:
            case = runs.run(
                f"{prefix}.{kind}", checkpoint, source, kind, steps=STEPS, guidance_scale=guidance, strength=strength,
                negative_prompt=runs.NEGATIVE)
            result = {}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    runs.one(case, pipe, classes[source], result, quiet=True)
                except Exception as error:
                    print(f"  {case['name']}: diffusers refuses: {type(error).__name__}: {error}")
                    continue
            latents = result[f"{case['name']}.latents"][-1]
            if not latents.isfinite().all():
                print(f"  {case['name']}: diffusers ends in NaN")
                continue
            case |= dict(family=family, evaluations=len(result[f"{case['name']}.latents"]))
            cases.append(case)
            out[f"{case['name']}.end"] = latents
            if source != "text":
                out[f"{checkpoint}.input"] = result[f"{case['name']}.input"]
            if source == "inpaint":
                out[f"{checkpoint}.mask"] = result[f"{case['name']}.mask"]
    save_file({name: value.contiguous() for name, value in out.items()}, folder / "matrix.safetensors")
    (folder / "matrix.json").write_text(json.dumps(cases, indent=0))
    print(f"  {len(cases)} of {len(ROWS) * len(samplers.KINDS)} pairs")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
