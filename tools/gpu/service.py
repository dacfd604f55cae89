"""A pool on this machine: nats-server with JetStream, queen, a folder as the store, and workers of the device."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import places
from client import Door
from part import Part
from process import Died, Process, accepts, answer, free_port

# How long after its last sign of life a worker's jobs go to another: short, so that a killed one costs little.
ACK_WAIT = "2s"


class Service:
    """`with Service(...) as pool`: what it has started is stopped at the end."""

    def __init__(self, part: Part, name: str, models: dict[str, Path], device: str | None = None) -> None:
        self._part = part
        self._settings = part.settings
        self._models = models
        self._device = device or part.settings.device
        self._folder = part.scratch / name
        self._running: list[Process] = []
        self._ports: dict[Process, int] = {}
        self.store = self._folder / "store"
        self.store.mkdir(parents=True)
        self.nats_url = ""

    def __enter__(self) -> Service:
        try:
            self._start()
        except BaseException as error:
            self.__exit__(error)
            raise
        return self

    def __exit__(self, error: object, *_: object) -> None:
        for process in reversed(self._running):
            process.stop()
            said = process.tail() if error else process.complaints()
            if said:
                self._part.log(f"{process.name} said:\n{said}")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        server = places.nats_server(Path(self._settings.programs))
        if server is None:
            raise Died("nats-server is neither among the programs nor on PATH")
        port, http = free_port(), free_port()
        self.nats_url = f"nats://127.0.0.1:{port}"
        nats = self._run(
            "nats-server", [str(server), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(self._folder / "nats")])
        nats.wait_until(lambda: accepts(port))
        command = [self._program("queen-rbee"), "--listen", f"127.0.0.1:{http}", *self._shared()]
        for model in self._models:
            command += ["--models", model]
        # Until it has found JetStream its jobs are not durable.
        self._run("queen-rbee", command).wait_until(lambda: json.loads(answer(http, "/health") or b"{}").get("durable", False))
        self.queen = Door(http, self.store, self.check)

    def check(self) -> None:
        """Raises when a process of the pool has ended by itself."""
        for process in list(self._running):
            process.check()

    def worker(self, name: str, *flags: str) -> Process:
        """A worker of all models that has said that it is ready."""
        port = free_port()
        command = [
            self._program(f"sd-worker-{self._device}"), *self._shared(), "--worker-id", name, "--http",
            f"127.0.0.1:{port}", *flags]
        for model, folder in self._models.items():
            command += ["--model", f"{model}={folder}"]
        worker = self._run(name, command)
        self._ports[worker] = port
        worker.wait_until(lambda: answer(port, "/ready") is not None)
        return worker

    def door(self, worker: Process) -> Door:
        """A worker's own: jobs that nobody keeps, and that are tried once."""
        return Door(self._ports[worker], self.store, self.check)

    def checkpoint(self, job: str) -> Path:
        """Where a durable job that runs keeps what another worker goes on from."""
        return self.store / "jobs" / job / "checkpoint"

    def kill(self, process: Process) -> None:
        self._running.remove(process)
        process.kill()

    def _shared(self) -> list[str]:
        return ["--nats-url", self.nats_url, "--store-url", f"file://{self.store}", "--ack-wait", ACK_WAIT]

    def _program(self, name: str) -> str:
        found = self._settings.program(name)
        if found is None:
            raise Died(f"{name} is not in {self._settings.programs}")
        return str(found)

    def _run(self, name: str, command: list[str]) -> Process:
        process = Process(name, command, self._folder / f"{name}.log", self._settings.environment())
        self._running.append(process)
        return process
