"""The clients that follow jobs: so many streams of events open on one queen, all the time that there are jobs to follow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import http1
from verify import TERMINAL

# Seconds: after a stream was refused; without a byte of a stream, which is sent a sign of life every 10 s.
AGAIN_AFTER, SILENCE = 0.2, 60.0


class Readers:
    def __init__(self, port: int, count: int, has_ended: Callable[[str], bool]) -> None:
        self._port = port
        self._count = count
        self._has_ended = has_ended
        self._jobs: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: list[asyncio.Task] = []
        self.offered = 0
        self.open = 0
        self.opened = 0
        self.read_to_end = 0
        self.refused = 0
        self.events = 0
        self.following: set[str] = set()
        self.complaints: list[str] = []

    def offer(self, job: str) -> None:
        """A job that can be followed."""
        self.offered += 1
        self._jobs.put_nowait(job)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._follow_one_after_the_other()) for _ in range(self._count)]

    def check(self) -> None:
        """Raises what has ended a reader."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        """Every job has ended, and so should every stream have."""
        self.complaints += [f"{job}: its stream has not ended" for job in sorted(self.following)]
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow_one_after_the_other(self) -> None:
        while True:
            job = await self._jobs.get()
            while not self._has_ended(job):
                self.following.add(job)
                try:
                    async with asyncio.timeout(None) as limit:
                        if await self._follow(job, limit):
                            break
                except TimeoutError:
                    self.complaints.append(f"{job}: its stream was silent for {SILENCE:.0f} s")
                except (OSError, EOFError) as error:
                    self.complaints.append(f"{job}: its stream was cut: {error!r}")
                finally:
                    self.following.discard(job)
                await asyncio.sleep(AGAIN_AFTER)

    async def _follow(self, job: str, limit: asyncio.Timeout) -> bool:
        """Whether it was read to its end. A stream that was refused can be asked for again."""
        loop = asyncio.get_running_loop()
        limit.reschedule(loop.time() + SILENCE)
        lines = http1.lines_of(self._port, f"/v1/jobs/{job}/stream")
        opened = False
        try:
            status = await anext(lines)
            if status == 503:
                self.refused += 1
                return False
            if status != 200:
                self.complaints.append(f"{job}: its stream was answered by {status}")
                return True
            opened = True
            self.open += 1
            self.opened += 1
            seqs, ends = [], []
            async for line in lines:
                limit.reschedule(loop.time() + SILENCE)
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    if event["type"] == "queued":
                        continue  # where it stands in line is no event of the job
                    self.events += 1
                    seqs.append(event["seq"])
                    if event["type"] in TERMINAL:
                        ends.append(event["type"])
            self.read_to_end += 1
            if len(ends) != 1 or seqs != sorted(set(seqs)):
                self.complaints.append(f"{job}: its stream had the events {seqs} and the ends {ends}")
            return True
        finally:
            if opened:
                self.open -= 1
            await lines.aclose()
