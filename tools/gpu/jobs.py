"""A whole job, from the client to the picture in the store: over NATS alone, durable through queen, four at a time, one
that is cancelled, one whose worker is killed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import places
import resume
from client import JobFailed, completed
from part import Part, has
from process import Died
from report import FAILED, GOOD, NOT_COMPARED, brief
from service import Service

TABLE = "Whole jobs"
MODEL = "shapes"
SLOTS = 4
# Steps of a job that is to be met while it runs.
LONG = dict(cuda=150, cpu=20)
PATIENCE = 60.0
JOB = dict(operation="image_generation", model=MODEL, prompt="a large red circle on a blue background", seed=7)
# What the checkpoint was trained for, and what a debug build draws in no time.
SIZE = dict(cuda=dict(width=128, height=128, steps=8), cpu=dict(width=64, height=64, steps=2))


class Failed(Exception):
    """Something is not as it must be."""


def must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)


async def requested(url: str, operation: dict[str, object]) -> dict:
    """The one reply to a request. No responders means that no worker has a free slot yet."""
    import nats
    import nats.errors

    client = await nats.connect(url, max_reconnect_attempts=1)
    body = json.dumps({**operation, "stream": False}).encode()
    end = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                return json.loads((await client.request("image.generate", body, timeout=PATIENCE)).data)
            except nats.errors.NoRespondersError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.05)
    finally:
        await client.close()


class Jobs:
    """Each method is a row; what it gives is what was seen."""

    def __init__(self, part: Part, pool: Service, long: int) -> None:
        self._part = part
        self._pool = pool
        self._queen = pool.queen
        self._job = JOB | SIZE[part.settings.device]
        self._long = self._job | dict(steps=long)
        self._durable: list[bytes] = []

    def durable(self) -> str:
        event = self._queen.draw(self._job)
        self._durable = self._queen.pictures(event)
        image = event["images"][0]
        where = {name: event["timings_ms"][name] for name in ("text", "denoise", "decode", "upload")}
        return f"{image['width']}x{image['height']}, {image['bytes']} bytes in the store; ms: {where}"

    def request(self) -> str:
        event = completed(asyncio.run(requested(self._pool.nats_url, self._job)))
        same = self._queen.pictures(event) == self._durable
        must(same, "the picture is another than the durable job's")
        return "the durable job's picture, byte for byte"

    def together(self) -> str:
        jobs = [self._job | dict(seed=seed) for seed in range(SLOTS)]
        begun = time.monotonic()
        with ThreadPoolExecutor(SLOTS) as threads:
            events = list(threads.map(self._queen.draw, jobs))
        seconds = time.monotonic() - begun
        files = {self._queen.pictures(event)[0] for event in events}
        must(len(files) == SLOTS, f"{SLOTS} seeds gave {len(files)} pictures")
        return f"{SLOTS} pictures in {seconds:.2f} s"

    def cancelled(self) -> str:
        job = self._queen.submit(self._long)
        answers: list[int] = []

        def seen(event: dict) -> None:
            if event["type"] == "progress" and not answers:
                answers.append(self._queen.cancel(job))

        event = self._queen.follow(job, seen)
        must(answers == [202], f"the answer to DELETE was {answers}")
        must(event["type"] == "cancelled", f"the job ended in {event['type']}")
        return f"at step {event['step']} of {self._long['steps']}"

    def killed(self, worker, again: Callable) -> str:
        jobs = [self._long]
        (outcome,) = resume.killed(self._pool, worker, again, jobs, self._part.left() / 2)
        must(outcome.went_on_from > 0, "the second worker began anew")
        must(outcome.resumed == outcome.undisturbed, "the picture is another than an undisturbed run's")
        return f"went on from step {outcome.went_on_from} of {self._long['steps']}, attempt {outcome.attempt}; the same bytes"


def run(part: Part) -> None:
    long = LONG[part.settings.device]
    flags = ["--slots", str(SLOTS), *resume.FLAGS]

    def tried(name: str, what: Callable[[], str]) -> None:
        begun = time.monotonic()
        try:
            seen, verdict, note = what(), GOOD, ""
        except (Failed, JobFailed, Died, OSError) as error:
            seen, verdict, note = "", FAILED, brief(error)
        part.row(TABLE, name, dict(seen=seen, seconds=round(time.monotonic() - begun, 2)), verdict, note)

    with Service(part, "pool", {MODEL: places.SHAPES}) as pool:
        begun = time.monotonic()
        worker = pool.worker("first", *flags)
        part.row(TABLE, "the worker starts", dict(seen="/ready", seconds=round(time.monotonic() - begun, 2)), GOOD)
        jobs = Jobs(part, pool, long)
        tried("durable job through queen", jobs.durable)
        if has("nats"):
            tried("request over NATS", jobs.request)
        else:
            part.row(TABLE, "request over NATS", verdict=NOT_COMPARED, note="nats-py is not installed here: not tried")
        tried(f"{SLOTS} at a time", jobs.together)
        tried("cancelled", jobs.cancelled)
        tried("killed and resumed", lambda: jobs.killed(worker, lambda: pool.worker("second", *flags)))
