"""How large our programs are and how soon they do what they are for, as a table. Each is started five times, and
the middle one counts.

    PYTHONPATH=tests/wire target/tools/venv/bin/python tools/release/measure.py FOLDER

FOLDER has the programs. A worker has models/tiny-shapes and takes jobs when `/ready` says so; queen answers `/health`;
keeper says its version. A nats-server runs beside them. The disk's cache is warm.
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pool

TIMES = 5
MIB = 1 << 20


def answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
        return answer.status == 200
    return False


def seconds_until(command: list[str], url: str, log: Path) -> float:
    begun = time.monotonic()
    with pool.running(command, log) as process:
        while not answers(url):
            if process.poll() is not None or time.monotonic() > begun + pool.PATIENCE:
                raise RuntimeError(log.read_text())
            time.sleep(0.002)
        return time.monotonic() - begun


def seconds_of(command: list[str]) -> float:
    begun = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - begun


def packed(program: Path, folder: Path) -> int:
    archive = folder / f"{program.name}.gz"
    with program.open("rb") as plain, gzip.open(archive, "wb", 6) as out:
        shutil.copyfileobj(plain, out)
    return archive.stat().st_size


def main() -> int:
    programs = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as temp, contextlib.ExitStack() as stack:
        folder, nats = Path(temp), pool.free_port()
        server = [pool.nats_server(), "-a", "127.0.0.1", "-p", str(nats), "-js", "-sd", str(folder / "nats")]
        process = stack.enter_context(pool.running(server, folder / "nats.log"))
        pool.wait_until_answering(nats, process, folder / "nats.log")
        shared = ["--nats-url", f"nats://127.0.0.1:{nats}", "--store-url", str(folder / "store")]

        def start(name: str) -> float:
            program, port, log = str(programs / name), pool.free_port(), folder / f"{name}.log"
            address = f"127.0.0.1:{port}"
            if name == "rbee-keeper":
                return seconds_of([program, "--version"])
            if name == "queen-rbee":
                return seconds_until([program, "--listen", address, *shared], f"http://{address}/health", log)
            model = ["--model", str(pool.ROOT / "models/tiny-shapes"), "--http", address, "--grace", "1s"]
            return seconds_until([program, *model, *shared], f"http://{address}/ready", log)

        print("| program | MiB | MiB, gzip | start |\n|---|---|---|---|")
        for name in ("queen-rbee", "sd-worker-cpu", "rbee-keeper"):
            program = programs / name
            took = statistics.median(start(name) for _ in range(TIMES))
            sizes = program.stat().st_size / MIB, packed(program, folder) / MIB
            print(f"| `{name}` | {sizes[0]:.1f} | {sizes[1]:.1f} | {took * 1000:.0f} ms |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
