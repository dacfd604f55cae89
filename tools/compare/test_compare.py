"""compare.py from end to end, with the small checkpoints of the tests: `python -m unittest` in this folder.

OURS=PROGRAM names the benchmark `parts`; without it, it is built in release."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import compare
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


class Peers(unittest.TestCase):
    def test_what_a_peer_cannot_do_is_an_error_with_its_reason(self) -> None:
        peer = peers.Peer("ours", peers.ours(program(), CHECKPOINTS / "text"), 1)
        self.addCleanup(peer.close)
        with self.assertRaisesRegex(peers.PeerError, "ours: `nonsense` is no part"):
            peer.ask("nonsense")
        self.assertGreater(peer.ask("text")["seconds"], 0.0)

    def test_a_peer_that_takes_too_long_is_ended(self) -> None:
        peer = peers.Peer("slow", ["sh", "-c", "echo '{}'; exec sleep 60"], 1)
        self.addCleanup(peer.close)
        with self.assertRaisesRegex(peers.PeerError, "slow did not answer within 0 s"):
            peer.ask("draw", 0.1)
        with self.assertRaises(peers.PeerError):
            peer.ask("draw", 10)

    def test_a_peer_that_does_not_start_is_an_error_with_its_reason(self) -> None:
        with self.assertRaisesRegex(peers.PeerError, "no such folder"):
            peers.Peer("gone", ["sh", "-c", "echo no such folder >&2; exit 1"], 1)


class Figures(unittest.TestCase):
    def test_a_ratio_has_the_spread_of_its_rounds(self) -> None:
        self.assertEqual(compare.ratio([1.0, 2.0, 3.0], [2.0, 4.0, 3.0]), "0.67 (0.50 to 1.00)")
        self.assertEqual(compare.spread([3.0, 1.0, 2.0]), "2.00 (1.00 to 3.00)")


if __name__ == "__main__":
    unittest.main()
