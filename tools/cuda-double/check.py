"""What must hold of the worker on a GPU, tried on one that is not there:

    check.py WORKER [--capability 9.0] [NAMES OF TESTS...] [-v]

WORKER is sd-worker-cuda, and the capability what it was built for. Takes nats-server, gcc and binutils. A picture is
grey, as no kernel runs; what is looked at is what the worker asks of the driver, what it refuses, what it survives."""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import checkpoints
from worker import Ended, Nats, Worker

HERE = Path(__file__).resolve().parent
SMALL = {name: checkpoints.SMALL / folder for name, folder in dict(sd="text", xl="xl", flux="flux/schnell").items()}
GIB = 1 << 30

args: argparse.Namespace
nats: Nats
double: Path
# A checkpoint of Stable Diffusion 1.5's size, and the bytes of its weights: kept in f16, as the files are.
large: Path
weights: int


def setUpModule() -> None:
    global nats, double, large, weights
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    double = Path(folder.name, "double")
    subprocess.run([HERE / "build", args.worker, double], check=True, stdout=subprocess.DEVNULL)
    large = checkpoints.make("sd15", Path(folder.name))
    weights = sum(checkpoints.data_bytes(file) for file in large.rglob("*.safetensors"))
    nats = Nats()
    unittest.addModuleCleanup(nats.stop)


def worker(models: dict[str, Path], *flags: str, **card: object) -> Worker:
    sources = [f"{name}={folder}" for name, folder in models.items()]
    return Worker(args.worker, double, nats, sources, *flags, **card)


class Start(unittest.TestCase):
    def refused(self, *flags: str, models: dict[str, Path] | None = None, **card: object) -> str:
        with worker(models or {"sd": SMALL["sd"]}, *flags, **card) as one:
            self.assertEqual(one.code(), 1, one.words())
            self.counted = one.counted()
            return one.words()

    def test_without_a_gpu_it_ends_and_says_what_is_missing(self) -> None:
        self.assertIn("--device 0", self.refused(DEVICES=0))

    def test_a_gpu_that_is_not_there_is_named_beside_those_that_are(self) -> None:
        self.assertRegex(self.refused("--device", "3", DEVICES=1), r"--device 3\b.*\b(1|one|0)\b")

    def test_a_gpu_that_is_older_than_the_build_is_refused_with_both_capabilities(self) -> None:
        words = self.refused(CAPABILITY="7.5")
        for number in ("7.5", args.capability):
            self.assertIn(number, words)

    def test_kernels_that_are_for_one_kind_of_gpu_alone_are_refused_on_a_newer_one(self) -> None:
        """PTX for sm_90a runs on 9.0 and nowhere else; PTX for sm_80 runs on all that came after."""
        with worker({"sd": SMALL["sd"]}, CAPABILITY="12.0") as one:
            if one.has_ended():
                self.assertEqual(one.code(), 1)
                for number in ("12.0", args.capability):
                    self.assertIn(number, one.words())
            else:
                event = one.job(width=64, height=64)
                self.assertEqual(event["type"], "complete", f"{event}\n{one.words()}")

    def test_a_model_that_is_larger_than_the_card_is_refused_before_it_is_loaded_with_both_numbers(self) -> None:
        words = self.refused(models={"large": large}, MEMORY="1G")
        sizes = [int(size) for size in re.findall(r"\((\d+) bytes\)", words)]
        self.assertTrue(any(size == weights for size in sizes), words)
        self.assertTrue(any(0 < size <= GIB for size in sizes), words)
        self.assertLess(self.counted["copies"].get("htod", {}).get("bytes", 0), 1 << 20)


class Pictures(unittest.TestCase):
    """One job of each family on one worker."""

    @classmethod
    def setUpClass(cls) -> None:
        with worker(SMALL) as one:
            cls.events = {name: one.job(model=name, width=64, height=64) for name in SMALL}
            cls.words, cls.counts = one.words(), one.stop()

    def test_every_family_draws_a_picture(self) -> None:
        for name, event in self.events.items():
            self.assertEqual(event["type"], "complete", f"{name}: {event}\n{self.words}")

    def test_kernels_and_copies_are_on_one_stream(self) -> None:
        self.assertEqual(self.counts["streams"], {"kernels": 1, "copies": 1, "all": 1})

    def test_no_events_are_made(self) -> None:
        self.assertEqual(self.counts["events_created"], 0)

    def test_no_convolution_adds_up_in_half_precision(self) -> None:
        halves = {name: entry for name, entry in self.counts["convolutions"].items() if "_compute_f16" in name}
        self.assertEqual(halves, {})


