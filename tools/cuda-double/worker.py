"""A worker on the stand-ins and a NATS server: started, asked over HTTP, stopped; and what it did on the card."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

TERMINAL = ("complete", "error", "cancelled")
# Seconds for a start, a job, an end.
PATIENCE = 180


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(is_so, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)


class Nats:
    """nats-server with streams in a folder that goes with it."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.port = free_port()
        command = ["nats-server", "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", self.folder.name]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(self.answers, "nats-server does not answer")

    def answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


class Ended(Exception):
    """The worker is gone and the job with it."""


class Worker:
    """`card` is what CUDA_DOUBLE_... says: DEVICES, MEMORY, CAPABILITY, FAIL."""

    def __init__(self, program: Path, double: Path, nats: Nats, models: list[str], *flags: str, **card: object) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.port = free_port()
        self.log, self.counts = Path(self.folder.name, "log"), Path(self.folder.name, "counts")
        command = [program, "--http", f"127.0.0.1:{self.port}", "--nats-url", f"nats://127.0.0.1:{nats.port}"]
        command += ["--subject-prefix", f"w{self.port}", "--store-url", "memory://", *flags]
        command += [word for model in models for word in ("--model", model)]
        own = dict(LD_LIBRARY_PATH=double, CUDA_DOUBLE_LOG=self.counts, RUST_BACKTRACE=0)
        own |= {f"CUDA_DOUBLE_{name}": value for name, value in card.items()}
        # What is set for other workers is not for this one.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SD_", "CUDA_DOUBLE_"))}
        environment = kept | {name: str(value) for name, value in own.items()}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def __enter__(self) -> Worker:
        wait_until(lambda: self.has_ended() or self.request("/ready")[0] == 200, "it is not ready")
        return self

    def __exit__(self, *_) -> None:
        if not self.has_ended():
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def words(self) -> str:
        return self.log.read_text()

    def request(self, path: str, body: dict | None = None) -> tuple[int, object]:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        except OSError:
            return 0, None
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text.decode()

    def job(self, **body: object) -> dict:
        """Sends a job and waits for its last event; of one that is refused, what was answered, as type `refused`."""
        body = dict(operation="image_generation", prompt="a red circle", steps=2, seed=1) | body
        status, answer = self.request("/v1/jobs", body)
        if status != 200:
            return dict(type="refused", status=status, answer=answer)
        path = f"/v1/jobs/{answer['job_id']}"
        event: dict = {}

        def job_has_ended() -> bool:
            if self.has_ended():
                raise Ended(f"the worker ended with {self.process.returncode}:\n{self.words()}")
            event.clear()
            event.update(self.request(path)[1].get("event") or {})
            return event.get("type") in TERMINAL

        wait_until(job_has_ended, f"a job does not end: {body}")
        return event

    def code(self) -> int | None:
        """How it ended by itself; none: it is ready."""
        return self.process.poll()

    def stop(self) -> dict:
        """Tells it to end; what it did on the card since it began."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=PATIENCE)
        return self.counted()

    def counted(self) -> dict:
        return json.loads(self.counts.read_text().splitlines()[-1])
