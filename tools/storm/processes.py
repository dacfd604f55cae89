"""The pool under test: nats-servers with JetStream, queens, and workers with a simulated model."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import http1

# Seconds: until a program listens; until all of them have ended after SIGTERM.
PATIENCE, GRACE = 60.0, 20.0
# Seconds that the start of one worker may take, on top.
PER_WORKER = 1.5
# Variables that programs of the pool read. Flags alone decide here.
OURS = ("SD_", "QUEEN_", "NATS_", "STORE_", "WORKER_", "HIVE_", "RBEE_")
PR_SET_PDEATHSIG = 1
TICKS = os.sysconf("SC_CLK_TCK")
_libc = ctypes.CDLL(None, use_errno=True)


class Died(Exception):
    """A program of the pool ended by itself, or did not come up."""


@dataclass(frozen=True)
class Memory:
    """KiB, as /proc/PID/status has them."""

    rss: int
    hwm: int
    anonymous: int


class Program:
    """A program that runs, with its output in a file. The kernel kills it when this process has ended, however it ended."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        parent = os.getpid()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}

        def tie_to_parent() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env={**environment, "RUST_LOG": "warn"}, preexec_fn=tie_to_parent)

    def check(self) -> None:
        """Raises when it has ended."""
        if self.process.poll() is not None:
            last = self.log.read_text(errors="replace")[-1500:]
            raise Died(f"{self.name} ended with exit code {self.process.returncode}: {last}")

    def memory(self) -> Memory:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        rss, hwm, anonymous = (int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM", "RssAnon"))
        return Memory(rss, hwm, anonymous)

    def cpu_seconds(self) -> float:
        # The fields follow the program's name, which is in parentheses.
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def complaints(self) -> list[str]:
        """The warnings and errors that it has logged."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [f"{self.name}: {line[:300]}" for line in lines if any(w in line for w in ("WARN", "ERROR", "panicked", "[ERR]"))]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def nats_server() -> str | None:
    """`NATS_SERVER`, or the one on PATH."""
    return os.environ.get("NATS_SERVER") or shutil.which("nats-server")


class Pool:
    """`with Pool(...) as pool`: whatever it has started is ended at the end."""

    def __init__(
        self, programs: Path, folder: Path, workers: int, model: str, streams: int, *, queens: int = 2, servers: int = 1,
    ) -> None:
        """`servers`: of nats-server, each of which has a copy of the streams."""
        self._programs = programs
        self._folder = folder
        self._worker_count = workers
        self._model = model
        self._streams = streams
        self._queen_count = queens
        self._server_count = servers
        self.store = folder / "store"
        self.nats_ports = [free_port() for _ in range(servers)]
        self.monitor_ports = [free_port() for _ in range(servers)]
        self.nats_urls = [f"nats://127.0.0.1:{port}" for port in self.nats_ports]
        self.servers: list[Program] = []
        self.queens: list[Program] = []
        self.queen_ports: list[int] = []
        self.workers: list[Program] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        # Jobs may still run when something has failed: workers first, while the bus is there.
        for programs in (self.workers, self.queens, self.servers):
            stop(programs)

    def __iter__(self) -> Iterator[Program]:
        yield from self.servers
        yield from self.queens
        yield from self.workers

    def check(self) -> None:
        for program in self:
            program.check()

    async def start(self, told: Callable[[str], None]) -> None:
        """Returns when every queen knows every worker."""
        self.store.mkdir(parents=True)
        server = nats_server()
        if server is None:
            raise Died("nats-server is not on PATH, and NATS_SERVER does not name it")
        routes = [f"nats://127.0.0.1:{free_port()}" for _ in self.nats_ports]
        for number, (port, monitor) in enumerate(zip(self.nats_ports, self.monitor_ports, strict=True)):
            cluster = ["-n", f"n{number}", "--cluster_name", "pool", "--cluster", routes[number], "--routes", ",".join(routes)]
            name = f"nats-server{number or ''}"
            self.servers.append(self._run(name, [
                server, "-a", "127.0.0.1", "-p", str(port), "-m", str(monitor), "-js", "-sd", str(self._folder / f"jetstream{number}"),
                *(cluster if len(routes) > 1 else [])]))
        for port in self.nats_ports:
            await self._until(lambda port=port: answers(port, None), PATIENCE, "nats-server does not listen")
        for number in range(self._queen_count):
            port = free_port()
            self.queens.append(self._run(f"queen{number}", [
                str(self._programs / "queen-rbee"), "--listen", f"127.0.0.1:{port}", "--models", "sim",
                # A stream that has ended may count for a moment longer.
                "--max-streams", str(self._streams + 1024), *self._shared()]))
            self.queen_ports.append(port)
        # A queen that comes up later hears of a worker with its next heartbeat, 10 s later.
        for port in self.queen_ports:
            await self._until_ready(port, 0)
        for number in range(self._worker_count):
            self.workers.append(self._run(f"w{number}", [
                str(self._programs / "sd-worker-cpu"), "--model", f"sim={self._model}", "--slots", "1", "--threads", "1",
                "--worker-id", f"w{number}", "--grace", "5s", *self._shared()]))
            if number % 20 == 19:
                told(f"{number + 1} workers started")
                await asyncio.sleep(0.5)
        for port in self.queen_ports:
            await self._until_ready(port, self._worker_count)

    async def _until_ready(self, port: int, workers: int) -> None:
        async def is_ready() -> bool:
            said = await answers(port, "/health")
            return bool(said) and said["durable"] and said["workers"] == workers

        await self._until(is_ready, PATIENCE + PER_WORKER * workers, f"the queen at port {port} does not know {workers} workers")

    async def _until(self, is_so: Callable, patience: float, otherwise: str) -> None:
        end = time.monotonic() + patience
        while not await is_so():
            self.check()
            if time.monotonic() > end:
                raise Died(f"{otherwise} after {patience:.0f} s")
            await asyncio.sleep(0.2)

    def _shared(self) -> list[str]:
        return [
            "--nats-url", ",".join(self.nats_urls), "--store-url", f"file://{self.store}", "--stream-replicas",
            str(self._server_count)]

    def _run(self, name: str, command: list[str]) -> Program:
        return Program(name, command, self._folder / f"{name}.log")


async def answers(port: int, path: str | None) -> dict | None:
    """What an HTTP server says with 200; without a path, whether anything listens."""
    connection = http1.Connection(port)
    try:
        if path is None:
            await connection.open()
            return {"listens": True}
        status, body = await connection.ask("GET", path)
        return http1.as_json(body) if status == 200 else None
    except (OSError, EOFError):
        return None
    finally:
        connection.close()


def stop(programs: list[Program]) -> None:
    for program in programs:
        program.process.terminate()
    end = time.monotonic() + GRACE
    for program in programs:
        try:
            program.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            program.process.kill()
            program.process.wait()
