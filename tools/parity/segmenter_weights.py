"""Weights of Segment Anything by a rule, so that nobody has to commit them. `tests/support/segmenter.rs` is the same in Rust."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

SPREAD = ("embed.weight", "pos_embed", "token", "rel_pos", "gaussian", "embeddings", "attention_biases")


def scrambled(count: int, name: str) -> np.ndarray:
    """Numbers from -1 to 1: splitmix64, begun with the FNV-1a of the name."""
    with np.errstate(over="ignore"):
        seed = np.uint64(0xCBF29CE484222325)
        for byte in name.encode():
            seed = (seed ^ np.uint64(byte)) * np.uint64(0x100000001B3)
        z = seed + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def numbers(name: str, shape: list[int]) -> np.ndarray:
    """A tensor by its name and its shape."""
    drawn = scrambled(int(np.prod(shape)), name)
    if name.endswith("running_var"):
        drawn = 1 + 0.5 * drawn
    elif any(part in name for part in SPREAD):
        drawn = 0.5 * drawn
    elif len(shape) == 1:
        drawn = (1 if name.endswith(".weight") else 0) + 0.1 * drawn
    else:
        # Half of what would keep the variance: a network of random weights that does makes much of little differences.
        drawn = drawn * np.sqrt(0.75 / np.prod(shape[1:]))
    return drawn.astype(np.float32).reshape(shape)


def write(shapes: Path, file: Path) -> None:
    """Writes the tensors whose shapes a file tells, as safetensors."""
    header: dict[str, object] = {}
    parts: list[bytes] = []
    end = 0
    for name, shape in json.loads(shapes.read_text()).items():
        parts.append(numbers(name, shape).astype("<f4").tobytes())
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + len(parts[-1])]}
        end += len(parts[-1])
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
