"""Makes everything anew and fails where it has drifted from what is committed: `check.py ../../tests/data/parity`.

Tensors may differ by what other threads and processors make of the rounding (diffusers against itself with one thread and
with two: relative L2 up to 1.4e-5); whatever is not a number must be the same."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

TENSOR, NUMBER = 1e-4, 1e-5  # relative L2 of a tensor, relative difference of a number


def tensors_differ(a, b):
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype} {tuple(a.shape)}, committed {b.dtype} {tuple(b.shape)}"
    if not a.is_floating_point():
        # Pictures are rounded: one step of 255 is the rounding of a processor.
        return None if (a.long() - b.long()).abs().max() <= (1 if a.dtype == torch.uint8 else 0) else "values"
    a, b = a.double(), b.double()
    error = float((a - b).norm() / b.norm().clamp_min(1e-12))
    return None if error <= TENSOR else f"relative L2 {error:.1e}"


def values_differ(a, b):
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() != b.keys() or any(values_differ(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) != len(b) or any(map(values_differ, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) > NUMBER * max(1.0, abs(b))
    return a != b


def drift(made: Path, committed: Path):
    if not made.exists():
        yield "is no longer made"
    elif made.suffix == ".safetensors":
        new, old = load_file(made), load_file(committed)
        if new.keys() != old.keys():
            yield f"other tensors: {sorted(new.keys() ^ old.keys())[:5]}"
        for name in new.keys() & old.keys():
            if difference := tensors_differ(new[name], old[name]):
                yield f"{name}: {difference}"
    elif made.suffix == ".json":
        if values_differ(json.loads(made.read_text()), json.loads(committed.read_text())):
            yield "other values"
    elif made.read_bytes() != committed.read_bytes():
        yield "other bytes"


def main():
    committed = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([sys.executable, Path(__file__).with_name("make.py"), made], check=True)
        made = Path(made)
        files = {path.relative_to(root) for root in (made, committed) for path in root.rglob("*") if path.is_file()}
        failures = 0
        for file in sorted(files):
            found = ["is not committed"] if not (committed / file).exists() else list(drift(made / file, committed / file))
            for what in found:
                print(f"{file}: {what}")
            failures += len(found)
        if failures:
            sys.exit(f"{failures} drifted")
        print(f"{len(files)} files are what they were")


if __name__ == "__main__":
    main()
