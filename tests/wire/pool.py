"""A nats-server, one worker and a queen on free ports, for tests and tools that speak NATS or HTTP through others' clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds that a process gets to come up, and a free slot to appear


@dataclass(frozen=True)
class Pool:
    url: str
    store: Path

    async def connect(self) -> Client:
        return await nats.connect(self.url, max_reconnect_attempts=1)


def worker_binary() -> Path:
    """`SD_WORKER`, which scripts/test sets, or a debug build."""
    return Path(os.environ.get("SD_WORKER", ROOT / "target/debug/sd-worker-cpu"))


def nats_server() -> str:
    """`NATS_SERVER`, or the one on PATH."""
    return os.environ.get("NATS_SERVER", "nats-server")


def drain_margin() -> int:
    """Seconds after its grace in which a worker has ended, whatever hangs."""
    source = (ROOT / "src/worker/process/drain.rs").read_text()
    return int(re.search(r"const DRAIN_MARGIN: Duration = Duration::from_secs\((\d+)\)", source).group(1))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_until_answering(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"no answer on port {port}:\n{log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def running(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped at the end, and waited for. `environment`: in place of ours."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def pool(model: str) -> Iterator[Pool]:
    """One worker with one slot that serves `model`, and the folder that is its store."""
    with tempfile.TemporaryDirectory() as folder:
        temp, port = Path(folder), free_port()
        url, store = f"nats://127.0.0.1:{port}", temp / "store"
        server = [nats_server(), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(temp / "nats")]
        worker = [str(worker_binary()), "--model", model, "--nats-url", url, "--store-url", str(store)]
        with running(server, temp / "nats.log") as process:
            wait_until_answering(port, process, temp / "nats.log")
            with running([*worker, "--grace", "5s"], temp / "worker.log"):
                try:
                    yield Pool(url, store)
                except BaseException:
                    print((temp / "worker.log").read_text(errors="replace")[-2000:])
                    raise


def queen_binary() -> Path:
    """`SD_QUEEN`, or the one beside the worker."""
    return Path(os.environ.get("SD_QUEEN", worker_binary().parent / "queen-rbee"))


def new_token(name: str, file: Path) -> str:
    """A token for a client, whose line is added to the file."""
    issued = subprocess.run([str(queen_binary()), "new-token", name], check=True, capture_output=True, text=True)
    with file.open("a") as lines:
        lines.write(issued.stdout)
    return issued.stderr.split()[-1]


@contextlib.contextmanager
def queen(*models: str, arguments: Sequence[str] = ()) -> Iterator[str]:
    """A queen and one worker with these models over a server of their own; the queen's address."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        temp, nats_port, port = Path(folder), free_port(), free_port()
        url, store = f"nats://127.0.0.1:{nats_port}", str(temp / "store")
        log = temp / "nats.log"
        server = [nats_server(), "-a", "127.0.0.1", "-p", str(nats_port), "-js", "-sd", str(temp / "nats")]
        wait_until_answering(nats_port, stack.enter_context(running(server, log)), log)
        shared = ["--nats-url", url, "--store-url", store]
        alias = ["--model-alias", "gpt-image-1=shapes"]
        front = [str(queen_binary()), "--listen", f"127.0.0.1:{port}", *shared, *alias, *arguments]
        log = temp / "queen.log"
        wait_until_answering(port, stack.enter_context(running(front, log)), log)
        named = [argument for model in models for argument in ("--model", model)]
        worker = [str(worker_binary()), *named, *shared, "--grace", "5s"]
        stack.enter_context(running(worker, temp / "worker.log"))
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + PATIENCE
        while workers(address) == 0:
            assert time.monotonic() < end, (temp / "worker.log").read_text(errors="replace")
            time.sleep(0.05)
        yield address


def workers(queen: str) -> int:
    """Workers that a queen knows of. Before it listens it tries its address once, which may be taken for an answer."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{queen}/health") as health:
        return int(json.load(health)["workers"])
    return 0


async def request(client: Client, subject: str, body: bytes) -> Msg:
    """The first reply. No responders means that no slot is free: asked again until `PATIENCE` is over."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return await client.request(subject, body, timeout=PATIENCE)
        except nats.errors.NoRespondersError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)
