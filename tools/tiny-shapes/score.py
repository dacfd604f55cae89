"""Scores pictures against the scenes they were asked for: colours, background, shape.

    python score.py --selftest
    python score.py --list > prompts.jsonl
    python score.py --pictures DIR --manifest prompts.jsonl

A manifest line holds `file`, `prompt`, `seed`, `size`, `shape`, `colour`, `background`.
A colour is right if it is the nearest of the palette; the shape is the rendered template
that overlaps best with the segmented picture. Exits with 1 below the bars.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import scenes

BARS = {"colour": 95.0, "background": 95.0, "shape": 85.0}
BORDER = 4  # pixels of the frame that is taken for background
CONTRAST = 35.0  # RGB distance below which nothing stands out from the background
LEAST_OVERLAP = 0.6  # intersection over union below which a region is no shape at all
FIRST_SEED = 1000


@dataclass(frozen=True)
class Reading:
    """What a picture shows; the overlap says how surely."""

    colour: str
    background: str
    shape: str
    size: str
    overlap: float


def prompts(seed: int = 7) -> list[dict[str, str | int]]:
    """Every shape, colour and size once, 108 in all, each on a background drawn at random."""
    rng = np.random.default_rng(seed)
    lines: list[dict[str, str | int]] = []
    for shape in scenes.SHAPES:
        for colour in scenes.COLOURS:
            for size in scenes.SIZES:
                others = [name for name in scenes.COLOURS if name != colour]
                scene = scenes.Scene(size, colour, shape, others[rng.integers(len(others))])
                lines.append(
                    {
                        "file": f"{len(lines):03}.png",
                        "prompt": scene.caption,
                        "seed": FIRST_SEED + len(lines),
                        "size": size,
                        "shape": shape,
                        "colour": colour,
                        "background": scene.background,
                    }
                )
    return lines


def nearest_colour(rgb: NDArray[np.float32]) -> str:
    return min(scenes.COLOURS, key=lambda name: float(np.sum((rgb - np.asarray(scenes.PALETTE[name])) ** 2)))


def segment(picture: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    """The mask of the shape, its colour and the background's (medians)."""
    frame = np.ones(picture.shape[:2], bool)
    frame[BORDER:-BORDER, BORDER:-BORDER] = False
    background = np.median(picture[frame], axis=0)
    distance = np.linalg.norm(picture - background, axis=-1)
    # The smallest shape covers 5 % of the picture: its inner part is above the 98th percentile's neighbourhood.
    peak = float(np.percentile(distance, 98))
    if peak < CONTRAST:
        return np.zeros(frame.shape, bool), background, background
    colour = np.median(picture[distance > 0.6 * peak], axis=0)
    along = (picture - background) @ (colour - background) / np.sum((colour - background) ** 2)
    mask = (along > 0.5) | (distance > 0.75 * np.linalg.norm(colour - background))
    return mask, colour, background


def template_radius(shape: str, area: float) -> float:
    """The radius at which a shape covers `area` pixels."""
    unit = float((scenes.signed_distance(shape, (64.0, 64.0), 40.0) < 0).sum()) / 40.0**2
    return float(np.sqrt(area / unit))


def best_template(mask: NDArray[np.bool_]) -> tuple[str, float, float]:
    """The shape whose template overlaps best with the mask, the overlap, and the radius.

    Templates are laid over the mask by the centre of mass and the area, then tried a
    little smaller, larger and off centre.
    """
    ys, xs = np.nonzero(mask)
    if len(xs) < 100:
        return "none", 0.0, 0.0
    best = ("none", 0.0, 0.0)
    for shape in scenes.SHAPES:
        middle = scenes.signed_distance(shape, (64.0, 64.0), 40.0) < 0
        ty, tx = np.nonzero(middle)
        fitted = template_radius(shape, float(len(xs)))
        for radius in (fitted * 0.94, fitted, fitted * 1.06):
            # The centre of mass of a template is not its centre: a heart's and a triangle's lie off it.
            centre = (
                float(xs.mean()) + 0.5 - float(tx.mean() + 0.5 - 64) * radius / 40,
                float(ys.mean()) + 0.5 - float(ty.mean() + 0.5 - 64) * radius / 40,
            )
            for dx, dy in ((0, 0), (2, 0), (-2, 0), (0, 2), (0, -2)):
                template = scenes.signed_distance(shape, (centre[0] + dx, centre[1] + dy), radius) < 0
                overlap = float((template & mask).sum() / (template | mask).sum())
                if overlap > best[1]:
                    best = (shape, overlap, radius)
    return best


