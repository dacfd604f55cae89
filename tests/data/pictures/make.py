"""Writes the pictures of this folder: one of each kind that a worker reads, made by Pillow (libjpeg-turbo, libwebp, zlib).

    python make.py
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parent
WIDTH, HEIGHT = 104, 72


def photo(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Waves, noise and a hard edge: blocks with few and with many coefficients."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 7 + y / 9), np.sin(x / 13 - y / 5 + 1), np.cos(x * y / 300)]
    picture = 128 + 70 * np.stack(waves, -1) + np.random.default_rng(7).normal(0, 9, (height, width, 3))
    picture[20:40, 30:70] = (250, 20, 40)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def interlaced(picture: Image.Image) -> bytes:
    """A PNG in Adam7's order, which Pillow reads and does not write."""
    pixels = np.asarray(picture)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(
        b"\0" + row.tobytes() for x, y, across, down in passes for row in pixels[y::down, x::across] if row.size
    )
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    )


def with_alpha(picture: Image.Image) -> Image.Image:
    alpha = np.linspace(0, 255, picture.width).round().astype(np.uint8)
    layered = picture.convert("RGBA")
    layered.putalpha(Image.fromarray(np.tile(alpha, (picture.height, 1))))
    return layered


def main() -> None:
    picture = photo()
    frames = [photo().rotate(turn) for turn in (90, 180)]
    jpeg = {
        "baseline": {"subsampling": 2},
        "progressive": {"subsampling": 2, "progressive": True},
        "restarts": {"subsampling": 0, "restart_marker_rows": 1},
        "progressive-restarts": {"subsampling": 1, "progressive": True, "restart_marker_blocks": 5},
    }
    for name, options in jpeg.items():
        picture.save(FOLDER / f"{name}.jpg", quality=80, **options)
    picture.convert("L").save(FOLDER / "grey.jpg", quality=80, optimize=True)
    picture.convert("CMYK").save(FOLDER / "cmyk.jpg", quality=80)
    picture.save(FOLDER / "lossy.webp", quality=80)
    picture.crop((0, 0, 80, 64)).save(FOLDER / "lossless.webp", lossless=True)
    with_alpha(picture).save(FOLDER / "alpha.webp", quality=80)
    picture.save(FOLDER / "animated.webp", quality=60, save_all=True, append_images=frames)
    small = picture.crop((0, 0, 80, 64))
    small.save(FOLDER / "rgb.png")
    (FOLDER / "interlaced.png").write_bytes(interlaced(small))
    small.save(FOLDER / "animated.png", save_all=True, append_images=[frame.crop((0, 0, 80, 64)) for frame in frames])
    palette = small.quantize(16)
    palette.save(FOLDER / "palette.png", transparency=3)
    with_alpha(small).convert("LA").save(FOLDER / "grey-alpha.png")
    Image.fromarray((np.asarray(small.convert("L")).astype(np.uint16) * 257)).save(FOLDER / "deep.png")


if __name__ == "__main__":
    main()
