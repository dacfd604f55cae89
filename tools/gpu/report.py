"""What has been found so far, in two files that are whole at every moment: results.json, and the tables of results.md."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

# Verdicts. A failed row of a part that judges fails the run; the others say why there is nothing to judge.
GOOD, FAILED, NOT_COMPARED, SKIPPED = "good", "failed", "not compared", "skipped"
JUDGING = ("truth", "jobs")


@dataclass
class Row:
    """A line of a table. A later row of the same part, table and name takes its place."""

    part: str
    table: str
    name: str
    cells: dict[str, object] = field(default_factory=dict)
    verdict: str = ""
    note: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        return (self.part, self.table, self.name)


@dataclass
class Ran:
    """How a part went."""

    name: str
    limit: float
    seconds: float | None = None
    ended: str = "runs"


class Report:
    """Rows as they come. Safe to use from several threads."""

    def __init__(self, folder: Path, about: dict[str, object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._about = about
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._parts: dict[str, Ran] = {}
        self._lock = threading.Lock()
        self._write()

    def add(self, row: Row) -> None:
        with self._lock:
            self._rows[row.place] = row
            self._write()

    def begin(self, name: str, limit: float) -> None:
        with self._lock:
            self._parts[name] = Ran(name, round(limit, 1))
            self._write()

    def end(self, name: str, seconds: float, how: str) -> None:
        """`how` is "done", or what kept it from that."""
        with self._lock:
            ran = self._parts.setdefault(name, Ran(name, 0.0))
            ran.seconds, ran.ended = round(seconds, 1), how
            self._write()
            self._replace("results.md", self.markdown())

    def close(self, seconds: float) -> None:
        """The run has ended."""
        with self._lock:
            self._about["took"] = f"{seconds:.0f} s"
            self._write()
            self._replace("results.md", self.markdown())

    def failures(self) -> list[str]:
        """Whatever makes the run a failure, a line each."""
        rows = [
            f"{row.part}, {row.table}, {row.name}: {row.note or row.cells}"
            for row in self._rows.values() if row.part in JUDGING and row.verdict == FAILED]
        parts = [
            f"{ran.name}: {ran.ended}" for ran in self._parts.values() if ran.name in JUDGING and ran.ended != "done"]
        return rows + parts

    def markdown(self) -> str:
        lines = ["# Measured", ""]
        lines += [f"- {name}: {value}" for name, value in self._about.items()]
        lines += ["", "| part | seconds | limit | ended |", "|---|---|---|---|"]
        for ran in self._parts.values():
            seconds = "" if ran.seconds is None else f"{ran.seconds:.0f}"
            lines.append(f"| {ran.name} | {seconds} | {ran.limit:.0f} | {text(ran.ended)} |")
        tables: dict[tuple[str, str], list[Row]] = {}
        for row in self._rows.values():
            tables.setdefault((row.part, row.table), []).append(row)
        for part in dict.fromkeys(part for part, _ in tables):
            lines += ["", f"## {part[:1].upper()}{part[1:]}"]
            for (of, table), rows in tables.items():
                if of == part:
                    lines += ["", *as_table(table, rows)]
        return "\n".join(lines) + "\n"

    def _write(self) -> None:
        whole = dict(
            about=self._about, parts=[asdict(ran) for ran in self._parts.values()],
            rows=[asdict(row) for row in self._rows.values()])
        self._replace("results.json", json.dumps(whole, indent=1))

    def _replace(self, name: str, content: str) -> None:
        """Whoever reads the file sees what was there before or all of this."""
        beside = self._folder / f".{name}.part"
        beside.write_text(content, encoding="utf-8")
        os.replace(beside, self._folder / name)


def as_table(title: str, rows: list[Row]) -> list[str]:
    """Columns in the order in which rows name them; verdicts and notes where a row has one."""
    columns = list(dict.fromkeys(column for row in rows for column in row.cells))
    more = [name for name in ("verdict", "note") if any(getattr(row, name) for row in rows)]
    lines = ["| " + " | ".join([title, *columns, *("" for _ in more)]) + " |", "|---" * (1 + len(columns) + len(more)) + "|"]
    for row in rows:
        cells = [row.name, *(row.cells.get(column, "") for column in columns), *(getattr(row, name) for name in more)]
        lines.append("| " + " | ".join(text(cell) for cell in cells) + " |")
    return lines


def text(cell: object) -> str:
    """A cell on one line; a number with the digits that say something."""
    if isinstance(cell, bool) or not isinstance(cell, float):
        return " ".join(str("" if cell is None else cell).replace("|", "\\|").split())
    return f"{cell:.{2 if abs(cell) >= 1 else 4}f}".rstrip("0").rstrip(".")


def brief(why: object, characters: int = 320) -> str:
    """What went wrong, with its beginning and its end: a traceback says most in its last line."""
    said = str(why)
    if len(said) <= characters:
        return said
    return f"{said[:60]} ... {said[60 - characters:]}"
