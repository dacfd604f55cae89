"""Makes a pack: one folder with all that a machine with a GPU needs, and `run`. scripts/gpu-pack calls it:

    pack.py --programs FOLDER --capability NUMBER --out FOLDER [--libraries FOLDER:...] [--lean]

FOLDER has the programs that scripts/build-cuda has built. The CPU's pictures are drawn here, by sd-worker-cpu."""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import cases
import places
import reference
import start
from part import Part, Settings

LIMIT = 60 << 20
# What a machine with PyTorch and transformers may lack. pip of there installs what it does lack, without dependencies.
WHEELS = (
    "diffusers==0.42.1", "nats-py==2.16.0", "peft==0.21.2", "accelerate==1.15.0", "importlib-metadata==10.2.0", "zipp==4.1.2",
    "filelock==4.3.1", "requests==2.34.2", "certifi==2026.10.19.post1", "charset-normalizer==3.5.3", "idna==3.20",
    "urllib3==2.8.0", "regex==2026.11.19", "pillow==13.0.0")
# Libraries that a nats-server may need: every Linux has them.
EVERYWHERE = ("libc.", "libpthread.", "libresolv.", "libdl.")
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")
# Both programs for the GPU hold the same kernels: a dictionary that reaches from one to the other keeps them once.
COMPRESSION = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 256 << 20}]
PROGRAMS = ("sd-worker-cuda", "parts", "queen-rbee")


def copy_programs(folder: Path, into: Path) -> None:
    into.mkdir()
    for name in PROGRAMS:
        program = places.program(folder, name)
        if program is None:
            sys.exit(f"{name} is not in {folder}: scripts/build-cuda --all builds it")
        shutil.copy(program, into / name)
        subprocess.run(["strip", str(into / name)], check=True)
    server = places.nats_server(folder)
    if server is None:
        sys.exit("nats-server is missing: install it from your system's packages")
    said = subprocess.run(["ldd", str(server)], capture_output=True, text=True, check=False)
    needed = [line.split()[0] for line in said.stdout.splitlines() if "=>" in line]
    if others := [name for name in needed if not name.startswith(EVERYWHERE)]:
        sys.exit(f"{server} needs {', '.join(others)}, which other machines may not have: take one that is linked statically")
    shutil.copy(server, into / "nats-server")
    subprocess.run(["strip", str(into / "nats-server")], check=False)


def copy_sources(into: Path) -> None:
    unwanted = shutil.ignore_patterns("__pycache__", "*.png")
    for folder in start.TREE:
        if folder == start.DATA:
            continue  # of which a part is enough
        shutil.copytree(places.ROOT / folder, into / folder, ignore=unwanted)


def copy_checkpoints(into: Path) -> None:
    data = into / "tests/data/parity"
    checkpoints = {case.model for case in cases.every()} - {cases.OVERFLOW, "schnell", "dev"}
    for name in [*sorted(checkpoints), "loras", "flux/schnell", "flux/dev"]:
        shutil.copytree(places.DATA / name, data / name)
    for name in {name for _, name, _, _ in cases.CHOSEN}:
        for end in (".json", ".safetensors"):
            shutil.copy(places.DATA / f"{name}{end}", data / f"{name}{end}")


def draw_references(programs: Path, libraries: list[str], scratch: Path, into: Path) -> None:
    """By a worker in a part of its own, whose rows nobody reads."""
    settings = Settings("cpu", str(programs), str(scratch), str(scratch), str(scratch), tuple(libraries))
    read, write = os.pipe()
    part = Part("pack", settings, time.time() + 3600, write)
    try:
        reference.draw(part, cases.every(), into)
    finally:
        os.close(read)


def download_wheels(into: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
        "--python-version", PYTHON, "--implementation", "cp", "--dest", str(into)]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    subprocess.run([*command, *WHEELS], check=True)
    for wheel in into.glob("*.whl"):
        store(wheel)


def store(wheel: Path) -> None:
    """The same wheel, not compressed: all of them together compress better."""
    plain = wheel.with_suffix(".plain")
    with zipfile.ZipFile(wheel) as packed, zipfile.ZipFile(plain, "w", zipfile.ZIP_STORED) as unpacked:
        for entry in packed.infolist():
            unpacked.writestr(entry.filename, packed.read(entry))
    plain.replace(wheel)


def compress(folder: Path, archive: Path) -> None:
    """Programs first, side by side."""
    with lzma.open(archive, "wb", format=lzma.FORMAT_XZ, filters=COMPRESSION) as plain:
        with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as files:
            for path in sorted(folder.iterdir(), key=lambda path: path.name != "programs"):
                files.add(path, path.name)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--capability", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--libraries", default="", help="folders in which sd-worker-cpu finds what it links with")
    parser.add_argument("--lean", action="store_true", help="without what the project's tree has: the tree goes there too")
    args = parser.parse_args()
    out = args.out.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        scratch, folder = Path(temporary) / "scratch", Path(temporary) / "pack"
        scratch.mkdir()
        folder.mkdir()
        copy_programs(args.programs.resolve(), folder / "programs")
        if not args.lean:
            copy_sources(folder)
            copy_checkpoints(folder)
        draw_references(args.programs.resolve(), [name for name in args.libraries.split(":") if name], scratch, folder / "references")
        download_wheels(folder / "wheels")
        (folder / "built.json").write_text(json.dumps(dict(capability=args.capability)))
        for name in sorted(path.name for path in folder.iterdir()):
            print(f"{name}: {size(folder / name) / 2**20:.1f} MiB", file=sys.stderr)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        compress(folder, out / "pack.tar.xz")
    content = (out / "pack.tar.xz").read_bytes()
    listing = dict(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), capability=args.capability, lean=args.lean)
    (out / "pack.json").write_text(json.dumps(listing))
    shutil.copy(places.HERE / "start.py", out / "run")
    (out / "run").chmod(0o755)
    if (packed := size(out)) > LIMIT:
        sys.exit(f"{out} has {packed / 2**20:.1f} MiB: at most {LIMIT >> 20} MiB are carried")
    print(f"{out}: {packed / 2**20:.1f} MiB", file=sys.stderr)


if __name__ == "__main__":
    main()
