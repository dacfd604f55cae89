"""The implementations that are compared, each a process of its own that measures what a line on its input asks for."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class PeerError(Exception):
    """A peer could not do what it was asked, or is gone."""


class Peer:
    """A running implementation."""

    def __init__(self, name: str, command: list[str], threads: int) -> None:
        self.name = name
        environment = os.environ | {
            "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment)
        try:
            self._answer()
        except PeerError:
            self.close()
            raise

    def ask(self, line: str) -> dict[str, float]:
        """One measurement, in seconds."""
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerError(f"{self.name} is gone: {self._errors()}") from error
        return self._answer()

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
        self._process.stdout.close()
        self._log.close()

    def _answer(self) -> dict[str, float]:
        # Libraries print what they like; an answer is an object.
        for line in self._process.stdout:
            if line.startswith("{"):
                answer = json.loads(line)
                if "error" in answer:
                    raise PeerError(f"{self.name}: {answer['error']}")
                return answer
        self._process.wait()
        raise PeerError(f"{self.name} is gone: {self._errors()}")

    def _errors(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]


def build_ours(features: str = "") -> Path:
    """Builds `benches/parts.rs` in release, and says where it is."""
    command = ["cargo", "build", "--locked", "--release", "--bench", "parts", "--message-format=json-render-diagnostics"]
    if features:
        command += ["--features", features]
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
