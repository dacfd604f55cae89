"""What a run measures and how it judges, without a GPU and without our programs."""

from __future__ import annotations

import json
import unittest
from pathlib import Path
from unittest import mock

import numpy

import cases
import kernels
import memory
import models
import pictures
import places
import resume
import speed
import truth
import weights
from client import JobFailed, completed
from report import FAILED, GOOD
from testing import Folder


class Pictures(Folder):
    def test_a_picture_of_another_size_is_as_far_off_as_can_be(self) -> None:
        one = numpy.zeros((2, 2, 3), numpy.uint8)
        other = one.copy()
        other[0, 0, 0] = 12
        self.assertEqual(pictures.apart(one, other), pictures.Apart(1.0, 12.0))
        self.assertEqual(pictures.apart(one, one[:1]).mean, 255.0)

    def test_a_sheet_has_the_pairs_that_are_farthest_apart_each_once(self) -> None:
        sheet = pictures.Sheet(self.folder / "worst.png", rows=2)
        picture = numpy.zeros((8, 8, 3), numpy.uint8)
        for name, mean in (("a", 0.0), ("b", 1.0), ("c", 3.0), ("d", 2.0), ("c", 2.5), ("d", 2.2)):
            sheet.add(name, picture, picture + 1, mean)
        sheet.save()
        self.assertEqual([pair[:2] for pair in sheet._pairs], [(3.0, "c"), (2.2, "d")])
        self.assertEqual(pictures.pixels(self.folder / "worst.png").shape, (288, 384, 3))


class Cases(Folder):
    def test_every_family_and_kind_of_job_is_there_with_its_inputs(self) -> None:
        chosen = cases.every()
        self.assertEqual(
            {case.model for case in chosen},
            {"text", "inpaint", "sd2", "turbo", "lcm", "xl", "xl_turbo", "xl_inpaint", "refiner", "schnell", "dev", "overflow"})
        for case in chosen:
            job = case.operation(1, 2)
            self.assertEqual("init_image" in job, case.run["source"] != "text", case.name)
            self.assertEqual("mask_image" in job, case.run["source"] == "inpaint", case.name)
            self.assertEqual((job["seed"], job["n"]), (case.run["seed"] + 1, 2))
            self.assertGreaterEqual(min(case.run["width"], case.run["height"]), 64)
        kohya = next(case for case in chosen if case.name == "lora_kohya")
        self.assertEqual(kohya.operation()["loras"], [dict(path="text/kohya", strength=1.0)])
        self.assertLessEqual({name for names in truth.RESUMED.values() for name in names}, {case.name for case in chosen})

    def test_one_alone_and_a_batch_use_the_references_that_are_drawn(self) -> None:
        seeds = [seed + i for seed, count in truth.BATCH for i in range(count)]
        self.assertEqual(seeds, list(range(cases.SEEDS)))

    def test_the_copy_that_overflows_differs_in_one_layer(self) -> None:
        weights.overflowing_copy(places.DATA / "text", self.folder / "copy")
        before = weights.read(places.DATA / "text" / weights.VAE_WEIGHTS)
        after = weights.read(self.folder / "copy" / weights.VAE_WEIGHTS)
        self.assertEqual([name for name in before if before[name].content != after[name].content], [weights.BEFORE_A_NORM])
        layer = after[weights.BEFORE_A_NORM].array()
        self.assertGreater(abs(layer).max(), 1000)
        self.assertTrue(numpy.isfinite(layer.astype("<f2")).all(), "the weights themselves fit into f16")
        self.assertFalse(json.loads((self.folder / "copy/vae/config.json").read_text())["force_upcast"])


class Beside:
    """Diffusers, of whom is known what a test says."""

    def __init__(self) -> None:
        self.heard = None
        self.said: float | str | None = None

    def of(self, _case: object, _dtype: str) -> float | str | None:
        return self.said


class Verdicts(Folder):
    def shown(self, mean: float, dtype: str, warnings: list[str], name: str = "text_ddim", device: str = "cuda") -> tuple:
        part, rows = self.part(device=device)
        beside = Beside()
        judge = truth.Truth(part, lambda _case, _seed: numpy.zeros((8, 8, 3)), beside)
        case = next(case for case in cases.every() if case.name == name)
        value = pictures.Apart(mean, mean)
        with (
            mock.patch.object(judge, "_alone", return_value=(value, warnings)),
            mock.patch.object(judge, "_batch", return_value=value),
        ):
            judge.compare(None, None, case, dtype)
        return beside, lambda: json.loads(rows.read_text().splitlines()[-1])

    def test_a_picture_may_be_as_far_off_as_its_type_allows(self) -> None:
        for mean, dtype, verdict in ((0.04, "f32", GOOD), (0.06, "f32", FAILED), (0.9, "f16", GOOD), (1.1, "bf16", FAILED)):
            _, row = self.shown(mean, dtype, [])
            self.assertEqual(row()["verdict"], verdict, (mean, dtype))

    def test_where_diffusers_is_farther_off_in_the_same_type_so_much_is_allowed_as_soon_as_it_is_known(self) -> None:
        beside, row = self.shown(1.5, "bf16", [])
        self.assertEqual(row()["verdict"], FAILED)
        beside.said = 2.3
        beside.heard("text_ddim", "bf16")
        self.assertEqual((row()["verdict"], row()["cells"]["allowed mean"]), (GOOD, 2.3))

    def test_a_decode_that_overflows_must_say_so_on_a_gpu_in_f16_and_nowhere_else(self) -> None:
        warned = ["the autoencoder overflowed half precision; the picture was decoded in f32"]
        for dtype, device, warnings, verdict in (
            ("f16", "cuda", warned, GOOD), ("f16", "cuda", [], FAILED), ("bf16", "cuda", warned, FAILED),
            ("f16", "cpu", [], GOOD),
        ):
            _, row = self.shown(0.0, dtype, warnings, cases.OVERFLOW, device)
            self.assertEqual(row()["verdict"], verdict, (dtype, device, warnings))


