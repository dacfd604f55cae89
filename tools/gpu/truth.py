"""Every family's pictures by the worker on this device, in each type, against the CPU's in f32: alone, in a batch, resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy

import cases
import places
import reference
import resume
from cases import Case
from client import Door, JobFailed, Silent, completed
from diffusers_truth import Diffusers
from part import Part
from pictures import Apart, Sheet, apart, pixels, worst
from process import Died, Process
from report import FAILED, GOOD, brief
from service import Service

# The most that the mean of a picture's differences may be, of 255. In f32 sums are made in another order, and nothing
# else is different. Halves have 11 and 8 bits: where diffusers itself is farther from its own f32, that far is allowed.
ALLOWED = dict(f32=0.05, f16=1.0, bf16=1.0)
SLOTS = 4
# Workers that are started for a type, where jobs take them along.
STARTS = 4
# Of the jobs that are sent at once: the first seed, and how many pictures each draws. All references are used.
BATCH = ((0, 2), (2, 1), (3, 1))
WARNING = "decoded in f32"
# A CPU computes in f32 whatever weights are kept in: there one type beside f32 shows as much as two.
TYPES = dict(cuda=tuple(ALLOWED), cpu=("f32", "bf16"))
# Jobs that are resumed, and the steps that each takes: there must be time to kill its worker.
RESUMED = dict(cuda=("text_ddim", "channels_euler", "xl_text", "text_dev"), cpu=("text_ddim", "text_dev"))
STEPS = dict(cuda=150, cpu=24)


class Truth:
    """What is known of each case and type, as rows."""

    def __init__(self, part: Part, wanted: Callable[[Case, int], numpy.ndarray], beside: Diffusers) -> None:
        self._part = part
        self._wanted = wanted
        self._sheet = Sheet(Path(part.settings.out) / "worst.png")
        self._beside = beside
        self._known: dict[tuple[str, str], Callable[[], None]] = {}
        beside.heard = self._again

    def _again(self, case: str, dtype: str) -> None:
        """Diffusers' figure has come after ours."""
        if show := self._known.get((case, dtype)):
            show()

    def compare(self, pool: Service, door: Door, case: Case, dtype: str) -> None:
        begun = time.monotonic()
        try:
            alone, warnings = self._alone(door, case, dtype)
            batch = self._batch(door, case, dtype)
        except (JobFailed, Died, OSError) as error:
            self._part.row(dtype, case.name, dict(family=case.family), FAILED, brief(error))
            if isinstance(error, JobFailed) and not isinstance(error, Silent):
                pool.check()
                return
            raise
        seconds = time.monotonic() - begun
        told = self._warning(case, dtype, warnings)

        def show() -> None:
            theirs = self._beside.of(case, dtype)
            allowed = max(ALLOWED[dtype], theirs) if isinstance(theirs, float) else ALLOWED[dtype]
            far = max(alone.mean, batch.mean) > allowed
            cells = {
                "family": case.family, "alone, mean of 255": round(alone.mean, 5), "most": alone.most,
                "in a batch, mean": round(batch.mean, 5), "most in a batch": batch.most, "allowed mean": allowed,
                "diffusers in this type to its f32, mean": theirs, "seconds": round(seconds, 2)}
            note = "farther from the CPU's picture than is allowed" if far else told
            self._part.row(dtype, case.name, cells, FAILED if note else GOOD, note)

        self._known[case.name, dtype] = show
        show()

    def _alone(self, door: Door, case: Case, dtype: str) -> tuple[Apart, list[str]]:
        event = door.draw(case.operation())
        return self._measure(case, dtype, 0, door.pictures(event)[0]), event["warnings"]

    def _batch(self, door: Door, case: Case, dtype: str) -> Apart:
        """Several jobs that run together, one of them of two pictures."""
        with ThreadPoolExecutor(len(BATCH)) as threads:
            ids = list(threads.map(lambda job: door.submit(case.operation(*job)), BATCH))
            events = [completed(event) for event in threads.map(door.follow, ids)]
        values = []
        for (seed, _), event in zip(BATCH, events):
            for i, file in enumerate(door.pictures(event)):
                values.append(self._measure(case, dtype, seed + i, file))
        return worst(values)

    def _measure(self, case: Case, dtype: str, seed: int, file: bytes) -> Apart:
        wanted, drawn = self._wanted(case, seed), pixels(file)
        value = apart(drawn, wanted)
        self._sheet.add(f"{dtype} {case.name} {seed}", wanted, drawn, value.mean)
        return value

    def _warning(self, case: Case, dtype: str, warnings: list[str]) -> str:
        """A GPU computes in the type that it is told; a CPU always in f32."""
        due = case.name == cases.OVERFLOW and dtype == "f16" and self._part.settings.on_gpu
        told = any(WARNING in warning for warning in warnings)
        if due == told:
            return ""
        return "no warning that it was decoded in f32" if due else f"warned: {'; '.join(warnings)}"

    def save_sheet(self) -> None:
        self._sheet.save()


