"""What is measured, how it is told, and a short run with real programs: `python -m unittest` in this folder.

The programs are beside SD_WORKER, or in target/debug."""

from __future__ import annotations

import contextlib
import io
import json
import os
import unittest
from pathlib import Path

import run
from cells import FLOOD, FULL, HALF, Cell, cell
from tables import markdown, missed

SIZES = dict(rate=30.0, seconds=60.0, steps=10, flood=500)


def results(p99: float = 20.0, refused: int = 0, after: float = 30.0) -> dict:
    spread = dict(p50_ms=1.0, p99_ms=p99, max_ms=p99)
    work = {name: 1.5 for name in (
        "messages_in", "messages_out", "kib_in", "kib_out", "queens_ms", "nats_ms", "workers_ms")}
    memory = dict(before=28.0, after=after, hwm=40.0)
    return dict(
        sizes=dict(jobs=1800), jobs_per_second=None, post=dict(refused=refused, storm=spread), pick_up=dict(storm=spread),
        jobs_of_a_worker=dict(least=0, median=1.5, most=9), violations=0,
        requests_a_second=dict(for_jobs=90.0, for_messages=9.0, others=None), log=dict(warnings=0),
        own_delay=dict(readers=spread), work_of_a_job=work, cores=dict(queens=0.1, nats=0.2),
        memory={"nats-server": memory, "queen0": memory, "queen1": memory})


class Cells(unittest.TestCase):
    def test_at_half_load_as_many_jobs_come_in_every_pool_and_half_the_workers_are_busy(self) -> None:
        for workers, step_ms in ((10, 17), (100, 167), (1000, 1667)):
            one = cell(workers, 1, 1, HALF, **SIZES)
            busy = one.rate * one.steps * one.step_ms / 1000
            self.assertEqual((one.step_ms, round(busy / workers, 6)), (step_ms, 0.5))
            self.assertAlmostEqual(one.rate, 30.0, delta=0.7)
            self.assertEqual(one.jobs, round(one.rate * 60))

    def test_at_full_load_twice_as_many_come_and_a_flood_comes_as_fast_as_it_is_taken(self) -> None:
        half, full = (cell(300, 4, 3, load, **SIZES) for load in (HALF, FULL))
        self.assertEqual((full.rate, full.step_ms), (2 * half.rate, half.step_ms))
        self.assertEqual(cell(300, 4, 3, FLOOD, **SIZES), Cell(300, 4, 3, FLOOD, 0, 1, 500, 0.0))

    def test_every_pool_that_was_asked_for_is_measured_once(self) -> None:
        args = run.arguments(["--workers", "10,20", "--queens", "1,4", "--servers", "1,3", "--load", "half,flood"])
        all_cells = list(run.cells(args))
        self.assertEqual((len(all_cells), len(set(all_cells))), (16, 16))

    def test_what_cannot_be_measured_is_refused(self) -> None:
        for bad in (["--workers", "0"], ["--servers", "2"], ["--load", "some"], ["--rate", "0"], ["--queens", "x"]):
            with self.subTest(bad), contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
                run.arguments(bad)


class Tables(unittest.TestCase):
    def test_each_pool_is_a_row_of_both_tables(self) -> None:
        rows = [(cell(10, 1, 1, load, **SIZES), results()) for load in (HALF, FULL)]
        text = markdown(rows)
        self.assertEqual(text.count("\n| 10 workers, queens 1, servers 1, half |"), 2)
        self.assertEqual(len({line.count("|") for line in text.split("\n\n")[0].splitlines()}), 1)
        self.assertIn("| 0, 1.5, 9 |", text)
        self.assertIn("| none |", text)
        self.assertIn("| 28, 30, 40 |", text)

    def test_goals_that_were_missed_are_told(self) -> None:
        half, full = (cell(10, 1, 1, load, **SIZES) for load in (HALF, FULL))
        self.assertEqual(missed(half, results()), [])
        self.assertEqual(missed(half, results(p99=51.0)), ["pick-up p99 is 51.0 ms and not 50 or less"])
        self.assertEqual(missed(full, results(p99=51.0)), [])
        self.assertEqual(missed(full, results(refused=2)), ["2 requests were refused"])
        self.assertEqual(len(missed(half, results(after=50.0))), 2)


class ShortRun(unittest.TestCase):
    def test_a_small_pool_is_measured_at_half_load_and_in_a_flood_and_loses_nothing(self) -> None:
        worker = os.environ.get("SD_WORKER")
        programs = Path(worker).parent if worker else run.ROOT / "target/debug"
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = run.main([
                "--bin", str(programs), "--workers", "12", "--queens", "2", "--load", "half,flood", "--rate", "20", "--seconds",
                "3", "--flood", "300"])
        text = said.getvalue()
        self.assertEqual(code, 0, text)
        half, flood = (json.loads(line) for line in text.splitlines()[:2])
        self.assertEqual((half["sizes"]["jobs"], flood["sizes"]["jobs"]), (60, 300))
        for one in (half, flood):
            self.assertEqual((one["violations"], one["log"]["warnings"], one["post"]["refused"]), (0, 0, 0), one)
            self.assertEqual(one["jobs_of_a_worker"]["median"] > 0, True)
            self.assertGreater(one["work_of_a_job"]["messages_in"], 5)
        self.assertIn("\n| 12 workers, queens 2, servers 1, flood |", text)


if __name__ == "__main__":
    unittest.main()
