"""The scenes: one coloured shape on a coloured background, its picture and its captions.

Everything the checkpoint learns, and everything `score.py` measures it against, is
defined here. Needs numpy alone. Pictures are 128x128 RGB; lengths are in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIZE = 128
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
SIZES = ("small", "large")
# Far apart in RGB (the closest pair is more than 100 apart), so that the nearest colour is unambiguous.
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (215, 20, 30),
    "orange": (255, 128, 0),
    "yellow": (255, 235, 20),
    "green": (20, 160, 60),
    "blue": (25, 65, 225),
    "purple": (140, 30, 180),
    "pink": (255, 140, 190),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
COLOURS = tuple(PALETTE)

RADIUS = {"small": 25.0, "large": 45.0}
RADIUS_JITTER = {"small": 2.0, "large": 3.0}
CENTRE_JITTER = 6.0
EDGE = 1.0  # half the width of the soft edge
SYNONYMS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}

Mask = NDArray[np.float32]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """What a caption says (`size`, `colour`, `shape`, `background`) and where the shape lies."""

    size: str
    colour: str
    shape: str
    background: str
    centre: tuple[float, float] = (SIZE / 2, SIZE / 2)
    radius: float = 0.0

    @property
    def caption(self) -> str:
        """The main phrasing, the one that is scored."""
        return f"a {self.size} {self.colour} {self.shape} on {with_article(self.background)} background"


def with_article(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


def random_scene(rng: np.random.Generator) -> Scene:
    size = SIZES[rng.integers(len(SIZES))]
    colour, background = rng.choice(len(COLOURS), size=2, replace=False)
    jitter = rng.uniform(-1.0, 1.0, size=3)
    return Scene(
        size=size,
        colour=COLOURS[colour],
        shape=SHAPES[rng.integers(len(SHAPES))],
        background=COLOURS[background],
        centre=(SIZE / 2 + CENTRE_JITTER * jitter[0], SIZE / 2 + CENTRE_JITTER * jitter[1]),
        radius=RADIUS[size] + RADIUS_JITTER[size] * jitter[2],
    )


def random_caption(scene: Scene, rng: np.random.Generator) -> tuple[str, bool, bool]:
    """A caption, and whether it names the size and the background. Half are the main phrasing."""
    if rng.random() < 0.5:
        return scene.caption, True, True
    size = SYNONYMS[scene.size][rng.integers(len(SYNONYMS[scene.size]))]
    thing, back = f"{scene.colour} {scene.shape}", scene.background
    phrasings = (
        (f"a {size} {thing} on {with_article(back)} background", True, True),
        (f"{size} {thing}, {back} background", True, True),
        (f"a picture of a {size} {thing} on {back}", True, True),
        (f"{with_article(back)} background with a {size} {thing}", True, True),
        (f"a drawing of {with_article(thing)} on {with_article(back)} background", False, True),
        (f"{with_article(thing)} on {back}", False, True),
        (f"a {size} {thing}", True, False),
        (with_article(thing), False, False),
    )
    return phrasings[rng.integers(len(phrasings))]


@lru_cache(maxsize=1)
def _grid() -> tuple[Mask, Mask]:
    line = np.arange(SIZE, dtype=np.float32) + 0.5
    x, y = np.meshgrid(line, line)
    return x, y


def _polygon(x: Mask, y: Mask, points: list[tuple[float, float]]) -> Mask:
    """Signed distance to a polygon, negative inside (Quilez, "2D distance functions")."""
    squared = np.full_like(x, np.inf)
    sign = np.ones_like(x)
    for (ax, ay), (bx, by) in zip(points, points[-1:] + points[:-1]):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        squared = np.minimum(squared, (wx - ex * t) ** 2 + (wy - ey * t) ** 2)
        above, below, left = y >= ay, y < by, ex * wy > ey * wx
        sign = np.where((above & below & left) | (~above & ~below & ~left), -sign, sign)
    return sign * np.sqrt(squared)


def _ray(radius: float, turn: float) -> tuple[float, float]:
    """A point at `turn` of a full circle, clockwise from the top."""
    return radius * float(np.sin(2 * np.pi * turn)), -radius * float(np.cos(2 * np.pi * turn))


def _heart(x: Mask, y: Mask) -> Mask:
    """Signed distance to a heart with its tip at (0, 0) and its top near y = 1.1 (Quilez)."""
    x = np.abs(x)
    lobe = np.sqrt((x - 0.25) ** 2 + (y - 0.75) ** 2) - np.sqrt(2) / 4
    fold = 0.5 * np.maximum(x + y, 0.0)
    body = np.sqrt(np.minimum(x**2 + (y - 1.0) ** 2, (x - fold) ** 2 + (y - fold) ** 2)) * np.sign(x - y)
    return np.where(y + x > 1.0, lobe, body)


def signed_distance(shape: str, centre: tuple[float, float], radius: float) -> Mask:
    """`[128, 128]` distances in pixels to the edge of a shape, negative inside."""
    grid_x, grid_y = _grid()
    x, y = grid_x - centre[0], grid_y - centre[1]
    match shape:
        case "circle":
            return np.sqrt(x * x + y * y) - 0.95 * radius
        case "ring":
            return np.abs(np.sqrt(x * x + y * y) - 0.76 * radius) - 0.24 * radius
        case "square":
            side = 0.84 * radius
            return _polygon(x, y, [(-side, -side), (side, -side), (side, side), (-side, side)])
        case "triangle":
            return _polygon(x, y - 0.2 * radius, [_ray(1.2 * radius, i / 3) for i in range(3)])
        case "star":
            points = [_ray(radius * (1.1 if i % 2 == 0 else 0.48), i / 10) for i in range(10)]
            return _polygon(x, y, points)
        case "heart":
            scale = 1.72 * radius
            return _heart(x / scale, 0.55 - y / scale) * scale
    raise ValueError(f"no such shape: {shape}")


def paint(distance: Mask, colour: NDArray[np.float32], background: NDArray[np.float32]) -> Picture:
    """The picture: a soft edge, light from the upper left on the shape, a floor that darkens downwards."""
    x, y = _grid()
    cover = np.clip(0.5 - distance / (2 * EDGE), 0.0, 1.0)[..., None]
    light = (1.0 - 0.10 * (x + y) / (2 * SIZE))[..., None]
    floor = (1.0 - 0.06 * y / SIZE)[..., None]
    picture = cover * light * colour + (1.0 - cover) * floor * background
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def render(scene: Scene) -> Picture:
    """`[128, 128, 3]` bytes."""
    distance = signed_distance(scene.shape, scene.centre, scene.radius or RADIUS[scene.size])
    colour = np.asarray(PALETTE[scene.colour], np.float32)
    return paint(distance, colour, np.asarray(PALETTE[scene.background], np.float32))


def render_any_colour(scene: Scene, rng: np.random.Generator) -> Picture:
    """The scene's shape in two random colours: the VAE is to keep colours outside the palette too."""
    distance = signed_distance(scene.shape, scene.centre, scene.radius or RADIUS[scene.size])
    colour, background = rng.uniform(0, 255, size=(2, 3)).astype(np.float32)
    return paint(distance, colour, background)
