"""The tables that a run prints, and the goals that it is held against."""

from __future__ import annotations

from cells import HALF, Cell

# At half load.
PICK_UP_P99_MS = 50.0
# VmRSS after all jobs and before the first.
FLAT = 1.5
NONE = "none"

Row = tuple[Cell, dict]


def look_up(results: dict, way: str) -> object:
    for step in way.split("."):
        results = results[step]
    return results


def first_server(results: dict, field: str) -> float:
    return results["memory"]["nats-server"][field]


def queens(results: dict, field: str) -> list[float]:
    return [memory[field] for name, memory in results["memory"].items() if name.startswith("queen")]


def shares(results: dict) -> str:
    jobs = results["jobs_of_a_worker"]
    return f"{jobs['least']}, {jobs['median']:g}, {jobs['most']}"


# Heading, and the value: a way to it in the results, or a function of them.
TIMES = [
    ("jobs", "sizes.jobs"),
    ("jobs a second", "jobs_per_second"),
    ("POST p50, ms", "post.storm.p50_ms"),
    ("POST p99, ms", "post.storm.p99_ms"),
    ("pick-up p50, ms", "pick_up.storm.p50_ms"),
    ("pick-up p99, ms", "pick_up.storm.p99_ms"),
    ("jobs of a worker: least, median, most", shares),
    ("POST refused", "post.refused"),
    ("warnings", "log.warnings"),
    ("own delay p99, ms", "own_delay.readers.p99_ms"),
    ("violations", "violations"),
]
COSTS = [
    ("messages in", "work_of_a_job.messages_in"),
    ("messages out", "work_of_a_job.messages_out"),
    ("KiB in", "work_of_a_job.kib_in"),
    ("KiB out", "work_of_a_job.kib_out"),
    ("CPU of queens, ms", "work_of_a_job.queens_ms"),
    ("CPU of nats-server, ms", "work_of_a_job.nats_ms"),
    ("CPU of workers, ms", "work_of_a_job.workers_ms"),
    ("requests for jobs, a second", "requests_a_second.for_jobs"),
    ("for messages, a second", "requests_a_second.for_messages"),
    ("others, a second", "requests_a_second.others"),
    ("cores: queens", "cores.queens"),
    ("cores: nats-server", "cores.nats"),
    ("largest queen, MiB: before, after, most", lambda results: three(*(max(queens(results, it)) for it in AT))),
    ("nats-server, MiB: before, after, most", lambda results: three(*(first_server(results, it) for it in AT))),
]
AT = ("before", "after", "hwm")


def three(before: float, after: float, most: float) -> str:
    return f"{before:.0f}, {after:.0f}, {most:.0f}"


def value(results: dict, what: object) -> str:
    found = what(results) if callable(what) else look_up(results, what)
    return NONE if found is None else f"{found}"


def table(rows: list[Row], columns: list[tuple[str, object]]) -> str:
    lines = [f"| pool | {' | '.join(heading for heading, _ in columns)} |", "|---" + "|---:" * len(columns) + "|"]
    for cell, results in rows:
        lines.append(f"| {cell.name} | {' | '.join(value(results, what) for _, what in columns)} |")
    return "\n".join(lines)


def markdown(rows: list[Row]) -> str:
    return f"{table(rows, TIMES)}\n\nOf a job, where nothing else is said:\n\n{table(rows, COSTS)}"


def missed(cell: Cell, results: dict) -> list[str]:
    """The goals that this pool did not reach, a line each."""
    found = []
    p99 = results["pick_up"]["storm"]["p99_ms"]
    if cell.load == HALF and (p99 is None or p99 > PICK_UP_P99_MS):
        found.append(f"pick-up p99 is {p99} ms and not {PICK_UP_P99_MS:.0f} or less")
    if results["post"]["refused"]:
        found.append(f"{results['post']['refused']} requests were refused")
    for before, after in zip(queens(results, "before"), queens(results, "after"), strict=True):
        if cell.load == HALF and after > FLAT * before:
            found.append(f"a queen has {after:.0f} MiB after all jobs and had {before:.0f}")
    return found
