"""The implementations that are compared, each a process of its own that measures what a line on its input asks for."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class PeerError(Exception):
    """A peer could not do what it was asked, or is gone."""


class Peer:
    """A running implementation. `seconds` is how long an answer may take; one that takes longer ends the peer."""

    def __init__(
        self, name: str, command: list[str], threads: int, environment: Mapping[str, str] = os.environ,
        seconds: float | None = None,
    ) -> None:
        self.name = name
        limits = {name: str(threads) for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env=dict(environment) | limits)
        self._said: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._answer(seconds)
        except PeerError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, line: str, seconds: float | None = None) -> dict:
        """One measurement, in seconds."""
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise PeerError(f"{self.name} is gone: {self._errors()}") from error
        return self._answer(seconds)

    def peak_bytes(self) -> int:
        """The most main memory that it has had so far (Linux)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def close(self) -> None:
        if self._log.closed:
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _read(self) -> None:
        with self._process.stdout as said:
            for line in said:
                self._said.put(line)
        self._said.put(None)

    def _answer(self, seconds: float | None) -> dict:
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                line = self._said.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
            except queue.Empty:
                self._process.kill()
                raise PeerError(f"{self.name} did not answer within {seconds:.0f} s") from None
            if line is None:
                self._process.wait()
                raise PeerError(f"{self.name} is gone: {self._errors()}")
            # Libraries print what they like; an answer is an object.
            if line.startswith("{"):
                answer = json.loads(line)
                if "error" in answer:
                    raise PeerError(f"{self.name}: {answer['error']}")
                return answer

    def _errors(self) -> str:
        if self._log.closed:
            return "it was ended"
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]


def build_ours() -> Path:
    """Builds `benches/parts.rs` in release, and says where it is."""
    command = ["cargo", "build", "--locked", "--release", "--bench", "parts", "--message-format=json-render-diagnostics"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "parts":
            return Path(message["executable"])
    sys.exit("cargo did not say where the benchmark `parts` is")


def ours(program: Path, model: Path, *more: str) -> list[str]:
    return [str(program), "--serve", "--model", str(model), *more]


def python(script: str, *more: str) -> list[str]:
    return [sys.executable, str(HERE / script), *more]
