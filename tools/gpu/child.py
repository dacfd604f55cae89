"""A part in a process group of its own: its rows are read as they come, and at its limit the whole group is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import places
from report import Report, Row


class Child:
    """A part that was started. `command` is for tests; it is given the same arguments as part.py."""

    def __init__(
        self, name: str, settings: Path, limit: float, report: Report, log: Path, command: list[str] | None = None,
    ) -> None:
        self.name = name
        self._report = report
        self._begun = time.monotonic()
        self._limit = limit
        read, write = os.pipe()
        command = command or [sys.executable, str(places.HERE / "part.py")]
        arguments = [name, str(settings), str(write), str(time.time() + limit)]
        report.begin(name, limit)
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [*command, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out, pass_fds=(write,),
                process_group=0)
        os.close(write)
        self._reader = threading.Thread(target=self._read, args=(read,), daemon=True)
        self._reader.start()

    def wait(self) -> str:
        """How it ended: "done", or why not."""
        left = self._begun + self._limit - time.monotonic()
        try:
            code = self._process.wait(max(0.0, left))
            how = "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            how = f"killed at its limit of {self._limit:.0f} s"
        return self._end(how)

    def stop(self, how: str) -> str:
        """Ends it now; one that is done already stays done."""
        if (code := self._process.poll()) is not None:
            how = "done" if code == 0 else f"failed with exit code {code}"
        return self._end(how)

    def _end(self, how: str) -> str:
        # What it has started is in its group, and goes too, also where the part itself is done.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(5)
        self._report.end(self.name, time.monotonic() - self._begun, how)
        return how

    def _read(self, read: int) -> None:
        with os.fdopen(read, encoding="utf-8", errors="replace") as rows:
            for line in rows:
                try:
                    row = Row(**json.loads(line))
                except (ValueError, TypeError):
                    continue  # cut off in the middle by the kill
                self._report.add(row)
