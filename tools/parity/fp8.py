"""Weights in fp8 with every form of scale, and what torch makes of them: `fp8.py OUTPUT_FOLDER` writes `fp8.safetensors`.

`NAME.weight` is to be read as `expected.NAME` in f32 and as `expected16.NAME` in f16: each number times the scale, in f32,
then narrowed."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

TYPES = dict(e4m3=torch.float8_e4m3fn, e5m2=torch.float8_e5m2)


def numbers(dtype):
    """Every number that the type has, `[16, 16]`."""
    bytes_ = torch.arange(256, dtype=torch.uint8)
    bytes_[~torch.isfinite(bytes_.view(dtype).float())] = 0
    return bytes_.view(dtype).reshape(16, 16)


def make(folder: Path):
    generator = torch.Generator().manual_seed(5)
    rows = torch.rand(16, generator=generator) + 0.01
    one = torch.tensor(0.0123)
    out = {}

    def weight(name, dtype, scale=None, scale_name="weight_scale", **more):
        out[f"{name}.weight"] = numbers(dtype)
        wide = out[f"{name}.weight"].float()
        if scale is not None:
            out[f"{name}.{scale_name}"] = scale
            wide = wide * (scale.float() if scale.numel() == 1 else scale.float().reshape(16, 1))
        out[f"expected.{name}"], out[f"expected16.{name}"] = wide, wide.half()
        for key, value in more.items():
            out[f"{name}.{key}"] = value

    quant = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    for name, dtype in TYPES.items():
        # A network with scales says nothing of one without.
        weight(f"vae.{name}", dtype)
        weight(f"old.{name}", dtype, one, "scale_weight", scale_input=torch.tensor(1.5))
        weight(f"new.{name}", dtype, one.reshape(1), input_scale=torch.tensor(0.5))
        weight(f"rows.{name}", dtype, rows.reshape(16, 1))
        weight(f"narrow.{name}", dtype, rows.half())
    weight("quant.e4m3", TYPES["e4m3"], one, comfy_quant=quant)
    out["scaled_fp8"] = torch.empty(0, dtype=TYPES["e4m3"])
    save_file({name: value.clone() for name, value in out.items()}, folder / "fp8.safetensors")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
