"""The libraries that our programs link with: where they are looked for, where they are, and what is wrong with a machine."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SYSTEM = ("/usr/local/cuda/lib64", "/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/wsl/lib")
SMI = ("/usr/local/nvidia/bin", "/usr/bin", "/usr/lib/wsl/lib")
QUERY = "name,driver_version,memory.total,compute_cap,clocks.max.sm"


def site_packages() -> list[Path]:
    """Folders that hold PyTorch and, beside it, NVIDIA's wheels. Nothing is loaded to find them."""
    found = []
    for module in ("torch", "nvidia"):
        spec = importlib.util.find_spec(module)
        for place in (spec.submodule_search_locations or []) if spec else []:
            found.append(Path(place).parent)
    return list(dict.fromkeys(found))


def folders(environment: Mapping[str, str] = os.environ, sites: list[Path] | None = None) -> list[Path]:
    """Every folder that is there, in the order in which it is looked into: what somebody has set, NVIDIA's wheels, the
    system's."""
    said = [Path(folder) for folder in environment.get("LD_LIBRARY_PATH", "").split(":") if folder]
    wheels: list[Path] = []
    for site in site_packages() if sites is None else sites:
        wheels += sorted(site.glob("nvidia/*/lib"))
    there = [folder for folder in [*said, *wheels, *map(Path, SYSTEM)] if folder.is_dir()]
    return list(dict.fromkeys(there))


@dataclass(frozen=True)
class Linked:
    """What a program is linked with."""

    # Each library, and where it was found.
    libraries: dict[str, str | None]
    # Functions that the libraries found do not have: one of them is too old.
    missing_functions: list[str]

    @property
    def missing(self) -> list[str]:
        return [name for name, place in self.libraries.items() if place is None]


def linked(program: Path, environment: Mapping[str, str]) -> Linked:
    done = subprocess.run(
        ["ldd", "-r", str(program)], capture_output=True, text=True, env=dict(environment), timeout=60, check=False)
    return read_ldd(done.stdout + done.stderr)


def read_ldd(said: str) -> Linked:
    libraries: dict[str, str | None] = {}
    functions = []
    for line in said.splitlines():
        if match := re.match(r"\s*(\S+) => (not found|/\S+)", line):
            libraries[match[1]] = None if match[2] == "not found" else match[2]
        elif match := re.match(r"\s*undefined symbol:?\s*([^\s,]+)", line):
            functions.append(match[1])
        elif match := re.search(r"version `([^']+)' not found", line):
            functions.append(match[1])
    return Linked(libraries, functions)


def smi() -> str | None:
    """nvidia-smi, which comes with the driver."""
    return shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=":".join(SMI))


def card(program: str) -> dict[str, str]:
    """What the driver says of the first GPU, by the names of `QUERY`."""
    done = subprocess.run(
        [program, f"--query-gpu={QUERY}", "--format=csv,noheader", "--id=0"], capture_output=True, text=True,
        timeout=60, check=False)
    if done.returncode or not done.stdout.strip():
        said = (done.stdout + done.stderr).strip()[:300]
        raise OSError(f"{program} answers {done.returncode}: {said}")
    return dict(zip(QUERY.split(","), (value.strip() for value in done.stdout.splitlines()[0].split(","))))


def driver(there: list[Path]) -> str | None:
    """Where libcuda.so.1 is: of the folders, or the system's."""
    for folder in there:
        if (folder / "libcuda.so.1").exists():
            return str(folder / "libcuda.so.1")
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return "in the system"


def complaints(program: Path, there: list[Path], environment: Mapping[str, str], built_for: int | None) -> list[str]:
    """What keeps our program from running on this machine's GPU, a sentence each."""
    looked = ", ".join(map(str, there)) or "no folder at all"
    tool = smi()
    if tool is None:
        return [f"there is no driver of NVIDIA's: nvidia-smi is not on PATH and not in {', '.join(SMI)}"]
    if driver(there) is None:
        return [f"there is no driver of NVIDIA's: libcuda.so.1 is not in the system; looked for in {looked}"]
    found = []
    try:
        said = card(tool)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"there is no GPU that answers: {error}"]
    capability = said.get("compute_cap", "")
    if built_for and re.fullmatch(r"\d+\.\d+", capability) and int(capability.replace(".", "")) < built_for:
        wanted = f"{built_for // 10}.{built_for % 10}"
        found.append(
            f"the card ({said['name']}) has compute capability {capability}, and the programs were built for {wanted}: "
            f"make the pack with --cap {capability.replace('.', '')}")
    links = linked(program, environment)
    found += [f"{name}, which {program.name} needs, was not found; looked for in {looked}" for name in links.missing]
    if links.missing_functions and not links.missing:
        names = ", ".join(links.missing_functions[:5])
        found.append(f"a library is too old for {program.name}; it has no {names}; looked for in {looked}")
    return found
