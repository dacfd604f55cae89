"""What machine this is: the card, the driver, and the libraries that our programs link with and where they are."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import libraries
from part import Part
from report import FAILED

PACKAGES = ("torch", "triton", "transformers", "diffusers", "accelerate", "safetensors", "peft", "nvidia-cudnn-cu13", "nvidia-cublas")
CARD = {
    "name": "card", "driver_version": "driver", "memory.total": "memory", "compute_cap": "compute capability",
    "clocks.max.sm": "highest clock"}


def processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def first_line(command: list[str], starts: str = "") -> str | None:
    """The first line that a program prints and that starts so."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next((line.strip() for line in done.stdout.splitlines() if line.strip().startswith(starts)), None)


def run(part: Part) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = {
        "processor": f"{processor()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB",
        "system": f"{platform.platform()}, Python {platform.python_version()}",
    }
    settings = part.settings
    if settings.on_gpu and (smi := libraries.smi()):
        facts |= {CARD[name]: value for name, value in libraries.card(smi).items()}
        facts["CUDA that the driver has"] = driver_cuda(smi)
        facts["nvcc"] = first_line(["nvcc", "--version"], "Cuda compilation")
    for name, value in facts.items():
        part.row("Machine", name, dict(value=value or "not found"))
    for package in PACKAGES:
        try:
            part.row("Python packages", package, dict(version=version(package)))
        except PackageNotFoundError:
            part.row("Python packages", package, dict(version="not installed"))
    looked = ", ".join(settings.libraries) or "the system's folders"
    for name in (f"sd-worker-{settings.device}", "parts"):
        program = settings.program(name)
        if program is None:
            part.row("Libraries", name, note="the program is not there")
            continue
        links = libraries.linked(program, settings.environment())
        for library, place in links.libraries.items():
            found = place or f"not found; looked for in {looked}"
            part.row("Libraries", library, dict(where=found), "" if place else FAILED)
        for function in links.missing_functions:
            part.row("Libraries", f"{name} needs {function}", verdict=FAILED, note="no library has it")
        if name.startswith("sd-worker"):
            done = subprocess.run(
                [str(program), "--version"], capture_output=True, text=True, env=settings.environment(), timeout=60,
                check=False)
            part.row("Libraries", f"{name} --version", dict(where=(done.stdout + done.stderr).strip()[:300]))


def driver_cuda(smi: str) -> str | None:
    """The version of CUDA in the table that nvidia-smi prints."""
    done = subprocess.run([smi], capture_output=True, text=True, timeout=60, check=False)
    _, found, after = done.stdout.partition("CUDA Version:")
    return after.split()[0] if found and after.split() else None
