"""PyTorch with diffusers, or OpenVINO, behind the lines that `benches/parts.rs --serve` understands:

    serve.py torch    --model FOLDER --inputs FILE
    serve.py openvino --models FOLDER --inputs FILE

Answers with one line of JSON each. A network is loaded when it is first asked for."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from safetensors.numpy import load_file, save_file

import networks


def write(output: numpy.ndarray, path: str) -> None:
    # Of an array in another order than C's save_file would write the numbers as they lie.
    save_file({"output": numpy.ascontiguousarray(output)}, path)


class Torch:
    """The networks of a checkpoint in f32 on the CPU, as diffusers loads them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder = args.model
        self.inputs = {name: torch.from_numpy(value) for name, value in load_file(args.inputs).items()}
        self.loaded: dict[str, torch.nn.Module] = {}

    def part(self, name: str) -> Callable[[], numpy.ndarray]:
        if name not in self.loaded:
            self.loaded[name] = networks.load(self.folder, name)
        network, inputs = self.loaded[name], networks.inputs(name, self.inputs)
        return lambda: network(*inputs).numpy()


class OpenVino:
    """The same, converted by `networks.py`."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder = args.models
        self.inputs = load_file(args.inputs)
        self.loaded: dict[str, object] = {}

    def part(self, name: str) -> Callable[[], numpy.ndarray]:
        import openvino

        if name not in self.loaded:
            settings = {
                "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": int(os.environ["OMP_NUM_THREADS"]), "ENABLE_HYPER_THREADING": True}
            compiled = openvino.Core().compile_model(self.folder / f"{name}.xml", "CPU", settings)
            self.loaded[name] = compiled.create_infer_request()
        request, inputs = self.loaded[name], networks.inputs(name, self.inputs)

        def run() -> numpy.ndarray:
            request.infer(dict(enumerate(inputs)), share_inputs=True)
            return request.get_output_tensor(0).data

        return run


def answer(server: Torch | OpenVino, line: str) -> dict[str, float]:
    command, *words = line.split()
    run = server.part(command)
    begun = time.perf_counter()
    output = run()
    seconds = time.perf_counter() - begun
    if words:
        write(output, words[0])
    return dict(seconds=seconds)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["torch", "openvino"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--inputs", type=Path)
    args = parser.parse_args()
    server = dict(torch=Torch, openvino=OpenVino)[args.kind](args)
    print(json.dumps(dict(ready=True)), flush=True)
    for line in sys.stdin:
        try:
            said = answer(server, line)
        except Exception as error:  # whatever a library throws is an answer
            said = dict(error=f"{type(error).__name__}: {error}"[:500])
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
