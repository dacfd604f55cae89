"""One run: the load, what is read beside it, and the results."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

from api_requests import Requests
from clock import Delays
from journal import Journal
from processes import Died, Pool
from readers import Readers
from report import per_second, spread
from samples import Samples, Work
from senders import CALM, STORM
from store import kept
from verify import Evidence, verify

HERE = Path(__file__).resolve().parent
# Seconds after the last terminal event, in which a second one would be heard, and streams end.
AFTER = 3.0
# Seconds until every worker that is known asks for jobs.
ASK_WITHIN = 60.0
# Seconds until streams have ended and the stream of jobs is empty.
SETTLES_WITHIN = 60.0
# Violations that are kept in the results.
PRINTED = 40
# Bytes of what the senders have said that may wait to be read.
PIPE = 1 << 20


class Storm:
    """One run."""

    def __init__(self, args: argparse.Namespace, pool: Pool) -> None:
        self._args = args
        self._pool = pool
        self._answers: list[list] = []
        self._accepted: dict[str, tuple[str, float]] = {}
        self._accepted_ids: list[str] = []
        self._refused = 0
        self._sent = False
        self._sender_delays: list[float] | None = None
        self._complaints: list[str] = []

    async def run(self) -> dict:
        args, pool = self._args, self._pool
        await pool.start(tell)
        tell(f"{args.workers} workers are known")
        delays = Delays()
        self._journal = Journal(pool.nats_urls)
        async with self._journal as journal:
            await self._all_ask(journal)
            self._readers = Readers(pool.queen_ports[0], args.streams, self._has_ended)
            samples = Samples(pool, journal, self._readers)
            memory = {program.name: program.memory().rss for program in (*pool.servers, *pool.queens)}
            work = await Work.of(pool)
            self._readers.start()
            requests = Requests(pool.nats_urls, args.jobs / args.rate if args.rate else 0.0)
            beside = [asyncio.create_task(task) for task in (samples.run(), delays.run(), requests.run(), self._tell())]
            try:
                await self._load(beside)
                work = (await Work.of(pool)).since(work)
                await self._settle()
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
                await self._readers.stop()
            evidence = Evidence(
                self._accepted_ids, journal.logs, kept(pool.store), await journal.messages("JOBS"),
                await journal.messages("DLQ"), self._complaints + self._readers.complaints + journal.complaints)
        return self._results(samples, delays, memory, work, requests, evidence)

    async def _all_ask(self, journal: Journal) -> None:
        """Returns when every worker waits for a job: after its first heartbeat it may still look for its queue."""
        end = time.monotonic() + ASK_WITHIN
        while (waiting := await journal.requests_for_jobs()) < self._args.workers:
            self._pool.check()
            if time.monotonic() > end:
                raise Died(f"{waiting} of {self._args.workers} workers ask for jobs after {ASK_WITHIN:.0f} s")
            await asyncio.sleep(0.2)

    def _has_ended(self, job: str) -> bool:
        log = self._journal.logs.get(job)
        return log is not None and bool(log.ends)

    async def _load(self, beside: list[asyncio.Task]) -> None:
        """Sends all jobs, and ends when they have."""
        args = self._args
        load = dict(
            ports=self._pool.queen_ports, calm=args.calm, jobs=args.jobs, steps=args.steps, connections=args.connections,
            asking=args.asking, rate=args.rate)
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "senders.py"), json.dumps(load), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, limit=PIPE, start_new_session=True)
        reading = asyncio.create_task(self._read(child.stdout))
        try:
            while not self._sent and not reading.done():
                await asyncio.sleep(0.2)
                self._check(beside)
            await self._all_ended(beside)
            child.stdin.close()
            await reading
            if await child.wait() or self._sender_delays is None:
                raise Died(f"the senders ended with exit code {child.returncode}")
        finally:
            reading.cancel()
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def _read(self, lines: asyncio.StreamReader) -> None:
        """Takes what the senders say, to its end."""
        async for line in lines:
            kind, *rest = json.loads(line)
            if kind == "sent":
                self._sent = True
                continue
            if kind == "end":
                self._sender_delays = rest[0]
                continue
            self._answers.append([kind, *rest[:-1]])
            phase, status, _queen, _sent, answered, said = rest
            if kind == "post" and status == 200:
                self._accepted[said] = (phase, answered)
                self._accepted_ids.append(said)
                self._readers.offer(said)
            elif kind == "post" and status == 503:
                self._refused += 1
            elif status != 200:
                self._complaints.append(f"{kind.upper()} was answered by {status}: {said[:300]}")

    async def _all_ended(self, beside: list[asyncio.Task]) -> None:
        tell(f"{len(self._accepted)} jobs are taken")
        while not all(map(self._has_ended, self._accepted_ids)):
            await asyncio.sleep(0.2)
            self._check(beside)
            if time.monotonic() - self._journal.heard_at > self._args.patience:
                tell(f"no event came for {self._args.patience:.0f} s")
                return

    async def _settle(self) -> None:
        end = time.monotonic() + SETTLES_WITHIN
        await asyncio.sleep(AFTER)
        while time.monotonic() < end:
            if not self._readers.following and not await self._journal.messages("JOBS"):
                return
            await asyncio.sleep(0.5)

    def _check(self, beside: list[asyncio.Task]) -> None:
        """Raises what has gone wrong."""
        self._pool.check()
        self._readers.check()
        for task in beside:
            if task.done():
                task.result()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(5)
            readers = self._readers
            tell(f"{len(self._accepted)} jobs taken, {self._journal.ended} ended, {readers.open} streams open")

    def _results(
        self, samples: Samples, delays: Delays, before: dict, work: Work, requests: Requests, evidence: Evidence,
    ) -> dict:
        args, logs = self._args, self._journal.logs
        posts = [one for one in self._answers if one[0] == "post" and one[2] == 200]
        storm = {job for job, (phase, _) in self._accepted.items() if phase == STORM}
        first = min((sent for _, phase, _, _, sent, _ in posts if phase == STORM), default=0.0)
        ended = [logs[job].ended_at for job in storm if job in logs and logs[job].ended_at]
        pick_up = {
            wanted: [
                logs[job].accepted_at - answered for job, (phase, answered) in self._accepted.items()
                if phase == wanted and job in logs and logs[job].accepted_at is not None]
            for wanted in (CALM, STORM)}
        programs = (*self._pool.servers, *self._pool.queens)
        memory = {}
        for program in programs:
            now = program.memory()
            memory[program.name] = {"before": mib(before[program.name]), "after": mib(now.rss), "hwm": mib(now.hwm)}
        jobs = max(1, len(logs))
        violations = verify(evidence)
        complaints = [line for program in self._pool for line in program.complaints()]
        streams = samples.open_streams(args.streams)
        return {
            "bin": str(args.bin),
            "sizes": {
                "workers": args.workers, "jobs": args.jobs, "streams": args.streams, "step-ms": args.step_ms, "steps": args.steps,
                "connections": args.connections, "rate": args.rate, "calm": args.calm},
            "machine": {"cores": os.cpu_count(), "load average": os.getloadavg()},
            "post": {
                "per_second": per_second([one[5] for one in posts if one[1] == STORM]), "refused": self._refused,
                **{phase: self._latency("post", phase) for phase in (CALM, STORM)}},
            "get": {phase: self._latency("get", phase) for phase in (CALM, STORM)},
            "pick_up": {phase: spread(times) for phase, times in pick_up.items()},
            "jobs_per_second": per_second([first, *ended]) if ended else None,
            "attempts_beyond_the_first": sum(max(0, log.attempts - 1) for log in logs.values()),
            "events": self._journal.events,
            "streams": {
                "opened": self._readers.opened, "read_to_end": self._readers.read_to_end, "refused": self._readers.refused,
                "events": self._readers.events, "open_most": max(one["streams"] for one in samples.series),
                "open_median": statistics.median(streams) if streams else None},
            "consumers_of_events": samples.consumers,
            "memory": {
                **memory, "workers_anonymous": mib(samples.workers_anonymous), "largest_worker_hwm": mib(samples.largest_worker),
                "series_kib": samples.thinned()},
            "work_of_a_job": {
                "queens_ms": round(work.queens / jobs * 1000, 2), "nats_ms": round(work.nats / jobs * 1000, 2),
                "workers_ms": round(work.workers / jobs * 1000, 2), "messages_in": round(work.messages_in / jobs, 1),
                "messages_out": round(work.messages_out / jobs, 1), "kib_in": round(work.bytes_in / jobs / 1024, 1),
                "kib_out": round(work.bytes_out / jobs / 1024, 1)},
            # Cores that were busy.
            "cores": {
                "queens": round(work.queens / work.at, 3), "nats": round(work.nats / work.at, 3),
                "workers": round(work.workers / work.at, 3)},
            "requests_a_second": requests.per_second(),
            "jobs_of_a_worker": shares([log.worker for log in logs.values() if log.worker], args.workers),
            "own_delay": {"senders": spread(self._sender_delays or []), "readers": spread(delays.all)},
            "log": {"warnings": len(complaints), "first": complaints[:10]},
            "violations": len(violations),
            "violations_first": violations[:PRINTED],
        }

    def _latency(self, kind: str, phase: str) -> dict:
        return spread([one[5] - one[4] for one in self._answers if one[:3] == [kind, phase, 200]])


def shares(workers: list[str], count: int) -> dict:
    """How many of `count` workers had each so many jobs: the least, the median and the most."""
    jobs = sorted([*Counter(workers).values()] + [0] * (count - len(set(workers))))
    return {"least": jobs[0], "median": statistics.median(jobs), "most": jobs[-1]}


def mib(kib: int) -> float:
    return round(kib / 1024, 1)


def tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