def read_picture(picture: NDArray[np.uint8]) -> Reading:
    mask, colour, background = segment(picture.astype(np.float32))
    shape, overlap, radius = best_template(mask)
    if overlap < LEAST_OVERLAP:
        shape = "none"
    return Reading(
        colour=nearest_colour(colour) if mask.any() else "none",
        background=nearest_colour(background),
        shape=shape,
        size=min(scenes.SIZES, key=lambda size: abs(scenes.RADIUS[size] - radius)),
        overlap=overlap,
    )


def load_picture(path: Path) -> NDArray[np.uint8]:
    image = Image.open(path).convert("RGB")
    if image.size != (scenes.SIZE, scenes.SIZE):
        image = image.resize((scenes.SIZE, scenes.SIZE), Image.Resampling.BOX)
    return np.asarray(image)


def score(pictures: Path, manifest: list[dict[str, str | int]]) -> dict[str, float]:
    """Percentages right; prints what is wrong to stderr. A missing picture is an error."""
    right = dict.fromkeys(("colour", "background", "shape", "size"), 0)
    for line in manifest:
        reading = read_picture(load_picture(pictures / str(line["file"])))
        for field in right:
            right[field] += getattr(reading, field) == line.get(field)
        wrong = [
            f"{field} {getattr(reading, field)}"
            for field in ("colour", "background", "shape")
            if getattr(reading, field) != line[field]
        ]
        if wrong:
            print(f"{line['file']}: {line['prompt']}: {', '.join(wrong)} ({reading.overlap:.2f})", file=sys.stderr)
    return {field: 100.0 * count / len(manifest) for field, count in right.items()}


def report(percentages: dict[str, float], count: int) -> bool:
    """Prints the percentages; true if every bar is met."""
    print(f"{count} pictures")
    for field, percentage in percentages.items():
        bar = BARS.get(field)
        print(f"{field:<10} {percentage:5.1f} %" + (f"  (bar {bar:.0f} %)" if bar else "  (no bar)"))
    return all(percentages[field] >= bar for field, bar in BARS.items())


def selftest(count: int = 216) -> bool:
    """Reads rendered scenes, clean and with the noise of a lossy decoder: at least 99 % must be right."""
    met = True
    for noise in (0.0, 12.0):
        rng = np.random.default_rng(11)
        right = dict.fromkeys(("colour", "background", "shape", "size"), 0)
        for _ in range(count):
            scene = scenes.random_scene(rng)
            picture = scenes.render(scene).astype(np.float32)
            picture += noise * rng.standard_normal(picture.shape, dtype=np.float32)
            reading = read_picture(np.clip(picture, 0, 255).astype(np.uint8))
            for field in right:
                right[field] += getattr(reading, field) == getattr(scene, field)
        shares = {field: 100.0 * hits / count for field, hits in right.items()}
        print(f"noise {noise:4.1f}: " + ", ".join(f"{field} {share:.2f} %" for field, share in shares.items()))
        met &= all(share >= 99.0 for share in shares.values())
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the manifest as JSON lines")
    parser.add_argument("--selftest", action="store_true", help="score rendered scenes")
    parser.add_argument("--pictures", type=Path, help="folder of the pictures to score")
    parser.add_argument("--manifest", type=Path, help="JSON lines; the printed list if left out")
    parser.add_argument("--with-diffusers", type=Path, metavar="MODEL", help="draw into --pictures first")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=7.5)
    args = parser.parse_args()
    if args.list:
        for line in prompts():
            print(json.dumps(line))
        return 0
    if args.selftest:
        return 0 if selftest() else 1
    if args.pictures is None:
        parser.error("one of --list, --selftest and --pictures is needed")
    manifest = prompts()
    if args.manifest is not None:
        manifest = [json.loads(line) for line in args.manifest.read_text(encoding="utf-8").splitlines() if line]
    if args.with_diffusers is not None:
        from draw import draw

        draw(args.with_diffusers, args.pictures, manifest, args.steps, args.guidance)
    return 0 if report(score(args.pictures, manifest), len(manifest)) else 1


if __name__ == "__main__":
    sys.exit(main())
