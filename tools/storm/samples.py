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
            rss = {program.name: program.memory().rss for program in (*self.pool.servers, *self.pool.queens)}
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
    """What the pool has done by `at`: seconds of CPU time, and what nats-server, all of them together, got and sent:
    messages and bytes."""

    at: float
    nats: float
    queens: float
    workers: float
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int

    @classmethod
    async def of(cls, pool: Pool) -> Work:
        varz = [await answers(port, "/varz") or {} for port in pool.monitor_ports]
        cpu = [sum(program.cpu_seconds() for program in programs) for programs in (pool.servers, pool.queens, pool.workers)]
        traffic = [sum(said.get(name, 0) for said in varz) for name in ("in_msgs", "out_msgs", "in_bytes", "out_bytes")]
        return cls(time.monotonic(), *cpu, *traffic)

    def since(self, before: Work) -> Work:
        return Work(*(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True)))
