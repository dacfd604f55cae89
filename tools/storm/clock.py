"""How late a process of ours is itself: no time that it measures is more exact."""

from __future__ import annotations

import asyncio
import time

EVERY = 0.1


class Delays:
    """Seconds by which a task was woken too late, every tenth of a second."""

    def __init__(self) -> None:
        self.all: list[float] = []

    async def run(self) -> None:
        while True:
            due = time.monotonic() + EVERY
            await asyncio.sleep(EVERY)
            self.all.append(time.monotonic() - due)