class Memory(unittest.TestCase):
    """Pictures of at most 512x512, so that whatever is kept free for them leaves room for a model."""

    FLAGS = ("--max-pixels", "512x512", "--max-steps", "20")

    def peak(self, side: int) -> int:
        """Bytes that one model and a picture take together."""
        with worker({"a": large}, *self.FLAGS) as one:
            event = one.job(width=side, height=side)
            self.assertEqual(event["type"], "complete", f"{event}\n{one.words()}")
            return one.stop()["peak_reserved_bytes"]

    def completes(self, one: Worker, **body: object) -> None:
        event = one.job(**body)
        self.assertEqual(event["type"], "complete", f"{event}\n{one.words()}")

    def test_of_two_models_that_do_not_fit_together_the_one_that_is_used_is_in_memory(self) -> None:
        with worker({"a": large, "b": large}, *self.FLAGS, MEMORY=2 * weights - (64 << 20)) as one:
            for model in ("a", "b", "a"):
                self.completes(one, model=model, width=256, height=256)
            words = one.words()
            self.assertIn("put out of memory", words)
            loaded = re.findall(r"a model was loaded.*model=\"?(\w)", words)
            self.assertEqual(loaded, ["a", "b", "a"], words)

    def test_a_step_that_runs_out_of_memory_is_done_again_without_the_idle_model(self) -> None:
        beside = self.peak(512) - weights
        with worker({"a": large, "b": large}, *self.FLAGS, MEMORY=2 * weights + beside // 2) as one:
            self.completes(one, model="b", width=64, height=64)
            self.completes(one, model="a", width=512, height=512)
            self.assertIn("put out of memory", one.words())

    def test_a_job_that_does_not_fit_fails_alone_and_the_worker_goes_on(self) -> None:
        beside = self.peak(512) - weights
        with worker({"a": large}, *self.FLAGS, MEMORY=weights + beside // 2) as one:
            event = one.job(width=512, height=512)
            self.assertIn("out_of_memory", str(event), one.words())
            self.completes(one, width=64, height=64)

    def test_one_allocation_that_fails_in_a_step_fails_no_job(self) -> None:
        def allocations(steps: int) -> int:
            with worker({"sd": SMALL["sd"]}) as one:
                if steps:
                    self.completes(one, steps=steps, width=64, height=64)
                return one.stop()["allocations"]

        loading, ten = allocations(0), allocations(10)
        # Far from the begin and the end of a job of ten steps.
        within = loading + (ten - loading) // 2
        with worker({"sd": SMALL["sd"], "xl": SMALL["xl"]}, FAIL="cuMemAllocAsync:1000000000:2") as one:
            more = one.stop()["allocations"] - loading
        with worker({"sd": SMALL["sd"], "xl": SMALL["xl"]}, FAIL=f"cuMemAllocAsync:{within + more}:2") as one:
            self.completes(one, model="sd", steps=10, width=64, height=64)
            self.assertIn("put out of memory", one.words())

    def test_memory_is_given_back_when_a_worker_has_nothing_to_do(self) -> None:
        """Ten pictures take no more than two."""
        def peak(pictures: int) -> int:
            with worker({"sd": SMALL["sd"]}) as one:
                for seed in range(pictures):
                    self.completes(one, seed=seed, width=64, height=64)
                return one.stop()["peak_bytes"]

        self.assertLessEqual(peak(10), peak(2) + (1 << 20))


class Errors(unittest.TestCase):
    def test_a_gpu_that_is_lost_ends_the_worker_or_fails_its_jobs_and_no_picture_is_made(self) -> None:
        with worker({"sd": SMALL["sd"]}, FAIL="cuLaunchKernel:200:700") as one:
            try:
                self.assertNotEqual(one.job(steps=10, width=64, height=64)["type"], "complete")
            except Ended:
                pass


class Double(unittest.TestCase):
    """The stand-ins themselves."""

    def test_names_and_shapes_are_those_of_the_small_checkpoints(self) -> None:
        def of_file(path: Path) -> dict:
            with open(path, "rb") as file:
                header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}

        def bare(tensors: dict) -> dict:
            return {name.removeprefix("text_model."): list(shape) for name, shape in tensors.items()}

        for folder in SMALL.values():
            index = json.loads((folder / "model_index.json").read_text())
            for component, (_, kind) in ((name, value) for name, value in index.items() if isinstance(value, list)):
                if kind in checkpoints.NETWORKS:
                    config = json.loads((folder / component / "config.json").read_text())
                    file = next((folder / component).glob("*.safetensors"))
                    self.assertEqual(bare(checkpoints.NETWORKS[kind](config)), bare(of_file(file)), file)

    def test_memory_modules_launches_and_copies_are_as_the_driver_has_them(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            program, stub = folder / "test", folder / "libcuda.so.1"
            # What it is linked with has the functions by name only.
            names = sorted(set(re.findall(r"\bcu[A-Z]\w+", (HERE / "test.c").read_text())))
            (folder / "stub.c").write_text("".join(f"int {name}(void) {{ return 34; }}\n" for name in names))
            shared = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-w"]
            subprocess.run(["gcc", *shared, folder / "stub.c", "-o", stub], check=True)
            subprocess.run(["gcc", "-pthread", "-Wall", "-Wextra", HERE / "test.c", stub, "-o", program], check=True)
            subprocess.run([HERE / "build", program, folder / "double"], check=True, stdout=subprocess.DEVNULL)
            mark, log = folder / "mark", folder / "log"
            mark.write_text("before")
            environment = dict(
                LD_LIBRARY_PATH=str(folder / "double"), CUDA_DOUBLE_MEMORY="1000M", CUDA_DOUBLE_MARK=str(mark),
                CUDA_DOUBLE_LOG=str(log))
            done = subprocess.run([program], env=environment, stderr=subprocess.PIPE, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            before, end = [json.loads(line) for line in log.read_text().splitlines()]
            self.assertEqual((before["label"], before["peak_bytes"], mark.exists()), ("before", 600 << 20, False))
            self.assertEqual((end["label"], end["launches"]), ("end", {"add_f32": 5}))
            self.assertEqual(end["calls"]["cuProfilerStart"], 1)
            # One that was made, and one of each of two threads.
            self.assertEqual(end["streams"], {"kernels": 3, "copies": 1, "all": 3})
            self.assertEqual(end["copies"]["htod"], {"n": 1, "bytes": 4096})


def main() -> None:
    global args
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worker", type=Path, help="sd-worker-cuda")
    parser.add_argument("--capability", default="9.0", help="what it was built for [default: 9.0]")
    args, rest = parser.parse_known_args()
    args.worker = args.worker.resolve()
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
