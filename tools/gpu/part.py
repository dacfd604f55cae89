"""What a part is given, and the process that it runs in: `part.py NAME SETTINGS ROWS_FD ENDS`.

A part is a module with a function `run(part)`. It hands out a row the moment it knows it, and knows nothing of files and
of the other parts. It may be killed at any moment."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import places
from report import FAILED, SKIPPED, Row, brief


@dataclass(frozen=True)
class Settings:
    """The same for all parts."""

    # "cuda" or "cpu".
    device: str
    # Where our programs and perhaps nats-server are.
    programs: str
    # Where pictures to look at go.
    out: str
    # For whatever is gone when the run has ended.
    scratch: str
    # Where the checkpoints of real size are made: memory, if there is enough.
    models: str
    # Folders with libraries that our programs need.
    libraries: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def load(path: Path) -> Settings:
        values = json.loads(path.read_text())
        return Settings(**values | dict(libraries=tuple(values["libraries"])))

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def environment(self) -> dict[str, str]:
        """Our programs' environment: PyTorch finds its own libraries, and is not given these."""
        if not self.libraries:
            return dict(os.environ)
        return os.environ | {"LD_LIBRARY_PATH": ":".join(self.libraries)}

    def program(self, name: str) -> Path | None:
        return places.program(Path(self.programs), name)


class Part:
    """A part that runs."""

    def __init__(self, name: str, settings: Settings, ends: float, rows_fd: int) -> None:
        self.name = name
        self.settings = settings
        self.scratch = Path(settings.scratch) / name
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._ends = ends
        self._rows = os.fdopen(rows_fd, "w", encoding="utf-8")
        self._lock = threading.Lock()

    def left(self) -> float:
        """Seconds until this part is killed."""
        return self._ends - time.time()

    def row(self, table: str, name: str, cells: dict[str, object] | None = None, verdict: str = "", note: str = "") -> None:
        # What is not known has no cell.
        cells = {column: cell for column, cell in (cells or {}).items() if cell is not None}
        with self._lock:
            self._rows.write(json.dumps(asdict(Row(self.name, table, name, cells, verdict, note))) + "\n")
            self._rows.flush()
        self.log(f"{table}, {name}: {cells or ''} {verdict} {note}")

    def skip(self, table: str, name: str, why: str) -> None:
        self.row(table, name, verdict=SKIPPED, note=why)

    def log(self, line: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {self.name}: {line}", file=sys.stderr, flush=True)


def has(module: str) -> bool:
    """Whether Python has the module; nothing is loaded to find out."""
    return importlib.util.find_spec(module) is not None


def main() -> int:
    name, settings, rows_fd = sys.argv[1], Settings.load(Path(sys.argv[2])), int(sys.argv[3])
    part = Part(name, settings, float(sys.argv[4]), rows_fd)
    try:
        importlib.import_module(name).run(part)
    except Exception as error:  # whatever a part dies of is a row, and the other parts go on
        traceback.print_exc()
        part.row("What went wrong", type(error).__name__, verdict=FAILED, note=brief(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
