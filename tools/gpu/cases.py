"""The pictures that are compared: runs of tests/data/parity, chosen so that every family and every kind of job is there."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy
from PIL import Image

import places
import weights

# Family, file of the run's definition, its name there, and what is different here.
CHOSEN = (
    ("SD 1", "runs", "text_ddim", {}),
    ("SD 1, ancestral sampler", "runs", "text_euler_a", {}),
    ("SD 1, odd size, no guidance", "runs", "text_odd", {}),
    ("SD 1, image to image", "runs", "image_ddim", {}),
    ("SD 1, inpainting by mask", "runs", "blend_euler", {}),
    ("SD 1, inpainting, 9 channels", "runs", "channels_euler", {}),
    ("SD 1, LoRA (kohya)", "loras", "lora_kohya", {}),
    ("SD 1, LoRA (old), image to image", "loras", "lora_old", {}),
    ("SD 1, two LoRAs", "loras", "lora_two", {}),
    ("SD 2, v prediction", "families", "sd2_text", {}),
    ("SD 2, image to image", "families", "sd2_image", {}),
    ("SD-Turbo, tiny autoencoder", "families", "turbo_text_1", {}),
    ("SD-Turbo, inpainting by mask", "families", "turbo_blend", {}),
    ("LCM", "families", "lcm_text", {}),
    ("SDXL", "families", "xl_text", {}),
    ("SDXL, image to image", "families", "xl_image", {}),
    ("SDXL, inpainting by mask", "families", "xl_blend", {}),
    ("SDXL, LoRA (original names)", "loras", "lora_xl_original", {}),
    ("SDXL-Turbo", "families", "xl_turbo_text", {}),
    ("SDXL, inpainting, 9 channels", "families", "xl_inpaint_channels", {}),
    ("SDXL refiner", "families", "refiner_image", {}),
    ("SDXL refiner, inpainting", "families", "refiner_blend", {}),
    ("Flux schnell", "flux/runs", "text_schnell", {}),
    ("Flux schnell, image to image", "flux/runs", "image_schnell", {}),
    ("Flux schnell, inpainting", "flux/runs", "inpaint_schnell_odd", {}),
    # A job's sides have 64 pixels at least.
    ("Flux dev", "flux/runs", "text_dev", {"height": 64}),
    ("Flux dev, image to image", "flux/runs", "image_dev_odd", {}),
    ("Flux dev, inpainting", "flux/runs", "inpaint_dev", {}),
)
# Made from `text` where it is needed.
OVERFLOW = "overflow"
OPERATIONS = dict(text="image_generation", image="image_transform", inpaint="image_inpaint")
# Pictures of each case that there are references of: seeds from the case's own on.
SEEDS = 4


@dataclass(frozen=True)
class Case:
    """One run. `run` is its definition as tools/parity has it."""

    family: str
    name: str
    model: str
    run: dict
    image: str | None = None
    mask: str | None = None

    @property
    def is_flux(self) -> bool:
        return self.model in ("schnell", "dev")

    def operation(self, seed: int = 0, pictures: int = 1, **more: object) -> dict[str, object]:
        """A job for `pictures` pictures from the case's seed + `seed` on."""
        run = self.run
        job: dict[str, object] = dict(
            operation=OPERATIONS[run["source"]], model=self.model, prompt=run["prompt"], steps=run["steps"],
            guidance_scale=run["guidance_scale"], seed=run["seed"] + seed, n=pictures)
        for name in ("negative_prompt", "scheduler", "clip_skip"):
            if run.get(name) not in (None, 0):
                job[name] = run[name]
        if run["source"] == "text":
            job |= dict(width=run["width"], height=run["height"])
        else:
            job |= dict(strength=run["strength"], init_image=self.image)
        if run["source"] == "inpaint":
            job["mask_image"] = self.mask
        if loras := run.get("loras"):
            job["loras"] = [dict(path=path, strength=strength) for path, strength in loras]
        return job | more


def every() -> list[Case]:
    """All cases, with the inputs that were recorded of their runs; the last one overflows f16 in its decode."""
    cases = []
    for family, file, name, more in CHOSEN:
        runs = json.loads((places.DATA / f"{file}.json").read_text())
        run = next(run for run in runs if run["name"] == name) | more
        inputs = weights.read(places.DATA / f"{file}.safetensors") if run["source"] != "text" else {}
        image, mask = (png(inputs[key].array()) if (key := f"{name}.{kind}") in inputs else None for kind in ("input", "mask"))
        cases.append(Case(family, name, run["checkpoint"], run, image, mask))
    run = next(case for case in cases if case.name == "text_ddim").run
    return [*cases, Case("SD 1, a decode that overflows f16", OVERFLOW, OVERFLOW, run)]


def models(cases: list[Case], scratch: Path) -> dict[str, Path]:
    """Where each case's checkpoint is; the one that overflows is made in `scratch`."""
    found = {}
    for model in dict.fromkeys(case.model for case in cases):
        if model == OVERFLOW:
            found[model] = scratch / OVERFLOW
            if not found[model].exists():
                weights.overflowing_copy(places.DATA / "text", found[model])
        else:
            found[model] = places.DATA / ("flux" if model in ("schnell", "dev") else "") / model
    return found


def png(pixels: numpy.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
