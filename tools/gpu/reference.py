"""The CPU's pictures of every case in f32: drawn here, or read from a pack, for which they were drawn when it was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy

import cases
import places
from part import Part
from pictures import pixels
from service import Service


def path(folder: Path, case: cases.Case, seed: int) -> Path:
    return folder / f"{case.name}.{seed}.png"


def draw(part: Part, chosen: list[cases.Case], folder: Path) -> None:
    """Draws them with sd-worker-cpu, one job at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with Service(part, "references", cases.models(chosen, part.scratch), "cpu") as pool:
        pool.worker("reference", "--dtype", "f32", "--slots", "1", "--lora-dir", str(places.LORAS))
        for case in chosen:
            event = pool.queen.draw(case.operation(pictures=cases.SEEDS))
            for seed, file in enumerate(pool.queen.pictures(event)):
                path(folder, case, seed).write_bytes(file)
    part.log(f"{len(chosen)} cases were drawn on the CPU")


def reader(part: Part, chosen: list[cases.Case]) -> Callable[[cases.Case, int], numpy.ndarray]:
    """A function that gives the CPU's picture of a case and a seed."""
    folder = places.REFERENCES
    if not folder.is_dir():
        folder = part.scratch / "references-drawn"
        draw(part, chosen, folder)
    return lambda case, seed: pixels(path(folder, case, seed))
