"""Safetensors files without PyTorch: what a picture, a mask or one layer of a small checkpoint needs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy

KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "U8": "u1", "I64": "<i8", "I32": "<i4"}

# A norm follows this layer: in f32 its scale makes no difference, and in f16 what leaves it is no number any more.
BEFORE_A_NORM = "decoder.mid_block.resnets.0.conv1.weight"
VAE_WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@dataclass
class Tensor:
    """A tensor as it lies in its file."""

    dtype: str
    shape: list[int]
    content: bytes

    def array(self) -> numpy.ndarray:
        return numpy.frombuffer(self.content, KINDS[self.dtype]).reshape(self.shape)

    @staticmethod
    def of(array: numpy.ndarray) -> Tensor:
        dtype = next(name for name, kind in KINDS.items() if numpy.dtype(kind) == array.dtype)
        return Tensor(dtype, list(array.shape), numpy.ascontiguousarray(array).tobytes())


def read(path: Path) -> dict[str, Tensor]:
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:begin])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        tensors[name] = Tensor(entry["dtype"], entry["shape"], whole[begin + start:begin + end])
    return tensors


def header_of(tensors: dict[str, tuple[str, list[int], int]]) -> bytes:
    """What comes before the tensors of a file: of each its type, its shape and its bytes, in this order."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (dtype, shape, size) in tensors.items():
        entries[name] = dict(dtype=dtype, shape=shape, data_offsets=[place, place + size])
        place += size
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    header = header_of({name: (x.dtype, x.shape, len(x.content)) for name, x in tensors.items()})
    path.write_bytes(header + b"".join(x.content for x in tensors.values()))


def overflowing_copy(checkpoint: Path, copy: Path) -> None:
    """A checkpoint whose autoencoder computes what f16 cannot hold, and does not say so in its configuration."""
    shutil.copytree(checkpoint, copy)
    config = json.loads((copy / "vae/config.json").read_text())
    (copy / "vae/config.json").write_text(json.dumps(config | {"force_upcast": False}))
    tensors = read(copy / VAE_WEIGHTS)
    layer = tensors[BEFORE_A_NORM].array().astype("<f4") * 1e5
    tensors[BEFORE_A_NORM] = Tensor.of(layer.astype("<f4"))
    write(copy / VAE_WEIGHTS, tensors)
