"""What is read of the pool every second while it works."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from journal import Journal
from processes import Pool, answers
from readers import Readers

EVERY = 1.0
# Points of a series that are kept in the report.
POINTS = 60


@dataclass
class Samples:
    pool: Pool
    journal: Journal
    readers: Readers
    # Seconds since the start; jobs taken and ended, streams open; VmRSS in KiB by program.
    series: list[dict] = field(default_factory=list)
    consumers: int = 0
    # KiB: of all workers together what is not shared (RssAnon), and VmHWM of the largest.
    workers_anonymous: int = 0
    largest_worker: int = 0

    async def run(self) -> None:
        begun = time.monotonic()
        for count in range(1 << 30):
            rss = {program.name: program.memory().rss for program in (self.pool.nats, *self.pool.queens)}
            self.series.append({
                "s": round(time.monotonic() - begun, 1), "offered": self.readers.offered, "ended": self.journal.ended,
                "streams": self.readers.open, **rss})
            self.consumers = max(self.consumers, await self.journal.consumers_of_events())
            if count % 10 == 0:
                memory = [worker.memory() for worker in self.pool.workers]
                self.workers_anonymous = max(self.workers_anonymous, sum(one.anonymous for one in memory))
                self.largest_worker = max(self.largest_worker, *(one.hwm for one in memory))
            await asyncio.sleep(EVERY)

    def open_streams(self, wanted: int) -> list[int]:
        """How many were open whenever there were enough jobs to follow."""
        return [one["streams"] for one in self.series if one["offered"] - one["ended"] >= wanted]

    def thinned(self) -> list[dict]:
        step = -(-len(self.series) // POINTS) or 1
        return self.series[::step]


@dataclass(frozen=True)
class Work:
    """What the pool has done since its start: seconds of CPU time, and messages that nats-server got and sent."""

    nats: float
    queens: float
    workers: float
    messages_in: int
    messages_out: int

    @classmethod
    async def of(cls, pool: Pool) -> Work:
        said = await answers(pool.monitor_port, "/varz") or {}
        return cls(
            pool.nats.cpu_seconds(), sum(queen.cpu_seconds() for queen in pool.queens),
            sum(worker.cpu_seconds() for worker in pool.workers), said.get("in_msgs", 0), said.get("out_msgs", 0))

    def since(self, before: Work) -> Work:
        return Work(*(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True)))
