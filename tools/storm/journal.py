"""The streams of NATS, read beside the pool: every event as it comes, and how JOBS, EVENTS and DLQ stand."""

from __future__ import annotations

import json
import time

import nats
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError
from verify import TERMINAL, Log

# Messages and bytes that may wait to be read.
WAITING = dict(pending_msgs_limit=1 << 22, pending_bytes_limit=1 << 30)


class Journal:
    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self.logs: dict[str, Log] = {}
        self.ended = 0
        self.events = 0
        self.heard_at = time.monotonic()
        self.complaints: list[str] = []

    async def __aenter__(self) -> Journal:
        self._client = await nats.connect(self._urls, error_cb=self._complain)
        self._context = self._client.jetstream(timeout=30)
        # One consumer, in the order of the stream; a gap makes it begin again behind the last event that it has.
        await self._context.subscribe("events.*", stream="EVENTS", cb=self._hear, ordered_consumer=True, **WAITING)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def _complain(self, error: Exception) -> None:
        self.complaints.append(f"events could not be read: {error!r}")

    async def _hear(self, message: Msg) -> None:
        now = time.monotonic()
        event = json.loads(message.data)
        job = message.subject.rsplit(".", 1)[1]
        log = self.logs.setdefault(job, Log())
        log.hear(event, now)
        self.events += 1
        self.heard_at = now
        if event["type"] in TERMINAL and len(log.ends) == 1:
            self.ended += 1

    async def messages(self, stream: str) -> int:
        """How many are in it; a stream that nobody has made yet has none."""
        try:
            return (await self._context.stream_info(stream)).state.messages
        except NotFoundError:
            return 0

    async def requests_for_jobs(self) -> int:
        """That stand, of workers that wait for a job of the pool's one model."""
        return (await self._context.consumer_info("JOBS", "generate-sim")).num_waiting or 0

    async def consumers_of_events(self) -> int:
        """Without our own."""
        return (await self._context.stream_info("EVENTS")).state.consumer_count - 1