def resumed(part: Part, pool: Service, worker: Process, flags: list[str], chosen: list[Case], dtype: str) -> None:
    steps = STEPS[part.settings.device]
    picked = [case for case in chosen if case.name in RESUMED[part.settings.device]]
    jobs = [case.operation(steps=steps) for case in picked]
    try:
        outcomes = resume.killed(pool, worker, lambda: pool.worker("second", *flags), jobs, part.left() / 2)
    except (JobFailed, Died, OSError) as error:
        part.row(f"{dtype}, resumed", "all", verdict=FAILED, note=brief(error))
        return
    for case, outcome in zip(picked, outcomes):
        value = apart(pixels(outcome.resumed[0]), pixels(outcome.undisturbed[0]))
        same = outcome.resumed == outcome.undisturbed
        note = "" if same else "the bytes differ"
        good = value.mean <= ALLOWED[dtype] and outcome.went_on_from > 0
        if not outcome.went_on_from:
            note = "the second worker began anew"
        cells = {
            "family": case.family, "went on from step": f"{outcome.went_on_from} of {steps}",
            "to the undisturbed picture, mean": round(value.mean, 5), "same bytes": "yes" if same else "no"}
        part.row(f"{dtype}, resumed", case.name, cells, GOOD if good else FAILED, note)


def in_type(part: Part, truth: Truth, chosen: list[Case], dtype: str) -> None:
    """All cases in one type. A job that takes its worker along leaves the others a new one."""
    flags = ["--dtype", dtype, "--slots", str(SLOTS), "--lora-dir", str(places.LORAS), *resume.FLAGS]
    models = cases.models(chosen, part.scratch)
    rest = list(chosen)
    for start in range(STARTS):
        try:
            with Service(part, f"{dtype}-{start}", models) as pool:
                begun = time.monotonic()
                worker = pool.worker("first", *flags)
                part.log(f"{dtype}: a worker of {len(models)} models was ready in {time.monotonic() - begun:.1f} s")
                while rest:
                    truth.compare(pool, pool.door(worker), rest.pop(0), dtype)
                resumed(part, pool, worker, flags, chosen, dtype)
            return
        except (JobFailed, Died, OSError) as error:
            part.log(f"{dtype}: {error}")
            if len(rest) == len(chosen):
                part.row(dtype, "worker", verdict=FAILED, note=brief(error))
                return
    for case in rest:
        part.row(dtype, case.name, dict(family=case.family), FAILED, f"not tried: {STARTS} workers were lost")


def run(part: Part) -> None:
    chosen = cases.every()
    with Diffusers(part) as beside:
        truth = Truth(part, reference.reader(part, chosen), beside)
        for dtype in TYPES[part.settings.device]:
            in_type(part, truth, chosen, dtype)
            truth.save_sheet()
        beside.wait(part.left() - 3)
