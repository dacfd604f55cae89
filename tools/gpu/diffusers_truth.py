"""How far diffusers' pictures in half precision are from its own in f32 on the same device, case by case.

The class is for whoever wants to know; run as a program, `diffusers_truth.py DEVICE`, it draws them and prints a line of
JSON for each. PyTorch is loaded by the program only."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import places
from cases import OVERFLOW, Case, every
from part import Part, has
from report import NOT_COMPARED

NEEDED = ("torch", "diffusers", "transformers", "safetensors")
HALVES = ("f16", "bf16")
# A CPU takes seconds for each: there these show that it works.
ON_A_CPU = ("text_ddim", "lora_kohya", "xl_inpaint_channels", "text_dev")


class Diffusers:
    """The program, and what it has said so far."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._said: dict[tuple[str, str], float | str] = {}
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.heard: Callable[[str, str], None] = lambda _case, _dtype: None

    def __enter__(self) -> Diffusers:
        if missing := [module for module in NEEDED if not has(module)]:
            note = f"{missing[0]} is not installed here: not compared"
            self._part.row("Beside diffusers", "diffusers", verdict=NOT_COMPARED, note=note)
            return self
        self._process = subprocess.Popen(
            [sys.executable, str(places.HERE / "diffusers_truth.py"), self._part.settings.device],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def of(self, case: Case, dtype: str) -> float | str | None:
        return self._said.get((case.name, dtype))

    def wait(self, seconds: float) -> None:
        if self._reader:
            self._reader.join(max(0.0, seconds))

    def _read(self) -> None:
        assert self._process and self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                said = json.loads(line)
                self._said[said["case"], said["dtype"]] = said.get("mean", said.get("error", ""))
                self.heard(said["case"], said["dtype"])


def drawn(case: Case, device: str, dtype: str):
    """The picture of a case by diffusers, as tools/parity draws it."""
    import tempfile
    from pathlib import Path

    import torch
    from safetensors.torch import load_file

    import families
    import lora
    import matrix
    import runs

    kind = dict(f32=torch.float32, f16=torch.float16, bf16=torch.bfloat16)[dtype]
    if case.is_flux:
        import flux
        from diffusers import FluxPipeline

        pipe = FluxPipeline.from_pretrained(places.DATA / "flux" / case.model, torch_dtype=kind).to(device)
        flux.RUNS = [case.run]
        with tempfile.TemporaryDirectory() as folder:
            flux.runs({case.model: pipe}, Path(folder))
            return load_file(Path(folder) / "runs.safetensors")[f"{case.name}.image"].numpy()
    pipe = matrix.load(places.DATA / case.model)
    if pipe.text_encoder is not None:
        # clip_skip in diffusers 0.42.1 asks for an attribute that transformers 5 no longer has.
        pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder
    if loras := case.run.get("loras"):
        pipe.text_encoder.__dict__.pop("text_model", None)
        lora.apply(pipe, places.LORAS, loras)
    pipe.to(device, kind)
    out: dict = {}
    classes = families.XL if hasattr(pipe, "text_encoder_2") else families.SD
    runs.one(case.run, pipe, classes[case.run["source"]], out, quiet=True)
    return out[f"{case.name}.image"].numpy()


def draw_noise_in_f32() -> None:
    """diffusers draws noise in the pipeline's type, and in half precision PyTorch's generator gives other numbers: the
    pictures would be others. Here it is drawn in f32 and then rounded, as ours is."""
    import torch
    from diffusers.utils import torch_utils

    plain = torch_utils.randn_tensor

    def noise(shape, generator=None, device=None, dtype=None, layout=None):
        wide = plain(shape, generator=generator, device=device, dtype=torch.float32, layout=layout)
        return wide if dtype is None else wide.to(dtype)

    for name, module in list(sys.modules.items()):
        if name.startswith("diffusers.") and "randn_tensor" in vars(module):
            module.randn_tensor = noise


def compared(device: str) -> Iterator[dict]:
    import torch

    import flux, matrix  # noqa: E401, F401  every pipeline and scheduler is loaded before its noise is replaced
    from pictures import apart

    draw_noise_in_f32()
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    for case in every():
        if case.name == OVERFLOW or (device == "cpu" and case.name not in ON_A_CPU):
            continue
        wide = None
        for dtype in HALVES:
            try:
                wide = drawn(case, device, "f32") if wide is None else wide
                yield dict(case=case.name, dtype=dtype, mean=round(apart(drawn(case, device, dtype), wide).mean, 5))
            except Exception as error:  # whatever a library throws is what there is to say
                yield dict(case=case.name, dtype=dtype, error=f"{type(error).__name__}: {error}"[:160])


def main() -> None:
    import warnings

    warnings.simplefilter("ignore")
    # What libraries print goes where their warnings go.
    lines, sys.stdout = sys.stdout, sys.stderr
    for line in compared(sys.argv[1]):
        print(json.dumps(line), file=lines, flush=True)


if __name__ == "__main__":
    main()
