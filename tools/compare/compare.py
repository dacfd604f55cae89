"""Ours, PyTorch with diffusers, and OpenVINO on one CPU and one checkpoint, in turns, in one run:

    compare.py FOLDER [--model CHECKPOINT] [--rounds N] [--threads N] [--parts unet,vae,text] [--ours PROGRAM]

FOLDER keeps a random checkpoint of Stable Diffusion 1.5's size (4 GB, made once, unless --model names another one), its
conversion for OpenVINO, inputs and outputs. Everything is f32. Prints seconds, ratios, peak memory, and how far the
outputs are from each other, as Markdown."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy
import psutil
from safetensors.numpy import load_file, save_file

import peers
from networks import PARTS

NAMES = dict(
    unet="UNet, a step with guidance", vae="VAE decode", text="text encoder, two prompts")
GIB = 2**30


def make_checkpoint(folder: Path, kind: str, dtype: str) -> None:
    """A random checkpoint of real size, made in a process of its own whose memory is then free again."""
    if (folder / "model_index.json").exists():
        return
    print(f"making {folder}", file=sys.stderr)
    code = f"import torch, real_size; real_size.save(real_size.{kind}, r'{folder}', torch.{dtype})"
    subprocess.run([sys.executable, "-c", code], cwd=peers.ROOT / "tools/parity", check=True)


def make_inputs(model: Path, path: Path) -> None:
    """Two samples for the UNet, one for the decoder, two prompts, by the checkpoint's own sizes."""
    unet = json.loads((model / "unet/config.json").read_text())
    text = json.loads((model / "text_encoder/config.json").read_text())
    random = numpy.random.default_rng(1)
    side, tokens = unet["sample_size"], text["max_position_embeddings"]

    def normal(*shape: int) -> numpy.ndarray:
        return random.standard_normal(shape, dtype=numpy.float32)

    save_file({
        "unet.latents": normal(2, unet["in_channels"], side, side),
        "unet.timesteps": numpy.full(2, 500, dtype=numpy.float32),
        "unet.text": normal(2, tokens, unet["cross_attention_dim"]),
        "vae.latents": normal(1, unet["out_channels"], side, side),
        "text.ids": random.integers(text["vocab_size"] - 2, size=(2, tokens)),
    }, path)


def measure(running: list[peers.Peer], part: str, rounds: int, outputs: Path) -> dict[str, list[float]]:
    """Seconds of each round. One before them is not counted: it loads and tunes, and writes the output down."""
    seconds: dict[str, list[float]] = {peer.name: [] for peer in running}
    for peer in running:
        peer.ask(f"{part} {outputs}/{part}.{peer.name}.safetensors")
    for _ in range(rounds):
        for peer in running:
            seconds[peer.name].append(peer.ask(part)["seconds"])
    return seconds


def spread(values: list[float]) -> str:
    digits = 3 if median(values) < 1 else 2
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratio(ours: list[float], other: list[float]) -> str:
    each = [a / b for a, b in zip(ours, other)]
    return f"{median(ours) / median(other):.2f} ({min(each):.2f} to {max(each):.2f})"


def differences(part: str, names: list[str], outputs: Path) -> list[str]:
    values = {name: load_file(outputs / f"{part}.{name}.safetensors")["output"] for name in names}
    rows = []
    for i, a in enumerate(names):
        for b in names[i + 1:]:
            apart = values[a] - values[b]
            relative = numpy.linalg.norm(apart) / numpy.linalg.norm(values[b])
            rows.append(f"| {NAMES[part]} | {a}, {b} | {relative:.1e} | {numpy.abs(apart).max():.1e} |")
    return rows


def machine(threads: int) -> str:
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "openvino"))
    return f"{model}, {os.cpu_count()} cores, {threads} threads, {psutil.virtual_memory().total / GIB:.0f} GiB; {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="a checkpoint like Stable Diffusion 1 in the diffusers layout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--parts", default=",".join(PARTS), help="of unet, vae, text; fewer need less memory")
    parser.add_argument("--ours", type=Path, help="the benchmark `parts`; built in release without this")
    args = parser.parse_args()
    parts = [part for part in PARTS if part in args.parts.split(",")]
    if not parts or args.rounds < 1:
        parser.error("there is nothing to measure")
    folder = args.folder.resolve()
    model = (args.model or folder / "sd15-f32").resolve()
    own = folder / f"{model.name}-{hashlib.sha256(str(model).encode()).hexdigest()[:8]}"
    converted, outputs, inputs = own / "openvino", own / "outputs", own / "inputs.safetensors"
    for made in (converted, outputs):
        made.mkdir(parents=True, exist_ok=True)
    if args.model is None:
        make_checkpoint(model, "sd15", "float32")
    make_inputs(model, inputs)
    program = args.ours or peers.build_ours()
    subprocess.run(peers.python("networks.py", str(model), str(inputs), str(converted)), check=True)

    commands = {
        "ours": peers.ours(program, model, "--inputs", str(inputs)),
        "PyTorch": peers.python("serve.py", "torch", "--model", str(model), "--inputs", str(inputs)),
        "OpenVINO": peers.python("serve.py", "openvino", "--models", str(converted), "--inputs", str(inputs)),
    }
    running = []
    try:
        for name, command in commands.items():
            running.append(peers.Peer(name, command, args.threads))
        seconds = {part: measure(running, part, args.rounds, outputs) for part in parts}
        memory = [f"{peer.name} {peer.peak_bytes() / GIB:.2f} GiB" for peer in running]
    except peers.PeerError as error:
        sys.exit(str(error))
    finally:
        for peer in running:
            peer.close()

    print(f"{machine(args.threads)}; {args.rounds} rounds in turns, seconds as median (least to most)\n")
    print("| | ours | PyTorch | OpenVINO | ours / PyTorch | ours / OpenVINO |\n|---|---|---|---|---|---|")
    for part in parts:
        ours, torch, openvino = (seconds[part][name] for name in commands)
        print(
            f"| {NAMES[part]} | {spread(ours)} | {spread(torch)} | {spread(openvino)} "
            f"| {ratio(ours, torch)} | {ratio(ours, openvino)} |")
    print(f"\nPeak memory: {', '.join(memory)}\n")
    print("| outputs | between | relative L2 | largest difference |\n|---|---|---|---|")
    for part in parts:
        print("\n".join(differences(part, list(commands), outputs)))


if __name__ == "__main__":
    main()
