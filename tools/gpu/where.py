"""Where the time goes: the kernels of one step of the UNet, by time and by count, of ours and of diffusers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from statistics import median

import kernels
import models
import places
from kernels import Kernel
from models import Model
from part import Part, has
from peers import Peer, PeerError, ours, python
from report import NOT_COMPARED, brief

# What the benchmark times as a whole, and how often.
PARTS = dict(unet="a UNet pass of two samples", vae="VAE decode", text="text encoder, two prompts")
ROUNDS = 5
# Lines of a table; the other kernels are one line.
NAMED = 20
NCU = ("/usr/local/cuda/bin", "/opt/nvidia/nsight-compute")
# Launches that are looked at: a step has fewer, and what loads the weights is among them.
MOST_LAUNCHES = 6000
OURS, DIFFUSERS = "ours", "diffusers"


def table(part: Part, title: str, seen: list[Kernel], microseconds: float, launches: int) -> None:
    part.row(title, "all kernels", {"launches": launches, "time, us": round(microseconds)})
    for place, kernel in enumerate(seen[:NAMED], 1):
        cells: dict[str, object] = {"launches": kernel.launches, "time, us": round(kernel.microseconds, 1)}
        if microseconds:
            cells["of all"] = f"{kernel.microseconds / microseconds:.1%}"
        part.row(title, f"{place}. {kernel.name[:110]}", cells)


def ncu() -> str | None:
    """Nsight Compute, which is a part of the toolkit."""
    if found := shutil.which("ncu") or shutil.which("ncu", path=NCU[0]):
        return found
    return next((str(path) for path in sorted(Path(NCU[1]).glob("*/ncu"), reverse=True)), None)


def by_profiler(part: Part, model: Model, tool: str, patience: float) -> str | None:
    """Why there is no table, if there is none."""
    file = part.scratch / f"{model.name}.csv"
    program = part.settings.program("parts")
    command = [
        tool, "--csv", "--page", "raw", "--metrics", kernels.METRIC, "--clock-control", "none", "--cache-control", "none",
        "--launch-count", str(MOST_LAUNCHES), "--log-file", str(file), *command_of_ours(part, model, program)]
    try:
        done = subprocess.run(
            command, input="unet\n", capture_output=True, text=True, env=part.settings.environment(), timeout=patience,
            check=False)
    except subprocess.TimeoutExpired:
        return f"ncu took more than {patience:.0f} s"
    said = file.read_text(errors="replace") if file.exists() else ""
    seen = kernels.read_ncu(said)
    if not seen:
        return f"ncu found no kernels: {(said + done.stderr)[-300:]}"
    title = f"{model.title}: kernels of loading and one UNet pass of two samples, ours, by ncu"
    table(part, title, seen, sum(one.microseconds for one in seen), sum(one.launches for one in seen))
    return None


def command_of_ours(part: Part, model: Model, program: Path | None) -> list[str]:
    assert program is not None
    return ours(program, model.folder, "--device", part.settings.device, "--dtype", model.dtype)


def by_ourselves(part: Part, model: Model, patience: float) -> str | None:
    """The parts of a picture, each waited for: what there is without a profiler."""
    program = part.settings.program("parts")
    try:
        peer = Peer(OURS, command_of_ours(part, model, program), os.cpu_count() or 1, part.settings.environment(), patience)
    except PeerError as error:
        return brief(error)
    try:
        seconds = {name: [peer.ask(name, patience)["seconds"] for _ in range(ROUNDS + 1)][1:] for name in PARTS}
    except (PeerError, KeyError) as error:
        return f"not available: {error}"
    finally:
        peer.close()
    parts = [Kernel(title, 1, 1e6 * median(seconds[name])) for name, title in PARTS.items()]
    title = f"{model.title}: parts of a picture, ours, the median of {ROUNDS}"
    table(part, title, parts, sum(one.microseconds for one in parts), len(parts))
    return None


def of_diffusers(part: Part, model: Model, patience: float) -> str | None:
    flags = ["--device", part.settings.device, "--dtype", model.dtype]
    command = python(str(places.HERE / "diffuse.py"), "--model", str(model.folder), *flags)
    try:
        peer = Peer(DIFFUSERS, command, os.cpu_count() or 1, seconds=patience)
    except PeerError as error:
        return brief(error)
    try:
        said = peer.ask(f"profile 2 {model.side}", patience)
    except PeerError as error:
        return brief(error)
    finally:
        peer.close()
    seen = [Kernel(one["name"], one["launches"], one["microseconds"]) for one in said["kernels"]]
    title = f"{model.title}: kernels of one UNet pass of two samples, diffusers"
    table(part, title, seen, said["microseconds"], said["launches"])
    return None


def run(part: Part) -> None:
    timed = models.timed(part.settings)
    tool = ncu() if part.settings.on_gpu else None
    with_torch = all(has(module) for module in models.NEEDED)
    with_ours = part.settings.program("parts") is not None
    if not with_torch:
        part.row("Peers", DIFFUSERS, verdict=NOT_COMPARED, note="PyTorch or diffusers is not installed here: not compared")
    if not with_ours:
        part.skip("Peers", OURS, "the benchmark `parts` is not among the programs")
    if tool is None:
        part.skip("Peers", "ncu", "there is no profiler here: ours are timed by parts")
    for model in timed:
        if why := models.make(part, model, part.left() / 3):
            part.skip(model.title, "all", why)
            continue
        if with_ours:
            why = by_profiler(part, model, tool, share(part)) if tool else "no profiler"
            if why and tool:
                part.skip(model.title, "ours, by ncu", why)
            if why and (why := by_ourselves(part, model, share(part))):
                part.skip(model.title, "ours, by parts", why)
        if with_torch and (why := of_diffusers(part, model, share(part))):
            part.skip(model.title, DIFFUSERS, why)


def share(part: Part) -> float:
    """Of the time that is left, what one attempt may take."""
    return max(1.0, min(60.0, 0.6 * part.left() - 2))
