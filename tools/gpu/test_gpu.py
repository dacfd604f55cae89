"""A run, without a GPU and without our programs: `python -m unittest` in this folder; seconds."""

from __future__ import annotations

import json
import sys
import textwrap
import time
import unittest
from pathlib import Path
from unittest import mock

import budget
import libraries
import start
from child import Child
from part import Settings
from report import FAILED, GOOD, Report, Row, text
from testing import Folder


class Budgets(unittest.TestCase):
    def test_all_parts_fit_into_a_run_whatever_each_of_them_takes(self) -> None:
        for takes in (0.0, 0.5, 1.0):
            clock = [0.0]
            left = budget.Budget(budget.WHOLE, now=lambda: clock[0])
            for share in budget.SHARES:
                limit = left.begin(share.name)
                assert limit is not None, share.name
                self.assertGreaterEqual(limit, min(share.kept, share.most), share.name)
                clock[0] += limit * takes
            self.assertLessEqual(clock[0], budget.WHOLE - budget.LAST_WORDS)

    def test_what_one_part_leaves_goes_to_those_behind_it_and_all_of_it_to_the_last(self) -> None:
        clock = [0.0]
        left = budget.Budget(budget.WHOLE, ["speed", "where"], now=lambda: clock[0])
        self.assertEqual(left.begin("speed"), 330)
        self.assertEqual(left.begin("where"), left.left())

    def test_a_part_without_time_is_not_begun(self) -> None:
        clock = [0.0]
        left = budget.Budget(100, ["truth", "jobs"], now=lambda: clock[0])
        clock[0] = 94.0
        self.assertIsNone(left.begin("truth"))

    def test_a_short_run_keeps_less_for_everybody(self) -> None:
        left = budget.Budget(100, now=lambda: 0.0)
        self.assertGreater(left.begin("machine") or 0, 20)


class Reports(Folder):
    def rows(self) -> list[dict]:
        return json.loads((self.folder / "results.json").read_text())["rows"]

    def test_a_row_is_in_the_file_at_once_and_a_later_one_takes_its_place(self) -> None:
        report = Report(self.folder, dict(device="cpu"))
        report.add(Row("truth", "f32", "one", dict(mean=0.5), FAILED))
        self.assertEqual(self.rows()[0]["verdict"], FAILED)
        report.add(Row("truth", "f32", "one", dict(mean=0.01), GOOD))
        self.assertEqual([row["verdict"] for row in self.rows()], [GOOD])
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["results.json"])

    def test_only_parts_that_judge_fail_a_run(self) -> None:
        report = Report(self.folder, {})
        report.begin("speed", 10)
        report.end("speed", 10, "killed at its limit of 10 s")
        report.add(Row("speed", "t", "x", verdict=FAILED))
        self.assertEqual(report.failures(), [])
        report.begin("jobs", 10)
        report.end("jobs", 10, "killed at its limit of 10 s")
        report.add(Row("truth", "t", "x", verdict=FAILED, note="far"))
        self.assertEqual(report.failures(), ["truth, t, x: far", "jobs: killed at its limit of 10 s"])

    def test_a_table_has_the_columns_of_all_its_rows(self) -> None:
        report = Report(self.folder, {})
        report.add(Row("speed", "SD", "ours", dict(step=0.25)))
        report.add(Row("speed", "SD", "theirs", dict(ratio=2.0), "skipped", "no | time"))
        said = report.markdown()
        self.assertIn("| SD | step | ratio |  |  |\n|---|---|---|---|---|\n| ours | 0.25 |  |  |  |", said)
        self.assertIn("| theirs |  | 2 | skipped | no \\| time |", said)

    def test_a_number_has_the_digits_that_say_something(self) -> None:
        self.assertEqual([text(x) for x in (0.0, 0.00014, 1.239, 1234.5, 3, None)], ["0", "0.0001", "1.24", "1234.5", "3", ""])


class Children(Folder):
    def child(self, program: str, limit: float = 30.0) -> tuple[Child, Report]:
        report = Report(self.folder, {})
        settings = self.folder / "settings.json"
        settings.write_text("{}")
        file = self.folder / "program.py"
        file.write_text("import json, os, subprocess, sys, time\nrows = os.fdopen(int(sys.argv[3]), 'w')\n" + textwrap.dedent(program))
        return Child("truth", settings, limit, report, self.folder / "log", [sys.executable, str(file)]), report

    def test_a_part_that_hangs_is_killed_with_all_that_it_started_and_its_rows_stay(self) -> None:
        child, report = self.child(
            """
            started = subprocess.Popen(["sleep", "60"])
            row = dict(part="truth", table="t", name="before", cells={"pid": started.pid}, verdict="", note="")
            print(json.dumps(row), file=rows, flush=True)
            time.sleep(60)
            """, 1.5)
        begun = time.monotonic()
        self.assertEqual(child.wait(), "killed at its limit of 2 s")
        self.assertLess(time.monotonic() - begun, 10)
        (row,) = json.loads((self.folder / "results.json").read_text())["rows"]
        self.assertEqual(row["name"], "before")
        self.assertEqual(report.failures(), ["truth: killed at its limit of 2 s"])
        for _ in range(100):
            # Whoever inherited it may not have waited for it yet.
            status = Path(f"/proc/{row['cells']['pid']}/stat")
            if not status.exists() or status.read_text().split()[2] == "Z":
                return
            time.sleep(0.05)
        self.fail("what the part has started is still there")

    def test_a_part_that_fails_says_so_and_a_line_that_is_no_row_is_passed_over(self) -> None:
        child, report = self.child("print('half a r', file=rows, flush=True)\nsys.exit(3)")
        self.assertEqual(child.wait(), "failed with exit code 3")
        self.assertEqual(json.loads((self.folder / "results.json").read_text())["rows"], [])
        self.assertEqual(report.failures(), ["truth: failed with exit code 3"])

    def test_what_a_part_dies_of_is_a_row(self) -> None:
        report = Report(self.folder, {})
        settings = self.folder / "settings.json"
        Settings("cpu", str(self.folder), str(self.folder), str(self.folder), str(self.folder)).save(settings)
        child = Child("where_to", settings, 30, report, self.folder / "log")
        self.assertEqual(child.wait(), "failed with exit code 1")
        (row,) = json.loads((self.folder / "results.json").read_text())["rows"]
        self.assertIn("No module named 'where_to'", row["note"])

    def test_a_part_that_is_stopped_early_ends_at_once(self) -> None:
        child, _ = self.child("time.sleep(60)")
        self.assertEqual(child.stop("stopped: others begin"), "stopped: others begin")


