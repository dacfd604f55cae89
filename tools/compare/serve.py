"""PyTorch with diffusers, or OpenVINO, behind the lines that `benches/parts.rs --serve` understands:

    serve.py torch    --model FOLDER --inputs FILE
    serve.py openvino --models FOLDER --inputs FILE
    serve.py draw     --model FOLDER --device cuda|cpu --dtype f16|f32 [--compile]

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

RUN = dict(prompt="a red circle on the blue", negative_prompt="the circle", guidance_scale=7.5)
DTYPES = dict(f16=torch.float16, bf16=torch.bfloat16, f32=torch.float32)


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


class Pictures:
    """Whole pictures by a pipeline of diffusers."""

    def __init__(self, args: argparse.Namespace) -> None:
        from diffusers import DiffusionPipeline

        self.device = args.device
        self.pipe = DiffusionPipeline.from_pretrained(args.model, dtype=DTYPES[args.dtype]).to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        # One picture after the other, as ours does it: the decoder's activations of many do not fit.
        self.pipe.vae.enable_slicing()
        if args.compile:
            torch._dynamo.config.recompile_limit = 64
            self.pipe.unet.to(memory_format=torch.channels_last)
            self.pipe.unet = torch.compile(self.pipe.unet, fullgraph=True, dynamic=False)

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def draw(self, pictures: int, steps: int, side: int, path: str | None) -> dict[str, float]:
        begun = self.now()
        names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
        embedded = self.pipe.encode_prompt(
            prompt=[RUN["prompt"]] * pictures, negative_prompt=[RUN["negative_prompt"]] * pictures,
            device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=True)
        encoded = denoised = self.now()

        def keep_time(_pipe, _step, _timestep, values):
            nonlocal denoised
            denoised = self.now()
            return values

        generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(pictures)]
        images = self.pipe(
            **dict(zip(names, embedded)), num_inference_steps=steps, guidance_scale=RUN["guidance_scale"], width=side,
            height=side, output_type="np", generator=generators, callback_on_step_end=keep_time).images
        finished = self.now()
        if path:
            write((images * 255).round().astype(numpy.uint8), path)
        if self.device == "cuda":
            # What is kept for the next call would be missing for the other processes on the GPU.
            torch.cuda.empty_cache()
        return dict(begin=encoded - begun, steps=denoised - encoded, finish=finished - denoised)


def answer(server: Torch | OpenVino | Pictures, line: str) -> dict[str, float]:
    command, *words = line.split()
    if command == "draw":
        pictures, steps, side, *path = words
        return server.draw(int(pictures), int(steps), int(side), path[0] if path else None)
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
    parser.add_argument("kind", choices=["torch", "openvino", "draw"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--inputs", type=Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="f32", choices=list(DTYPES))
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    server = dict(torch=Torch, openvino=OpenVino, draw=Pictures)[args.kind](args)
    print(json.dumps(dict(ready=True)), flush=True)
    for line in sys.stdin:
        try:
            said = answer(server, line)
        except Exception as error:  # whatever a library throws is an answer
            said = dict(error=f"{type(error).__name__}: {error}"[:500])
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
