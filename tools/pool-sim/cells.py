"""The pools that are measured: how many of what, and how fast jobs come."""

from __future__ import annotations

from dataclasses import dataclass

HALF, FULL, FLOOD = "half", "full", "flood"
LOADS = (HALF, FULL, FLOOD)


@dataclass(frozen=True)
class Cell:
    """One pool under one load."""

    workers: int
    queens: int
    # nats-servers, each with a copy of the streams.
    servers: int
    load: str
    # Milliseconds of a step, and steps of a job.
    step_ms: int
    steps: int
    jobs: int
    # Jobs a second; 0: as fast as they are taken.
    rate: float

    @property
    def name(self) -> str:
        return f"{self.workers} workers, queens {self.queens}, servers {self.servers}, {self.load}"


def cell(workers: int, queens: int, servers: int, load: str, *, rate: float, seconds: float, steps: int, flood: int) -> Cell:
    """A pool of this many workers. `rate`: jobs a second at half load, whatever the size: jobs take longer in a large pool.
    At full load jobs come as fast as workers can do them if they never wait. A flood is so many jobs that take no time."""
    if load == FLOOD:
        return Cell(workers, queens, servers, load, 0, 1, flood, 0.0)
    step_ms = max(1, round(workers / (2 * rate) / steps * 1000))
    capacity = workers / (steps * step_ms / 1000)
    offered = capacity if load == FULL else capacity / 2
    return Cell(workers, queens, servers, load, step_ms, steps, max(1, round(offered * seconds)), offered)
