#!/usr/bin/env python3
"""Measures a pool at size, with models that only take time: one nats-server, two queens, real workers.

    run.py [--bin FOLDER] [--workers N] [--jobs N] [--streams N] [--step-ms N] ...

Prints one line of JSON and a Markdown table. Exit code 1, with VIOLATION lines, where a job did not come to one end with
one result; 2 where the run could not begin or the pool did not hold. Needs nats-py, as tests/wire/requirements.txt has it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from processes import Died, Pool
from report import markdown
from storm import PRINTED, Storm, tell

ROOT = Path(__file__).resolve().parents[2]
# Descriptors beside those of streams.
DESCRIPTORS = 512


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = dict(type=int, metavar="N")
    parser.add_argument(
        "--bin", type=Path, default=ROOT / "target/release", metavar="FOLDER", help="of the programs (%(default)s)")
    parser.add_argument("--workers", default=200, help="with one slot each (%(default)s)", **number)
    parser.add_argument("--jobs", default=20_000, help="sent as fast as they are taken (%(default)s)", **number)
    parser.add_argument("--calm", default=100, help="jobs sent before, ten a second (%(default)s)", **number)
    parser.add_argument("--streams", default=1000, help="open on one queen at a time (%(default)s)", **number)
    parser.add_argument("--step-ms", default=200, help="milliseconds of a denoising step (%(default)s)", **number)
    parser.add_argument("--steps", default=10, help="of a job (%(default)s)", **number)
    parser.add_argument("--connections", default=16, help="that send jobs, to both queens by turns (%(default)s)", **number)
    parser.add_argument(
        "--asking", default=4, help="connections that ask about jobs, each 20 times a second (%(default)s)", **number)
    parser.add_argument("--rate", type=float, default=0.0, metavar="N", help="jobs sent a second; 0: no limit (%(default)s)")
    parser.add_argument(
        "--patience", type=float, default=180.0, metavar="SECONDS",
        help="without any event, until the run is given up (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep the folder with store, streams and logs")
    args = parser.parse_args()
    if min(args.workers, args.jobs, args.connections, args.steps) < 1:
        parser.error("--workers, --jobs, --connections and --steps are 1 at least")
    return args


def raise_limits(args: argparse.Namespace) -> None:
    """Open files: as many as this user may have. Programs that are started inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = 2 * args.streams + args.workers + DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Died(f"{wanted} files must be open at a time, and the hard limit is {hard} (ulimit -Hn)")


async def measured(args: argparse.Namespace, folder: Path) -> dict:
    task = asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    model = f"sim://?step_ms={args.step_ms}&size=64"
    with Pool(args.bin.resolve(), folder, args.workers, model, args.streams) as pool:
        return await Storm(args, pool).run()


def main() -> int:
    args = arguments()
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    try:
        raise_limits(args)
        for name in ("queen-rbee", "sd-worker-cpu"):
            if not os.access(args.bin / name, os.X_OK):
                raise Died(f"{name} is not in {args.bin}")
        results = asyncio.run(measured(args, folder))
    except Died as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped", file=sys.stderr)
        return 130
    finally:
        if args.keep:
            tell(f"{folder} is kept")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(results))
    print()
    print(markdown(results))
    for line in results["violations_first"]:
        print(f"VIOLATION {line}")
    if results["violations"] > PRINTED:
        print(f"VIOLATION and {results['violations'] - PRINTED} more")
    return 1 if results["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
