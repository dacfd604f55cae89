"""Both scripts from end to end on a CPU, with the small checkpoints of the tests: `python -m unittest` in this folder.

OURS=PROGRAM names the benchmark `parts`; without it, it is built in release."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import compare
import gpu
import peers

CHECKPOINTS = peers.ROOT / "tests/data/parity"


def program() -> Path:
    return Path(os.environ["OURS"]) if "OURS" in os.environ else peers.build_ours()


class Scripts(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.program = program()

    def script(self, name: str, *more: str) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder:
            return subprocess.run(
                [sys.executable, str(peers.HERE / name), folder, "--ours", str(self.program), *more],
                capture_output=True, text=True, check=False)

    def rows(self, said: str, first: str) -> list[list[str]]:
        lines = [line for line in said.splitlines() if line.startswith(f"| {first}")]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    def test_three_implementations_compute_the_same_and_are_measured(self) -> None:
        done = self.script("compare.py", "--model", str(CHECKPOINTS / "text"), "--rounds", "2")
        self.assertEqual(done.returncode, 0, done.stderr)
        for title in compare.NAMES.values():
            seconds, *outputs = self.rows(done.stdout, title)
            self.assertEqual(len(seconds), 6, seconds)
            self.assertEqual([row[1] for row in outputs], ["ours, PyTorch", "ours, OpenVINO", "PyTorch, OpenVINO"])
            for row in outputs:
                self.assertLess(float(row[2]), 1e-4, row)
        self.assertRegex(done.stdout, r"Peak memory: ours \d+\.\d+ GiB, PyTorch \d+\.\d+ GiB, OpenVINO \d+\.\d+ GiB")

    def test_the_script_for_a_gpu_checks_and_times_on_a_cpu(self) -> None:
        for kind in ("text", "xl"):
            with self.subTest(kind):
                done = self.script(
                    "gpu.py", "--device", "cpu", "--dtype", "f32", "--model", f"{kind}={CHECKPOINTS / kind}:64",
                    "--batches", "1,2", "--steps", "1", "--check-steps", "2", "--rounds", "1", "--no-compile")
                self.assertEqual(done.returncode, 0, done.stderr)
                checked = self.rows(done.stdout, "ours, f32") + self.rows(done.stdout, "diffusers, f32")
                for row in checked:
                    self.assertLess(float(row[1]), 0.02, row)
                times = self.rows(done.stdout, "ours (cpu, f32)") + self.rows(done.stdout, "diffusers |")
                self.assertEqual([row[1] for row in times], ["1", "2", "1", "2"], done.stdout)
                for row in times:
                    self.assertGreater(float(row[3].split()[0]), 0.0, row)

    def test_a_picture_that_is_far_off_is_seen(self) -> None:
        allowed, gpu.TOLERANCES["f32"] = gpu.TOLERANCES["f32"], -1.0
        self.addCleanup(gpu.TOLERANCES.update, f32=allowed)
        with tempfile.TemporaryDirectory() as folder:
            sys.argv = [
                "gpu.py", folder, "--ours", str(self.program), "--device", "cpu", "--dtype", "f32", "--batches", "1",
                "--model", f"text={CHECKPOINTS / 'text'}:64", "--steps", "1", "--check-steps", "1", "--rounds", "1",
                "--no-compile"]
            with self.assertRaisesRegex(SystemExit, "farther"):
                gpu.main()


class Peers(unittest.TestCase):
    def test_what_a_peer_cannot_do_is_an_error_with_its_reason(self) -> None:
        peer = peers.Peer("ours", peers.ours(program(), CHECKPOINTS / "text"), 1)
        self.addCleanup(peer.close)
        with self.assertRaisesRegex(peers.PeerError, "ours: `nonsense` is no part"):
            peer.ask("nonsense")
        self.assertGreater(peer.ask("text")["seconds"], 0.0)

    def test_a_peer_that_does_not_start_is_an_error_with_its_reason(self) -> None:
        with self.assertRaisesRegex(peers.PeerError, "no such folder"):
            peers.Peer("gone", ["sh", "-c", "echo no such folder >&2; exit 1"], 1)


class Figures(unittest.TestCase):
    def test_a_ratio_has_the_spread_of_its_rounds(self) -> None:
        self.assertEqual(compare.ratio([1.0, 2.0, 3.0], [2.0, 4.0, 3.0]), "0.67 (0.50 to 1.00)")
        self.assertEqual(compare.spread([3.0, 1.0, 2.0]), "2.00 (1.00 to 3.00)")

    def test_what_did_not_run_has_its_reason_in_the_table(self) -> None:
        one = [dict(begin=1.0, steps=2.0, finish=1.0)]
        self.assertIn("out of memory", gpu.row("diffusers", 16, "out of memory", one, 20))
        self.assertEqual(
            gpu.row("ours", 2, one, one, 20),
            "| ours | 2 | 10.00 (10.00 to 10.00) | 0.500 (0.500 to 0.500) | 1.00 (1.00 to 1.00) | 1.00 |")


if __name__ == "__main__":
    unittest.main()