LDD = """
\tlinux-vdso.so.1 (0x00007ffd)
\tlibcuda.so.1 => not found
\tlibcudnn.so.9 => /opt/nvidia/cudnn/lib/libcudnn.so.9 (0x00007f)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f)
undefined symbol: cudnnNew\t(./sd-worker-cuda)
"""


class Libraries(Folder):
    def test_wheels_come_after_what_was_said_and_before_the_system(self) -> None:
        for name in ("said", "site/nvidia/cu13/lib", "site/nvidia/cudnn/lib"):
            (self.folder / name).mkdir(parents=True)
        said = {"LD_LIBRARY_PATH": f"{self.folder}/said:{self.folder}/gone"}
        found = [str(path) for path in libraries.folders(said, [self.folder / "site"])]
        expected = [f"{self.folder}/{name}" for name in ("said", "site/nvidia/cu13/lib", "site/nvidia/cudnn/lib")]
        self.assertEqual(found[:3], expected)
        self.assertTrue(all(Path(path).is_dir() for path in found))

    def test_ldd_is_read(self) -> None:
        links = libraries.read_ldd(LDD)
        self.assertEqual(links.missing, ["libcuda.so.1"])
        self.assertEqual(links.libraries["libcudnn.so.9"], "/opt/nvidia/cudnn/lib/libcudnn.so.9")
        self.assertEqual(links.missing_functions, ["cudnnNew"])

    def complaints(self, links: libraries.Linked, capability: str = "9.0", smi: str | None = "nvidia-smi") -> list[str]:
        card = dict(zip(libraries.QUERY.split(","), ("H", "580", "80 GiB", capability, "1980")))
        with (
            mock.patch.object(libraries, "smi", return_value=smi), mock.patch.object(libraries, "driver", return_value="x"),
            mock.patch.object(libraries, "card", return_value=card), mock.patch.object(libraries, "linked", return_value=links),
        ):
            return libraries.complaints(Path("sd-worker-cuda"), [Path("/a"), Path("/b")], {}, 90)

    def test_what_is_wrong_with_a_machine_is_named_with_where_it_was_looked_for(self) -> None:
        good = libraries.Linked({"libcublas.so.13": "/a/libcublas.so.13"}, [])
        self.assertEqual(self.complaints(good), [])
        (said,) = self.complaints(libraries.Linked({"libcudnn.so.9": None}, ["cudnnCreate"]))
        self.assertEqual(said, "libcudnn.so.9, which sd-worker-cuda needs, was not found; looked for in /a, /b")
        (said,) = self.complaints(libraries.Linked({"libcudnn.so.9": "/a/x"}, ["cudnnNew"]))
        self.assertIn("too old for sd-worker-cuda; it has no cudnnNew", said)
        (said,) = self.complaints(good, capability="8.6")
        self.assertIn("compute capability 8.6, and the programs were built for 9.0", said)
        (said,) = self.complaints(good, smi=None)
        self.assertIn("no driver", said)


class Start(Folder):
    def test_a_pack_that_is_not_whole_is_refused(self) -> None:
        with mock.patch.object(start, "HERE", self.folder), mock.patch("sys.stderr"):
            for content in (None, b"cut"):
                if content is not None:
                    (self.folder / "pack.json").write_text(json.dumps(dict(bytes=4, sha256="0", lean=False)))
                    (self.folder / "pack.tar.xz").write_bytes(content)
                with self.assertRaises(SystemExit) as ended:
                    start.unpack(self.folder / "out")
                self.assertEqual(ended.exception.code, start.CANNOT_BEGIN)

    def test_a_lean_pack_takes_the_rest_from_the_tree_it_lies_in(self) -> None:
        here = self.folder / "target/gpu-pack"
        here.mkdir(parents=True)
        (here / "pack.json").write_text(json.dumps(dict(lean=True)))
        with mock.patch.object(start, "HERE", here), mock.patch("sys.stderr"):
            with self.assertRaises(SystemExit):
                start.take_from_tree(self.folder / "out")
            for name in start.TREE:
                (self.folder / name).mkdir(parents=True)
                (self.folder / name / "file").touch()
            start.take_from_tree(self.folder / "whole")
        self.assertTrue(all((self.folder / "whole" / name / "file").exists() for name in start.TREE))

    def test_only_what_python_lacks_is_installed_and_one_package_in_its_own_version(self) -> None:
        with mock.patch("importlib.metadata.version", side_effect=lambda name: "1.0"):
            self.assertFalse(start.is_wanted(Path("numpy-2.0-py3-none-any.whl")))
            self.assertTrue(start.is_wanted(Path("diffusers-0.42.1-py3-none-any.whl")))
        self.assertTrue(start.is_wanted(Path("no_such_package-1.0-py3-none-any.whl")))


if __name__ == "__main__":
    unittest.main()
