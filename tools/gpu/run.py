#!/usr/bin/env python3
"""Everything that a GPU is wanted for, in one run of at most nine minutes: what machine it is, whether its pictures are
right, whole jobs, how fast it is, and where the time goes.

    run.py [--cpu] [--only PART,...] [--limit SECONDS] [--out FOLDER] [--programs FOLDER]

Writes results.json after every row, results.md after every part, and log.txt. Exit code 1 where a picture or a job is not
what it must be, 2 where the run could not begin."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import budget
import libraries
import places
from child import Child
from part import Settings
from report import SKIPPED, Report, Row

CANNOT_BEGIN = 2
# Memory that takes the checkpoints of real size, where it has so much room; they are read faster than from a disk.
MEMORY, ROOM = Path("/dev/shm"), 45 << 30
# The end of the log is what is kept of it.
LOG_BYTES = 8 << 20
# No library asks the network, and none draws bars into the log.
QUIET = {
    "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="with sd-worker-cpu and small checkpoints, to test this")
    parser.add_argument("--only", default=",".join(budget.NAMES), metavar="PART,...", help="of %(default)s")
    parser.add_argument("--limit", type=float, default=budget.WHOLE, metavar="SECONDS", help="of the whole run (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "gpu-results"), metavar="FOLDER")
    parser.add_argument("--programs", type=Path, default=places.ROOT / "programs", metavar="FOLDER")
    args = parser.parse_args()
    args.only = [name for name in args.only.split(",") if name]
    if unknown := [name for name in args.only if name not in budget.NAMES]:
        parser.error(f"{unknown[0]} is no part; there are {', '.join(budget.NAMES)}")
    if not args.only or args.limit < 10:
        parser.error("there is nothing to do: name a part, and 10 seconds at least")
    return args


def complaints(args: argparse.Namespace, settings: Settings) -> list[str]:
    """Why the run cannot begin."""
    names = ["sd-worker-cpu", "queen-rbee"] if args.cpu else ["sd-worker-cuda", "queen-rbee", "parts"]
    missing = [name for name in names if settings.program(name) is None]
    if places.nats_server(args.programs) is None:
        missing.append("nats-server")
    found = [f"{name} is not in {args.programs}" for name in missing]
    if not places.DATA.is_dir():
        found.append(f"the small checkpoints are not in {places.DATA}")
    if not args.cpu and not found:
        there = [Path(folder) for folder in settings.libraries]
        built = places.built_for()
        found += libraries.complaints(settings.program("sd-worker-cuda"), there, settings.environment(), built)
    return found


def place_for_models(scratch: Path) -> Path:
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        return Path(tempfile.mkdtemp(prefix="gpu-models-", dir=MEMORY))
    return scratch / "models"


def measure(args: argparse.Namespace, settings: Settings, report: Report) -> None:
    """Part after part; whatever becomes of one, the next begins."""
    saved = Path(settings.scratch) / "settings.json"
    settings.save(saved)
    log = args.out / "log.txt"
    spent = time.time() - float(os.environ.get("GPU_PACK_BEGUN") or time.time())
    left = budget.Budget(args.limit - spent, args.only)
    running: list[Child] = []
    # Checkpoints are made and compiled for while others are at work.
    early = not args.cpu and "speed" in args.only
    try:
        if early:
            running.append(Child("prepare", saved, left.left(), report, log))
        for name in budget.NAMES:
            if name not in args.only:
                continue
            if name in ("speed", "where"):
                while running:
                    running.pop().stop("stopped: speed begins")
            limit = left.begin(name)
            if limit is None:
                report.add(Row(name, "Part", name, verdict=SKIPPED, note=f"{left.left():.0f} s were left of the run"))
                report.end(name, 0.0, "not begun: no time was left")
                continue
            print(f"== {name}, at most {limit:.0f} s", file=sys.stderr, flush=True)
            running.append(Child(name, saved, limit, report, log))
            print(f"== {name}: {running[-1].wait()}", file=sys.stderr, flush=True)
            running.pop()
    finally:
        for child in running:
            child.stop("stopped with the run")


def interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    args = arguments()
    args.out, args.programs = args.out.resolve(), args.programs.resolve()
    os.environ |= QUIET
    signal.signal(signal.SIGTERM, interrupted)
    scratch = Path(tempfile.mkdtemp(prefix="gpu-run-"))
    models = place_for_models(scratch) if not args.cpu else scratch / "models"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "inductor")
    try:
        settings = Settings(
            "cpu" if args.cpu else "cuda", str(args.programs), str(args.out), str(scratch), str(models),
            () if args.cpu else tuple(map(str, libraries.folders())))
        if found := complaints(args, settings):
            print("\n".join(["the run cannot begin:", *found]), file=sys.stderr)
            return CANNOT_BEGIN
        for old in ("log.txt", "worst.png", "results.md"):
            (args.out / old).unlink(missing_ok=True)
        report = Report(args.out, dict(device=settings.device, begun=time.strftime("%Y-%m-%d %H:%M:%S"), limit=f"{args.limit:.0f} s"))
        begun, cut = time.monotonic(), False
        try:
            measure(args, settings, report)
        except KeyboardInterrupt:
            cut = True
        report.close(time.monotonic() - begun)
        shorten(args.out / "log.txt")
        print(report.markdown())
        failures = report.failures()
        print("\n".join([f"{args.out}: results.md, results.json, log.txt", *failures]), file=sys.stderr)
        return 1 if failures or cut else 0
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(models, ignore_errors=True)


def shorten(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES:
        with log.open("rb") as file:
            file.seek(-LOG_BYTES, os.SEEK_END)
            end = file.read()
        log.write_bytes(end)


if __name__ == "__main__":
    sys.exit(main())
