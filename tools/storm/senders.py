"""The clients that send jobs and ask about them, in a process of its own, so that reading along does not delay them.

Writes a line of JSON for every answer, `["post" or "get", phase, status, queen, sent, answered, job or what was said]`, then
`["sent"]`, asks on until its standard input is closed, and ends with `["end", delays]`. Times are seconds of
CLOCK_MONOTONIC, which all processes of a machine share."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from dataclasses import dataclass

import clock
import http1

# Seconds: between two questions of one connection about jobs; after a refusal with 503.
ASK_EVERY, AGAIN_AFTER = 0.05, 0.2
# Calm jobs a second.
CALM_RATE = 10.0
# Questions are about the last so many jobs.
RECENT = 5_000
CALM, STORM = "calm", "storm"


@dataclass(frozen=True)
class Load:
    ports: list[int]
    calm: int
    jobs: int
    steps: int
    connections: int
    asking: int
    # Jobs a second; 0 sends as fast as they are answered.
    rate: float


class Senders:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._recent: list[str] = []
        self._phase = CALM
        self._sent = 0
        self._numbers = itertools.count()

    async def run(self) -> None:
        delays = clock.Delays()
        measuring = asyncio.create_task(delays.run())
        asking = [asyncio.create_task(self._ask(number)) for number in range(self._load.asking)]
        connections = [http1.Connection(port) for port in self._load.ports]
        for number in range(self._load.calm):
            await self._post(connections[number % len(connections)], number % len(connections))
            await asyncio.sleep(1 / CALM_RATE)
        self._phase = STORM
        self._begun = time.monotonic()
        await asyncio.gather(*(self._send(number) for number in range(self._load.connections)))
        say(["sent"])
        await asyncio.to_thread(sys.stdin.read)
        for task in (measuring, *asking):
            task.cancel()
        await asyncio.gather(measuring, *asking, return_exceptions=True)
        say(["end", delays.all])

    async def _send(self, number: int) -> None:
        queen = number % len(self._load.ports)
        connection = http1.Connection(self._load.ports[queen])
        while self._sent < self._load.jobs:
            self._sent += 1
            if self._load.rate:
                await asyncio.sleep(max(0.0, self._begun + self._sent / self._load.rate - time.monotonic()))
            await self._post(connection, queen)

    async def _post(self, connection: http1.Connection, queen: int) -> None:
        """Sends one job until it is not refused with 503."""
        job = dict(
            operation="image_generation", model="sim", prompt="a red circle", steps=self._load.steps, seed=next(self._numbers))
        body = json.dumps(job).encode()
        while True:
            phase, sent = self._phase, time.monotonic()
            status, said = await answer(connection, "POST", "/v1/jobs", body)
            answered = time.monotonic()
            if status == 200:
                said = http1.as_json(said.encode()).get("job_id", said)
                self._recent.append(said)
                del self._recent[:-RECENT]
            say(["post", phase, status, queen, sent, answered, said])
            if status != 503:
                return
            await asyncio.sleep(AGAIN_AFTER)

    async def _ask(self, number: int) -> None:
        queen = number % len(self._load.ports)
        connection = http1.Connection(self._load.ports[queen])
        draw = random.Random(number)
        while True:
            await asyncio.sleep(ASK_EVERY)
            if not self._recent:
                continue
            job = draw.choice(self._recent)
            phase, sent = self._phase, time.monotonic()
            status, said = await answer(connection, "GET", f"/v1/jobs/{job}")
            say(["get", phase, status, queen, sent, time.monotonic(), job if status == 200 else f"{job}: {said}"])


async def answer(connection: http1.Connection, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    """Status and text; 0 and the reason where there was no answer."""
    try:
        status, said = await connection.ask(method, path, body)
        return status, said.decode(errors="replace")
    except (OSError, EOFError) as error:
        return 0, f"no answer: {error!r}"


def say(line: list) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    asyncio.run(Senders(Load(**json.loads(sys.argv[1]))).run())
