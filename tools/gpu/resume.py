"""Jobs whose worker is killed half way: another one goes on from their checkpoints, and draws what they would have been."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from client import JobFailed
from process import Process
from service import Service

# After every job has a checkpoint, a worker is killed when this part of an undisturbed run's time has gone by. Where a job
# has ended by then it is tried again, sooner.
PARTS = (0.35, 0.15, 0.0)
# Checkpoints after every step.
FLAGS = ("--checkpoint-every", "0s")


@dataclass
class Followed:
    """What was heard of a job."""

    job: str
    events: list[dict] = field(default_factory=list)

    def hear(self, event: dict) -> None:
        self.events.append(event)

    def went_on_from(self) -> int:
        """The steps that the second worker did not have to do again; 0 where it began anew."""
        second = [event for event in self.events if event.get("attempt", 1) > 1 and event["type"] == "progress"]
        return second[0]["step"] - 1 if second else 0


@dataclass(frozen=True)
class Outcome:
    """A job that was resumed, beside one that was left alone."""

    undisturbed: list[bytes]
    resumed: list[bytes]
    # Steps that were not done again, and the failed attempts, the last one counted.
    went_on_from: int
    attempt: int


def killed(pool: Service, worker: Process, again: Callable[[], Process], jobs: list[dict], patience: float) -> list[Outcome]:
    """Draws `jobs` together on `worker`, undisturbed; then once more, kills it half way, and starts another."""
    queen = pool.queen
    end = time.monotonic() + patience
    with ThreadPoolExecutor(len(jobs)) as threads:
        begun = time.monotonic()
        undisturbed = list(threads.map(queen.draw, jobs))
        seconds = time.monotonic() - begun
        wanted = [queen.pictures(event) for event in undisturbed]
        for part in PARTS:
            followed = [Followed(queen.submit(job)) for job in jobs]
            ends = [threads.submit(queen.follow, one.job, one.hear) for one in followed]
            if half_way(pool, followed, ends, part * seconds, end):
                break
            for future in ends:
                future.result()
        else:
            raise JobFailed(f"jobs that take {seconds:.2f} s left no moment to kill their worker in")
        pool.kill(worker)
        again()
        events = [future.result() for future in ends]
    outcomes = []
    for one, want, event in zip(followed, wanted, events, strict=True):
        if event["type"] != "complete":
            raise JobFailed(f"a job that was to go on ended in {event['type']}: {event.get('message', '')}")
        outcomes.append(Outcome(want, queen.pictures(event), one.went_on_from(), event["attempt"]))
    return outcomes


def half_way(pool: Service, followed: list[Followed], ends: list[Future], pause: float, end: float) -> bool:
    """Waits until each job has a checkpoint, and a while more; false where one of them has ended."""
    while not all(pool.checkpoint(one.job).exists() for one in followed):
        if any(future.done() for future in ends) or time.monotonic() > end:
            return False
        time.sleep(0.002)
    time.sleep(pause)
    return not any(future.done() for future in ends)
