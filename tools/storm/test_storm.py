"""What a run holds for wrong, and how it counts, without a pool: `python -m unittest` in this folder."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import report
from http1 import parse_head
from store import kept
from verify import Evidence, Kept, Log, verify


def complete(job: str, seq: int = 2, size: int = 9) -> dict:
    images = [dict(key=f"jobs/{job}/0.png", bytes=size, sha256="00")]
    return dict(type="complete", job_id=job, seq=seq, attempt=1, images=images)


def log(job: str = "a", *more: dict) -> Log:
    """Of a job that ended well, and whatever came then."""
    heard = Log()
    events = [dict(type="accepted", job_id=job, seq=0, attempt=1), dict(type="progress", seq=1, attempt=1), complete(job), *more]
    for number, event in enumerate(events):
        heard.hear(event, float(number))
    return heard


def in_store(job: str = "a") -> Kept:
    return Kept(dict(event=complete(job)), {f"jobs/{job}/result.json": 99, f"jobs/{job}/0.png": 9})


class Violations(unittest.TestCase):
    def setUp(self) -> None:
        self.evidence = Evidence(["a"], {"a": log()}, {"a": in_store()})

    def found(self) -> list[str]:
        return verify(self.evidence)

    def test_a_job_with_one_end_and_one_result_is_right(self) -> None:
        self.assertEqual(self.found(), [])

    def test_a_job_without_an_end_is_lost(self) -> None:
        for logs in ({}, {"a": Log()}):
            self.evidence.logs = logs
            self.assertEqual(self.found(), ["a: has 0 terminal events and not one"])

    def test_a_second_end_is_told_and_so_is_an_event_after_the_end(self) -> None:
        self.evidence.logs = {"a": log("a", complete("a", 3))}
        self.assertEqual(self.found(), ["a: complete 3 comes after its end", "a: has 2 terminal events and not one"])
        self.evidence.logs = {"a": log("a", dict(type="progress", seq=3))}
        self.assertEqual(self.found(), ["a: progress 3 comes after its end"])

    def test_an_event_that_was_there_already_is_told(self) -> None:
        heard = Log()
        for event in (dict(type="accepted", seq=1), dict(type="progress", seq=1), complete("a", 2)):
            heard.hear(event, 0.0)
        self.evidence.logs = {"a": heard}
        self.assertEqual(self.found(), ["a: event 1 comes after event 1"])

    def test_every_job_must_end_in_complete(self) -> None:
        ended = Log()
        ended.hear(dict(type="error", seq=0, attempt=3, code="internal", message="no luck"), 0.0)
        self.evidence.logs = {"a": ended}
        self.assertEqual(self.found(), ["a: ended in error internal no luck"])
        self.assertEqual(ended.attempts, 3)

    def test_a_job_that_is_complete_has_its_result_and_its_picture_in_the_store(self) -> None:
        self.evidence.kept = {}
        self.assertEqual(self.found(), ["a: is complete and has no result.json"])
        there = in_store()
        del there.files["jobs/a/0.png"]
        self.evidence.kept = {"a": there}
        self.assertEqual(self.found(), ["a: jobs/a/0.png has None bytes in the store and not 9"])

    def test_the_result_is_that_of_the_event(self) -> None:
        self.evidence.kept["a"].result = dict(event=complete("a", size=8))
        self.assertEqual(len(self.found()), 1)
        self.assertIn("result.json names [('jobs/a/0.png', 8", self.found()[0])

    def test_pictures_that_differ_in_their_bytes_alone_are_others(self) -> None:
        self.evidence.kept["a"].result["event"]["images"][0]["sha256"] = "11"
        self.assertIn("result.json names", self.found()[0])

    def test_a_job_that_has_ended_leaves_nothing_but_its_result(self) -> None:
        # A lost attempt may have put a picture of its own.
        self.evidence.kept["a"].files["jobs/a/1-0.png"] = 9
        self.assertEqual(self.found(), [])
        self.evidence.kept["a"].files["jobs/a/checkpoint"] = 9
        self.assertEqual(self.found(), ["a: has ended, and jobs/a/checkpoint was left"])

    def test_jobs_that_nobody_sent_and_ids_that_were_given_twice_are_told(self) -> None:
        self.evidence.logs["b"] = log("b")
        self.assertEqual(self.found(), ["b: nobody has sent it"])
        self.evidence.accepted = ["a", "b", "b"]
        self.evidence.kept["b"] = in_store("b")
        self.assertEqual(self.found(), ["1 ids were given to two jobs"])

    def test_what_is_left_in_the_streams_is_told_and_what_clients_have_seen(self) -> None:
        self.evidence.jobs_left, self.evidence.dead_letters = 2, 1
        self.evidence.complaints = ["POST was answered by 500"]
        self.assertEqual(
            self.found(), ["POST was answered by 500", "2 messages are left in JOBS", "there are 1 dead letters"])

    def test_the_first_accepted_event_is_the_pick_up(self) -> None:
        heard = log("a")
        self.assertEqual((heard.accepted_at, heard.ended_at), (0.0, 2.0))


class Store(unittest.TestCase):
    def test_what_is_below_jobs_is_read_by_job(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder)
            (store / "inputs").mkdir()
            (store / "inputs/00").write_bytes(b"no job")
            (store / "jobs/a/x").mkdir(parents=True)
            (store / "jobs/a/result.json").write_text('{"event": {"images": []}}')
            (store / "jobs/a/x/0.png").write_bytes(b"123")
            found = kept(store)
        self.assertEqual(list(found), ["a"])
        self.assertEqual(found["a"].result, {"event": {"images": []}})
        self.assertEqual(found["a"].files["jobs/a/x/0.png"], 3)


class Figures(unittest.TestCase):
    def test_a_quantile_is_one_of_the_values(self) -> None:
        values = [float(value) for value in range(100, 0, -1)]
        self.assertEqual([report.quantile(values, q) for q in (0.5, 0.99, 1.0)], [50.0, 99.0, 100.0])
        self.assertEqual(report.quantile([7.0], 0.99), 7.0)
        self.assertIsNone(report.quantile([], 0.5))

    def test_seconds_are_told_in_milliseconds(self) -> None:
        self.assertEqual(report.spread([0.002, -0.001, 0.004]), dict(count=3, p50_ms=2.0, p99_ms=4.0, max_ms=4.0))
        self.assertEqual(report.spread([]), dict(count=0, p50_ms=None, p99_ms=None, max_ms=None))

    def test_a_rate_is_of_the_time_in_which_things_happened(self) -> None:
        self.assertEqual(report.per_second([1.0, 3.0, 2.0, 3.0]), 2.0)
        self.assertIsNone(report.per_second([1.0]))

    def test_the_head_of_an_answer_is_read_whatever_the_case_of_its_names(self) -> None:
        head = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nCONTENT-length: 12\r\n\r\n"
        self.assertEqual(parse_head(head), (503, {"retry-after": "1", "content-length": "12"}))


if __name__ == "__main__":
    unittest.main()
