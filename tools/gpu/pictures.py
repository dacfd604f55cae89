"""How far two pictures are apart, and a sheet of those that are farthest."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy
from PIL import Image, ImageDraw

# A difference of this much, of 255, is white on a sheet.
WHITE = 16.0


@dataclass(frozen=True)
class Apart:
    """Of 255: the mean over all values, and the most of one."""

    mean: float
    most: float


def pixels(picture: bytes | Path) -> numpy.ndarray:
    source = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    return numpy.asarray(Image.open(source).convert("RGB"))


def apart(one: numpy.ndarray, other: numpy.ndarray) -> Apart:
    """Pictures of two sizes are as far apart as can be."""
    if one.shape != other.shape:
        return Apart(255.0, 255.0)
    difference = numpy.abs(one.astype(numpy.float64) - other.astype(numpy.float64))
    return Apart(float(difference.mean()), float(difference.max()))


def worst(values: list[Apart]) -> Apart:
    return Apart(max(value.mean for value in values), max(value.most for value in values))


class Sheet:
    """The pairs that are farthest apart: what is wanted, what was drawn, and the difference, made visible."""

    def __init__(self, path: Path, rows: int = 12) -> None:
        self._path = path
        self._rows = rows
        self._pairs: list[tuple[float, str, numpy.ndarray, numpy.ndarray]] = []

    def add(self, name: str, wanted: numpy.ndarray, drawn: numpy.ndarray, mean: float) -> None:
        if mean == 0 or wanted.shape != drawn.shape:
            return
        others = [pair for pair in self._pairs if pair[1] != name or pair[0] > mean]
        if len(others) == len(self._pairs) and any(pair[1] == name for pair in others):
            return  # the same one was farther off another time
        self._pairs = sorted([*others, (mean, name, wanted, drawn)], key=lambda pair: -pair[0])[: self._rows]

    def save(self) -> None:
        if not self._pairs:
            return
        cell, label = 128, 16
        sheet = Image.new("RGB", (3 * cell, len(self._pairs) * (cell + label)), "white")
        for i, (mean, name, wanted, drawn) in enumerate(self._pairs):
            top = i * (cell + label)
            ImageDraw.Draw(sheet).text((2, top + 2), f"{name}: {mean:.3f}", fill="black")
            difference = numpy.abs(wanted.astype(float) - drawn.astype(float)) * (255 / WHITE)
            shown = (wanted, drawn, difference.clip(0, 255).astype(numpy.uint8))
            for column, picture in enumerate(shown):
                sheet.paste(Image.fromarray(picture).resize((cell, cell), Image.NEAREST), (column * cell, top + label))
        sheet.save(self._path)
