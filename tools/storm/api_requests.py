"""What is asked of JetStream while the pool works: requests to its API, counted as they pass, for a while."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import nats
from nats.aio.msg import Msg

# For how many seconds it is listened; queens look at the queue every 5 s.
LISTEN = 10.0
# Seconds from the beginning of the load until then: so many at least, and this part of the time for which jobs are sent.
AFTER, AFTER_PART = 3.0, 0.6
# What a request is for, by how its subject begins.
KINDS = (("$JS.API.CONSUMER.MSG.NEXT.", "for_jobs"), ("$JS.API.STREAM.MSG.GET.", "for_messages"), ("$JS.API.", "others"))


class Requests:
    """A server of 2.9 counts no reads of messages, so they are listened to."""

    def __init__(self, urls: list[str], sending: float) -> None:
        """`sending`: seconds for which jobs are sent; 0: nobody knows."""
        self._urls = urls
        self._after = max(AFTER, AFTER_PART * sending)
        self._seen: Counter[str] = Counter()
        self._listened = 0.0

    async def run(self) -> None:
        await asyncio.sleep(self._after)
        client = await nats.connect(self._urls)
        begun = time.monotonic()
        try:
            await client.subscribe("$JS.API.>", cb=self._hear)
            await asyncio.sleep(LISTEN)
        finally:
            self._listened = time.monotonic() - begun
            await client.close()
        # Whoever watches over this task takes its end for a failure.
        await asyncio.Event().wait()

    async def _hear(self, message: Msg) -> None:
        self._seen[kind_of(message.subject)] += 1

    def per_second(self) -> dict[str, float | None]:
        """By kind; none where it was listened for no time."""
        seconds = self._listened
        return {kind: round(self._seen[kind] / seconds, 1) if seconds else None for _, kind in KINDS}


def kind_of(subject: str) -> str:
    return next(kind for start, kind in KINDS if subject.startswith(start))
