"""What a profiler writes about kernels, as a list of them: of `ncu --csv` in both of its forms."""

from __future__ import annotations

import csv
from dataclasses import dataclass

METRIC = "gpu__time_duration.sum"
# Microseconds of a unit.
UNITS = {
    "s": 1e6, "second": 1e6, "ms": 1e3, "msecond": 1e3, "us": 1.0, "usecond": 1.0, "ns": 1e-3, "nsecond": 1e-3}


@dataclass(frozen=True)
class Kernel:
    """All launches of one kernel."""

    name: str
    launches: int
    microseconds: float


def read_ncu(said: str) -> list[Kernel]:
    """The longest first. A row is a launch: with a column of the metric (`--page raw`, whose second line has units), or
    with the metric's name, unit and value in columns (`--page details`)."""
    lines = said.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return []
    launches: dict[str, list[float]] = {}
    unit = "nsecond"
    for row in csv.DictReader(lines[start:]):
        if METRIC in row and not row.get("ID"):
            unit = row[METRIC] or unit
        elif METRIC in row:
            _add(launches, row["Kernel Name"], row[METRIC], unit)
        elif row.get("Metric Name") == METRIC:
            _add(launches, row["Kernel Name"], row["Metric Value"], row["Metric Unit"])
    kernels = [Kernel(name, len(times), sum(times)) for name, times in launches.items()]
    return sorted(kernels, key=lambda kernel: -kernel.microseconds)


def _add(launches: dict[str, list[float]], name: str | None, value: str | None, unit: str | None) -> None:
    try:
        microseconds = float((value or "").replace(",", "")) * UNITS[unit or ""]
    except (ValueError, KeyError):
        return  # no row of a kernel, or one that was cut off
    launches.setdefault(name or "?", []).append(microseconds)
