#!/usr/bin/env python3
"""Measures pools of many sizes, with workers whose models only take time.

    run.py [--workers 10,100,300,1000] [--queens 1,4] [--servers 1,3] [--load half,full,flood] ...

Each pool is a run of tools/storm. Prints a line of JSON for each, then two Markdown tables, and a line MISSED for each goal
that a pool did not reach. Exit code 1, with VIOLATION lines, where a job did not come to one end with one result; 2 where a run
could not begin or a pool did not hold; 130 when it was stopped. Needs nats-py, as tests/wire/requirements.txt has it."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/storm"))

from cells import LOADS, Cell, cell  # noqa: E402
from processes import Died, Pool  # noqa: E402
from storm import Storm, tell  # noqa: E402
from tables import Row, markdown, missed  # noqa: E402

# Descriptors beside one connection a worker.
DESCRIPTORS = 512


def several(kind: Callable) -> Callable[[str], list]:
    return lambda text: [kind(part) for part in text.split(",")]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release", metavar="FOLDER", help="of the programs (%(default)s)")
    parser.add_argument("--workers", type=several(int), default=[10, 100, 300, 1000], metavar="N,...", help="with a slot each")
    parser.add_argument("--queens", type=several(int), default=[1, 4], metavar="N,...")
    parser.add_argument("--servers", type=several(int), default=[1], metavar="N,...", help="nats-servers with a copy each: 1 or 3")
    parser.add_argument("--load", type=several(str), default=["half", "full"], metavar="LOAD,...", help=", ".join(LOADS))
    parser.add_argument("--rate", type=float, default=30.0, metavar="N", help="jobs a second at half load (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="N", help="for which jobs are sent (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="of a job (%(default)s)")
    parser.add_argument("--flood", type=int, default=20_000, metavar="JOBS", help="that take no time (%(default)s)")
    parser.add_argument("--patience", type=float, default=180.0, metavar="SECONDS", help="without any event (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep the folders with store, streams and logs")
    args = parser.parse_args(given)
    if min(*args.workers, *args.queens, args.steps, args.flood) < 1 or args.rate <= 0 or not set(args.servers) <= {1, 3}:
        parser.error("--workers, --queens, --steps and --flood are 1 at least, --rate above 0, and --servers 1 or 3")
    if not set(args.load) <= set(LOADS):
        parser.error(f"--load is of {', '.join(LOADS)}")
    return args


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    for servers, queens, workers, load in itertools.product(args.servers, args.queens, args.workers, args.load):
        yield cell(
            workers, queens, servers, load, rate=args.rate, seconds=args.seconds, steps=args.steps, flood=args.flood)


async def measured(args: argparse.Namespace, cell: Cell, folder: Path) -> dict:
    task = asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    storm = argparse.Namespace(
        bin=args.bin, workers=cell.workers, jobs=cell.jobs, calm=0, streams=0, step_ms=cell.step_ms, steps=cell.steps,
        connections=16, asking=0, rate=cell.rate, patience=args.patience)
    model = f"sim://?step_ms={cell.step_ms}&size=64"
    with Pool(args.bin.resolve(), folder, cell.workers, model, 0, queens=cell.queens, servers=cell.servers) as pool:
        return await Storm(storm, pool).run()


def run(args: argparse.Namespace, cell: Cell) -> dict:
    folder = Path(tempfile.mkdtemp(prefix="pool-sim-"))
    try:
        return asyncio.run(measured(args, cell, folder))
    finally:
        if args.keep:
            tell(f"{folder} is kept")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def raise_limits(args: argparse.Namespace) -> None:
    """Open files: as many as this user may have. Programs that are started inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = max(args.workers) + DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Died(f"{wanted} files must be open at a time, and the hard limit is {hard} (ulimit -Hn)")


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    rows: list[Row] = []
    try:
        raise_limits(args)
        for name in ("queen-rbee", "sd-worker-cpu"):
            if not os.access(args.bin / name, os.X_OK):
                raise Died(f"{name} is not in {args.bin}")
        for one in cells(args):
            tell(f"{one.name}: {one.jobs} jobs")
            rows.append((one, run(args, one)))
            print(json.dumps(dict(pool=vars(one), **rows[-1][1])), flush=True)
    except Died as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped", file=sys.stderr)
        return 130
    print(f"\n{markdown(rows)}\n")
    for one, results in rows:
        for what in missed(one, results):
            print(f"MISSED {one.name}: {what}")
        for line in results["violations_first"]:
            print(f"VIOLATION {one.name}: {line}")
    return 1 if any(results["violations"] for _, results in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
