"""Colour profiles for tests, written by hand from the ICC specification (version 2, matrix and one curve): Pillow makes none
but sRGB, and its LittleCMS is to judge what a worker makes of them."""

from __future__ import annotations

import struct

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
Place = tuple[float, float]

D65: Place = (0.3127, 0.3290)
DISPLAY_P3: tuple[Place, ...] = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB: tuple[Place, ...] = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
PROPHOTO: tuple[Place, ...] = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))
PROPHOTO_WHITE: Place = (0.3457, 0.3585)


def xyz(place: Place) -> np.ndarray:
    x, y = place
    return np.array([x / y, 1.0, (1 - x - y) / y])


def colorants(primaries: tuple[Place, ...], white: Place) -> np.ndarray:
    """Columns: XYZ of red, green and blue, adapted to D50."""
    matrix = np.stack([xyz(place) for place in primaries], 1)
    matrix = matrix * np.linalg.solve(matrix, xyz(white))
    scale = (BRADFORD @ D50) / (BRADFORD @ xyz(white))
    return np.linalg.inv(BRADFORD) @ np.diag(scale) @ BRADFORD @ matrix


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def curve(gamma: float | None) -> bytes:
    """A power, or sRGB's curve as a table of 1,024 values."""
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    v = np.linspace(0, 1, 1024)
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    return b"curv" + bytes(4) + struct.pack(">I", 1024) + (linear * 65535).round().astype(">u2").tobytes()


def profile(name: str, tags: dict[bytes, bytes], kind: bytes) -> bytes:
    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(12 + 67),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + b"".join(fixed(value) for value in D50),
        **tags,
    }
    table, data, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", at + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(">I", at + len(data)) + bytes(4) + b"\x02\x40\0\0" + b"mntr" + kind + b"XYZ "
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += b"".join(fixed(value) for value in D50)
    return header.ljust(128, b"\0") + table + data


def rgb(name: str, primaries: tuple[Place, ...], white: Place, gamma: float | None) -> bytes:
    matrix = colorants(primaries, white)
    tags = {tag: curve(gamma) for tag in (b"rTRC", b"gTRC", b"bTRC")}
    for column, tag in enumerate((b"rXYZ", b"gXYZ", b"bXYZ")):
        tags[tag] = b"XYZ " + bytes(4) + b"".join(fixed(value) for value in matrix[:, column])
    return profile(name, tags, b"RGB ")


def grey(name: str, gamma: float) -> bytes:
    return profile(name, {b"kTRC": curve(gamma)}, b"GRAY")
