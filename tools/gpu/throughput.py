"""Pictures a second of the worker: jobs wait in queen's queue, and the worker takes as many at a time as it has slots."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from client import JobFailed, completed
from memory import Watch
from models import Model
from part import Part
from process import Died
from report import FAILED, brief
from service import Service

SLOTS = dict(cuda=(1, 4, 8), cpu=(1, 4))
# Jobs for each slot.
JOBS = dict(cuda=3, cpu=1)
# Seconds to start a worker and to draw one picture in each slot, as long as nothing was seen.
FIRST = dict(cuda=15.0, cpu=5.0)


def measure(part: Part, model: Model) -> None:
    device = part.settings.device
    table = f"The worker, {model.title}, {model.steps} steps"
    pace = 0.0
    for slots in SLOTS[device]:
        name = f"--slots {slots}"
        jobs = max(4, JOBS[device] * slots) if part.settings.on_gpu else JOBS[device] * slots
        needed = FIRST[device] + pace * (jobs + slots)
        if needed > part.left() - 5:
            part.skip(table, name, f"{part.left():.0f} s were left, about {needed:.0f} s are needed")
            continue
        try:
            pace = one(part, model, table, name, slots, jobs)
        except (JobFailed, Died, OSError) as error:
            part.row(table, name, verdict=FAILED, note=brief(error))


def one(part: Part, model: Model, table: str, name: str, slots: int, jobs: int) -> float:
    """Seconds for a picture."""
    with Service(part, f"slots-{model.name}-{slots}", {model.name: model.folder}) as pool:
        worker = pool.worker("worker", "--slots", str(slots), "--dtype", model.dtype)
        with ThreadPoolExecutor(jobs) as threads:

            def drawn(seeds: range) -> list[dict]:
                ids = list(threads.map(lambda seed: pool.queen.submit(model.job(seed)), seeds))
                return [completed(event) for event in threads.map(pool.queen.follow, ids)]

            with Watch(part.settings.on_gpu) as watch:
                drawn(range(slots))
            begun = time.monotonic()
            events = drawn(range(100, 100 + jobs))
            seconds = time.monotonic() - begun
    timings = [event["timings_ms"] for event in events]
    cells: dict[str, object] = {"jobs": jobs, "seconds": round(seconds, 2), "pictures/s": round(jobs / seconds, 3)}
    for phase in ("text", "denoise", "decode", "upload"):
        cells[f"{phase}, ms a job"] = round(sum(timing[phase] for timing in timings) / jobs)
    cells["GPU memory, GiB"] = watch.gib(worker.pid)
    part.row(table, name, cells)
    return seconds / jobs
