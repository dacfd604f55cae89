"""The checkpoints that are timed: of real size on a GPU, made there; the small ones of the tests on a CPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import places
from part import Part, Settings, has

NEEDED = ("torch", "diffusers", "transformers")
# Of each checkpoint of real size, with room to spare.
BYTES = dict(sd15=3 << 30, sdxl=8 << 30, flux=28 << 30)


@dataclass(frozen=True)
class Model:
    """A checkpoint, and how its pictures are timed."""

    name: str
    title: str
    folder: Path
    dtype: str
    side: int
    # Steps of a draw that is timed, and of the picture whose time is told.
    timed_steps: int
    steps: int
    # Whether `real.py` makes it.
    made: bool

    def job(self, seed: int) -> dict[str, object]:
        """A job of the worker for one picture."""
        return dict(
            operation="image_generation", model=self.name, prompt="a red circle on the blue", negative_prompt="the circle",
            width=self.side, height=self.side, steps=self.steps, seed=seed)


def timed(settings: Settings) -> list[Model]:
    if not settings.on_gpu:
        return [
            Model("text", "like SD 1, small, 64x64", places.DATA / "text", "f32", 64, 1, 1, False),
            Model("xl", "like SDXL, small, 64x64", places.DATA / "xl", "f32", 64, 1, 1, False)]
    folder = Path(settings.models)
    return [
        Model("sd15", "Stable Diffusion 1.5, 512x512", folder / "sd15", "f16", 512, 10, 20, True),
        Model("sdxl", "SDXL, 1024x1024", folder / "sdxl", "f16", 1024, 5, 20, True)]


def flux(settings: Settings) -> Model:
    if not settings.on_gpu:
        return Model("flux", "like Flux dev, small, 64x64", places.DATA / "flux/dev", "f32", 64, 1, 1, False)
    return Model("flux", "Flux dev, 1024x1024", Path(settings.models) / "flux", "bf16", 1024, 4, 4, True)


def make(part: Part, model: Model, patience: float) -> str | None:
    """Why the checkpoint is not there, if it is not."""
    if model.folder.exists():
        return None
    if missing := [module for module in NEEDED if not has(module)]:
        return f"{missing[0]} is not installed here: no checkpoint can be made"
    model.folder.parent.mkdir(parents=True, exist_ok=True)
    # Of whoever was killed while it made it.
    shutil.rmtree(model.folder.with_name(f"{model.name}.part"), ignore_errors=True)
    free = shutil.disk_usage(model.folder.parent).free
    if free < BYTES[model.name]:
        return f"{model.folder.parent} has {free >> 30} GiB left, {BYTES[model.name] >> 30} GiB are needed"
    command = [sys.executable, str(places.HERE / "real.py"), model.name, str(model.folder), part.settings.device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, patience), check=False)
    except subprocess.TimeoutExpired:
        return f"making the checkpoint took more than {patience:.0f} s"
    part.log((done.stdout + done.stderr)[-500:])
    return None if done.returncode == 0 else f"the checkpoint could not be made: {done.stderr[-300:]}"