class Jobs(unittest.TestCase):
    def test_what_the_second_worker_did_not_do_again_is_read_from_its_first_step(self) -> None:
        job = resume.Followed("a")
        for attempt, step in ((1, 1), (1, 6), (2, 8), (2, 20)):
            job.hear(dict(type="progress", attempt=attempt, step=step, total=20))
        self.assertEqual(job.went_on_from(), 7)
        self.assertEqual(resume.Followed("b").went_on_from(), 0)

    def test_a_job_that_ends_in_an_error_says_which(self) -> None:
        with self.assertRaisesRegex(JobFailed, "error: out_of_memory too large"):
            completed(dict(type="error", code="out_of_memory", message="too large"))


RAW = '''==PROF== Connected to process 1
"ID","Process ID","Kernel Name","Block Size","gpu__time_duration.sum"
"","","","","us"
"0","1","gemm","(1, 1, 1)","10.5"
"1","1","copy","(1, 1, 1)","1,002.5"
"2","1","gemm","(1, 1, 1)","4.5"
==PROF== Disconnected
"3","1","gemm","(1, 1'''
DETAILS = '''"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","gemm","gpu__time_duration.sum","ns","2,000"
"0","gemm","launch__grid_size","","8"
"1","gemm","gpu__time_duration.sum","ns","1,000"
'''


class Kernels(unittest.TestCase):
    def test_both_forms_of_ncu_are_read_and_a_line_that_was_cut_off_is_left_out(self) -> None:
        self.assertEqual(kernels.read_ncu(RAW), [kernels.Kernel("copy", 1, 1002.5), kernels.Kernel("gemm", 2, 15.0)])
        self.assertEqual(kernels.read_ncu(DETAILS), [kernels.Kernel("gemm", 2, 3.0)])
        self.assertEqual(kernels.read_ncu("==ERROR== no permission"), [])


class Memory(unittest.TestCase):
    def test_the_most_of_each_process_is_kept_or_else_by_how_much_the_card_rose(self) -> None:
        self.assertIsNone(memory.Watch(False).gib(17))
        watch = memory.Watch(False)
        watch._on_gpu, watch._driver = True, mock.Mock()
        for card, own in ((4, 1), (9, 3), (5, 2)):
            watch.see(memory.Used(card << 30, {17: own << 30}))
        self.assertEqual((watch.gib(17), watch.gib(18)), (3.0, "card +9.00"))

    def test_without_the_drivers_library_nothing_is_told(self) -> None:
        with mock.patch.object(memory.Driver, "_load", side_effect=OSError), memory.Watch(True) as watch:
            pass
        self.assertEqual(watch.gib(17), "not told")


class Speed(Folder):
    MODEL = models.Model("m", "Model", Path("m"), "f16", 64, 2, 20, False)

    def bench(self, left: float = 60.0) -> tuple[speed.Bench, Path, list[str]]:
        part, rows = self.part("speed", "cuda", left)
        bench, asked = speed.Bench(part), []

        def ask(_model: object, who: str, batch: int, steps: int) -> dict:
            asked.append(f"{who} {batch} {steps}")
            pace = {speed.OURS: 0.1, speed.EAGER: 0.2}[who]
            return dict(begin=0.5, steps=pace * steps * batch, finish=0.5)

        self.enterContext(mock.patch.object(bench, "_ask", ask))
        self.enterContext(mock.patch.object(bench, "_peer", lambda *_: mock.Mock(pid=1)))
        return bench, rows, asked

    def test_peers_take_turns_and_a_whole_picture_is_told_from_fewer_steps(self) -> None:
        bench, rows, asked = self.bench()
        bench.measure(self.MODEL, 2, [speed.OURS, speed.EAGER])
        self.assertEqual(asked[:4], ["ours 2 2", "diffusers 2 2", "ours 2 2", "diffusers 2 2"])
        self.assertEqual(len(asked), 8)
        ours, eager = (json.loads(line)["cells"] for line in rows.read_text().splitlines())
        self.assertEqual((ours["step of the batch, s"], eager["step: this / ours"]), (0.2, 2.0))
        self.assertEqual(ours["pictures/s at 20 steps"], round(2 / (1.0 + 20 * 0.2), 4))
        self.assertEqual(eager["picture: this / ours"], round((1.0 + 20 * 0.4) / 5.0, 3))

    def test_what_does_not_fit_is_skipped_with_both_numbers(self) -> None:
        bench, rows, asked = self.bench(left=8.0)
        bench.measure(self.MODEL, 1, [speed.OURS])
        self.assertEqual(asked, [])
        row = json.loads(rows.read_text())
        self.assertEqual((row["verdict"], row["note"]), ("skipped", "3 s were left, about 10 s are needed"))


if __name__ == "__main__":
    unittest.main()
