"""Programs that are started, waited for, stopped and killed, each with a log of its own."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# Seconds until a process has come up: a GPU's driver compiles kernels at the first start.
PATIENCE = 90.0


class Died(Exception):
    """A process ended by itself, or did not come up."""


class Process:
    """A program that runs. Its output goes into a file."""

    def __init__(self, name: str, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=dict(environment))

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises when it has ended."""
        if self._process.poll() is not None:
            raise Died(f"{self.name} ended with exit code {self._process.returncode}: {self.tail()}")

    def wait_until(self, is_up: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Returns when `is_up()` is true."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            self.check()
            if is_up():
                return
            time.sleep(0.05)
        raise Died(f"{self.name} was not up after {patience:.0f} s: {self.tail()}")

    def kill(self) -> None:
        """As a power cut does it."""
        self._process.kill()
        self._process.wait()

    def stop(self, patience: float = 10.0) -> None:
        self._process.terminate()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()

    def tail(self, characters: int = 1500) -> str:
        return self.log.read_text(errors="replace")[-characters:]

    def complaints(self, lines: int = 15) -> str:
        """The last warnings and errors that it has logged."""
        said = self.log.read_text(errors="replace").splitlines()
        return "\n".join([line[:400] for line in said if "WARN" in line or "ERROR" in line or "panicked" in line][-lines:])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def answer(port: int, path: str) -> bytes | None:
    """What an HTTP server on this machine says with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        said = connection.getresponse()
        return said.read() if said.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
