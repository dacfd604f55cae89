"""Ours on a GPU beside diffusers (eager, and with torch.compile), in turns, in one run:

    gpu.py FOLDER [--ours PROGRAM] [--models sd15,sdxl] [--batches 1,4,8,16] [--steps N] [--rounds N] [--dtype f16]

First checks: pictures of ours on the GPU against ours on the CPU, and against diffusers'. Then times whole pictures,
512x512 of Stable Diffusion 1.5's size and 1024x1024 of SDXL's, with random weights, guidance on. Prints Markdown; exits 1
where a picture is farther off than the tolerance. FOLDER keeps the checkpoints (2 and 7 GB).
`--device cpu --model NAME=CHECKPOINT:SIDE` runs all of it on a CPU with another checkpoint, to test this script."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy
from safetensors.numpy import load_file

import peers
from compare import make_checkpoint, spread

# Of 255, in the mean of a picture, to ours on the CPU in f32: the same arithmetic in another order, and 11 or 8 bits.
TOLERANCES = dict(f32=0.1, f16=4.0, bf16=16.0)
SIDES = dict(sd15=512, sdxl=1024)
TITLES = dict(sd15="Stable Diffusion 1.5, 512x512", sdxl="SDXL, 1024x1024")
EAGER, COMPILED = "diffusers", "diffusers, torch.compile"


@dataclass
class Model:
    name: str
    folder: Path
    side: int

    @property
    def title(self) -> str:
        return TITLES.get(self.name, f"{self.name}, {self.side}x{self.side}")


def models(args: argparse.Namespace) -> list[Model]:
    if args.model:
        name, rest = args.model.split("=", 1)
        folder, side = rest.rsplit(":", 1)
        return [Model(name, Path(folder).resolve(), int(side))]
    chosen = [Model(name, args.folder.resolve() / f"{name}-f16", SIDES[name]) for name in args.models.split(",")]
    for model in chosen:
        make_checkpoint(model.folder, model.name, "float16")
    return chosen


def ours(args: argparse.Namespace, model: Model, device: str, dtype: str) -> peers.Peer:
    name = f"ours ({device}, {dtype})"
    return peers.Peer(
        name, peers.ours(args.ours, model.folder, "--device", device, "--dtype", dtype), args.threads)


def diffusers(args: argparse.Namespace, model: Model, dtype: str, *more: str) -> peers.Peer:
    command = peers.python(
        "serve.py", "draw", "--model", str(model.folder), "--device", args.device, "--dtype", dtype, *more)
    return peers.Peer(COMPILED if more else EAGER, command, args.threads)


def drawn(peer: peers.Peer, args: argparse.Namespace, model: Model) -> numpy.ndarray:
    """The first two pictures. 512 pixels are enough, of which a CPU needs a minute."""
    path = args.folder.resolve() / "check.safetensors"
    try:
        peer.ask(f"draw 2 {args.check_steps} {min(model.side, 512)} {path}")
    finally:
        peer.close()
    return load_file(path)["output"].astype(numpy.float32)


def check(args: argparse.Namespace, model: Model) -> bool:
    """Pictures against ours on the CPU in f32."""
    reference = drawn(ours(args, model, "cpu", "f32"), args, model)
    print(f"| {model.title} | to ours on the CPU in f32: mean of 255 | most | allowed in the mean | |\n|---|---|---|---|---|")
    good = True
    makers = {
        "ours, f32": ("f32", lambda: ours(args, model, args.device, "f32")),
        f"ours, {args.dtype}": (args.dtype, lambda: ours(args, model, args.device, args.dtype)),
        f"diffusers, {args.dtype}": (None, lambda: diffusers(args, model, args.dtype)),
    }
    for name, (dtype, start) in makers.items():
        apart = numpy.abs(drawn(start(), args, model) - reference)
        allowed = TOLERANCES.get(dtype)
        within = allowed is None or float(apart.mean()) <= allowed
        good &= within
        verdict = "" if allowed is None else "good" if within else "**too far**"
        print(f"| {name} | {apart.mean():.4f} | {apart.max():.0f} | {'' if allowed is None else allowed} | {verdict} |")
    print(flush=True)
    return good


def time_batch(
    running: list[peers.Peer], args: argparse.Namespace, model: Model, batch: int,
) -> dict[str, list[dict[str, float]] | str]:
    """The rounds of each, or why there are none. What ran before them was not counted: compilation, for one."""
    rounds: dict[str, list[dict[str, float]] | str] = {}
    for peer in running:
        try:
            peer.ask(f"draw {batch} {min(2, args.steps)} {model.side}")
            rounds[peer.name] = []
        except peers.PeerError as error:
            rounds[peer.name] = str(error)
    for _ in range(args.rounds):
        for peer in running:
            if isinstance(rounds[peer.name], list):
                try:
                    rounds[peer.name].append(peer.ask(f"draw {batch} {args.steps} {model.side}"))
                except peers.PeerError as error:
                    rounds[peer.name] = str(error)
    return rounds


def times(args: argparse.Namespace, model: Model) -> None:
    running = []
    try:
        running.append(ours(args, model, args.device, args.dtype))
        running.append(diffusers(args, model, args.dtype))
        if not args.no_compile:
            running.append(diffusers(args, model, args.dtype, "--compile"))
        print(f"| {model.title}, {args.dtype}, {args.steps} steps | batch | steps/s | images/s | VAE decode, s | ours / this |")
        print("|---|---|---|---|---|---|")
        for batch in args.batches:
            rounds = time_batch(running, args, model, batch)
            own = rounds[running[0].name]
            for peer in running:
                print(row(peer.name, batch, rounds[peer.name], own, args.steps), flush=True)
        print(flush=True)
    finally:
        for peer in running:
            peer.close()


def total(one: dict[str, float]) -> float:
    return one["begin"] + one["steps"] + one["finish"]


def row(name: str, batch: int, rounds: list | str, own: list | str, steps: int) -> str:
    """A step is one of the whole batch."""
    if isinstance(rounds, str):
        return f"| {name} | {batch} | {rounds[:120]} | | | |"
    rates = spread([steps / one["steps"] for one in rounds])
    images = spread([batch / total(one) for one in rounds])
    finish = spread([one["finish"] for one in rounds])
    faster = ""
    if isinstance(own, list):
        faster = f"{median(map(total, rounds)) / median(map(total, own)):.2f}"
    return f"| {name} | {batch} | {rates} | {images} | {finish} | {faster} |"


def about(device: str, threads: int) -> str:
    import torch

    name = f"CPU, {threads} threads"
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        name = subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    from diffusers import __version__ as version

    return f"{name}; torch {torch.__version__}, diffusers {version}; median (least to most)\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ours", type=Path, help="the benchmark `parts`; built with --features cuda without this")
    parser.add_argument("--models", default="sd15,sdxl")
    parser.add_argument("--model", help="NAME=CHECKPOINT:SIDE in place of --models")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--dtype", default="f16", choices=list(TOLERANCES))
    parser.add_argument("--batches", default="1,4,8,16", type=lambda text: [int(word) for word in text.split(",")])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--check-steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    args.ours = args.ours or peers.build_ours("cuda" if args.device == "cuda" else "")
    chosen = models(args)
    print(about(args.device, args.threads))
    try:
        good = all([check(args, model) for model in chosen])
        for model in chosen:
            times(args, model)
    except peers.PeerError as error:
        sys.exit(str(error))
    if not good:
        sys.exit("a picture is farther from the CPU's than is allowed")


if __name__ == "__main__":
    main()
