"""From what was measured to numbers, and to a table."""

from __future__ import annotations

import math


def quantile(values: list[float], q: float) -> float | None:
    """The smallest value that so large a part of them does not exceed."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def spread(seconds: list[float]) -> dict[str, float | int | None]:
    """Milliseconds."""
    ms = {name: quantile(seconds, q) for name, q in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0))}
    return {"count": len(seconds), **{name: None if value is None else round(value * 1000, 2) for name, value in ms.items()}}


def per_second(times: list[float]) -> float | None:
    """Of what happened at these times."""
    if len(times) < 2 or max(times) == min(times):
        return None
    return round(len(times) / (max(times) - min(times)), 1)


# Heading, and the way to the value in the results.
ROWS: list[tuple[str, str]] = [
    ("POST: answers a second", "post.per_second"),
    ("POST: p50, ms", "post.storm.p50_ms"),
    ("POST: p99, ms", "post.storm.p99_ms"),
    ("POST of a calm pool: p50, ms", "post.calm.p50_ms"),
    ("POST of a calm pool: p99, ms", "post.calm.p99_ms"),
    ("POST: refused with 503", "post.refused"),
    ("GET: p50, ms", "get.storm.p50_ms"),
    ("GET: p99, ms", "get.storm.p99_ms"),
    ("GET of a calm pool: p50, ms", "get.calm.p50_ms"),
    ("pick-up: p50, ms", "pick_up.storm.p50_ms"),
    ("pick-up: p99, ms", "pick_up.storm.p99_ms"),
    ("pick-up of a calm pool: p50, ms", "pick_up.calm.p50_ms"),
    ("pick-up of a calm pool: p99, ms", "pick_up.calm.p99_ms"),
    ("jobs a second", "jobs_per_second"),
    ("attempts beyond the first", "attempts_beyond_the_first"),
    ("streams open: median", "streams.open_median"),
    ("streams open: most", "streams.open_most"),
    ("streams refused with 503", "streams.refused"),
    ("consumers of EVENTS: most", "consumers_of_events"),
    ("queen with the streams: VmRSS before, MiB", "memory.queen0.before"),
    ("queen with the streams: VmRSS after, MiB", "memory.queen0.after"),
    ("queen with the streams: VmHWM, MiB", "memory.queen0.hwm"),
    ("other queen: VmRSS before, MiB", "memory.queen1.before"),
    ("other queen: VmRSS after, MiB", "memory.queen1.after"),
    ("other queen: VmHWM, MiB", "memory.queen1.hwm"),
    ("nats-server: VmRSS before, MiB", "memory.nats-server.before"),
    ("nats-server: VmRSS after, MiB", "memory.nats-server.after"),
    ("nats-server: VmHWM, MiB", "memory.nats-server.hwm"),
    ("largest worker: VmHWM, MiB", "memory.largest_worker_hwm"),
    ("all workers: RssAnon, MiB", "memory.workers_anonymous"),
    ("CPU of both queens, ms a job", "work_of_a_job.queens_ms"),
    ("CPU of nats-server, ms a job", "work_of_a_job.nats_ms"),
    ("CPU of all workers, ms a job", "work_of_a_job.workers_ms"),
    ("requests for jobs, a second", "requests_a_second.for_jobs"),
    ("requests for a message of a stream, a second", "requests_a_second.for_messages"),
    ("other requests to JetStream's API, a second", "requests_a_second.others"),
    ("messages to nats-server, a job", "work_of_a_job.messages_in"),
    ("messages from nats-server, a job", "work_of_a_job.messages_out"),
    ("delay of the senders: p99, ms", "own_delay.senders.p99_ms"),
    ("delay of the readers: p99, ms", "own_delay.readers.p99_ms"),
    ("warnings in the logs of the pool", "log.warnings"),
    ("violations", "violations"),
]


def look_up(results: dict, way: str) -> object:
    for step in way.split("."):
        results = results[step]
    return results


def markdown(results: dict) -> str:
    sizes = results["sizes"]
    title = ", ".join(f"{name} {value}" for name, value in sizes.items())
    lines = [f"| {title} | {results['bin']} |", "|---|---:|"]
    for heading, way in ROWS:
        value = look_up(results, way)
        lines.append(f"| {heading} | {'none' if value is None else value} |")
    return "\n".join(lines)
