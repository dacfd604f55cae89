#!/usr/bin/env python3
"""The `run` of a pack: unpacks it, installs what Python lacks here, and measures. All options are those of tools/gpu/run.py,
which `run --help` shows. Needs Python 3.11 or newer and nothing else."""

import hashlib
import importlib.metadata
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CANNOT_BEGIN = 2
# Installed whatever there is: others know other names and other networks.
PINNED = ("diffusers",)
# What a lean pack has not, and the project's tree has.
DATA = "tests/data/parity"
TREE = ("tools/gpu", "tools/compare", "tools/parity", "models/tiny-shapes", DATA)


def stop(why: str) -> None:
    print(f"the run cannot begin: {why}", file=sys.stderr)
    sys.exit(CANNOT_BEGIN)


def unpack(folder: Path) -> None:
    """Unpacks what was packed, whole or not at all."""
    listing, archive = HERE / "pack.json", HERE / "pack.tar.xz"
    for file in (listing, archive):
        if not file.exists():
            stop(f"{file} is missing: the pack is incomplete")
    wanted = json.loads(listing.read_text())
    size = archive.stat().st_size
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if size != wanted["bytes"] or found != wanted["sha256"]:
        stop(f"{archive} is not what was packed ({size} bytes, {wanted['bytes']} were packed): the pack is incomplete")
    with lzma.open(archive) as plain, tarfile.open(fileobj=plain) as files:
        files.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else files.extractall(folder)


def take_from_tree(folder: Path) -> None:
    """Of a lean pack, which lies in target/ of the project's tree: the rest."""
    if not json.loads((HERE / "pack.json").read_text())["lean"]:
        return
    tree = HERE.parent.parent
    for name in TREE:
        if not (tree / name).is_dir():
            stop(f"the pack was made with --lean and needs {name} of the project's tree, which is not at {tree}")
        shutil.copytree(tree / name, folder / name)


def is_wanted(wheel: Path) -> bool:
    """Whether Python has no such package, or not the pack's version of one that must be it."""
    name, version = wheel.name.split("-")[:2]
    try:
        there = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return True
    return name.lower() in PINNED and there != version


def install(wheels: Path, site: Path) -> dict[str, str]:
    """The environment in which Python finds the packages. Without them the run goes on, and says what it did not compare."""
    wanted = [str(wheel) for wheel in sorted(wheels.glob("*.whl")) if is_wanted(wheel)]
    if not wanted:
        return {}
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir",
        "--disable-pip-version-check", "--root-user-action=ignore", "--upgrade", "--target", str(site)]
    if subprocess.run([*command, *wanted], check=False).returncode:
        # One that is for another Python keeps none of the others away.
        for wheel in wanted:
            if subprocess.run([*command, wheel], check=False).returncode:
                print(f"{Path(wheel).name} could not be installed here", file=sys.stderr)
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def main() -> int:
    begun = time.time()
    if sys.version_info < (3, 11):
        stop(f"Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}")
    folder = Path(tempfile.mkdtemp(prefix="gpu-pack-"))
    try:
        unpack(folder)
        take_from_tree(folder)
        # What was needed so far counts.
        environment = os.environ | {"GPU_PACK_BEGUN": str(begun)} | install(folder / "wheels", folder / "site")
        child = subprocess.Popen([sys.executable, str(folder / "tools/gpu/run.py"), *sys.argv[1:]], env=environment)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: child.send_signal(number))
        return child.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
