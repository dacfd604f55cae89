"""The Debian package and the systemd units: what systemd-analyze says of them, and each command line run as a plain
process with the variables of its files, whose readiness is heard on the socket that systemd would have given it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import pool

UNITS = pool.ROOT / "deploy/systemd"
# What systemd before 254 does not know, and passes over.
NEWER = ("RestartSteps", "RestartMaxDelaySec")
# As `systemd-analyze security` counts: below 2 of 10.
EXPOSED = 20


def settings(unit: Path) -> dict[str, list[str]]:
    """What the unit says, every key with all its values."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if setting := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(setting[1], []).append(setting[2])
    return found


def variables(file: Path) -> dict[str, str]:
    """As systemd reads an EnvironmentFile."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def seconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(s|min|h)?", text).groups()
    return int(number) * {"min": 60, "h": 3600}.get(unit, 1)


def said_by_analyze(*arguments: str | Path) -> tuple[int, list[str]]:
    """The exit status, and the lines that are not about what this systemd is too old for."""
    told = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)
    lines = (told.stdout + told.stderr).splitlines()
    return told.returncode, [line for line in lines if not any(f"'{key}'" in line for key in NEWER)]


class Units(unittest.TestCase):
    def setUp(self) -> None:
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))

    def package(self) -> Path:
        """The package, unpacked."""
        programs = pool.worker_binary().parent
        command = [pool.ROOT / "scripts/deb", "--programs", programs, "--out", self.folder, "--fast"]
        built = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        tree = self.folder / "installed"
        subprocess.run(["dpkg-deb", "-x", built[-1], tree], check=True)
        self.control = subprocess.run(["dpkg-deb", "-f", built[-1]], check=True, capture_output=True, text=True).stdout
        return tree

    @unittest.skipUnless(shutil.which("systemd-analyze"), "there is no systemd here")
    def test_systemd_takes_the_units_and_finds_them_shut(self) -> None:
        program = self.folder / "program"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        units = sorted(UNITS.glob("*.service"))
        self.assertEqual(
            [unit.name.split(".")[0] for unit in units], ["rbee-queen", "rbee-worker-cuda@", "rbee-worker@"]
        )
        for unit in units:
            with self.subTest(unit.name):
                text = re.sub(r"^ExecStart=\S+", f"ExecStart={program}", unit.read_text(), flags=re.MULTILINE)
                copy = self.folder / unit.name.replace("@", "@1")
                copy.write_text(text)
                self.assertEqual(said_by_analyze("verify", copy), (0, []))
                status, lines = said_by_analyze("security", "--offline=true", f"--threshold={EXPOSED}", unit)
                self.assertEqual(status, 0, lines[-1:])

    def test_units_wait_for_longer_than_an_end_takes_and_are_watched(self) -> None:
        worker = 60 + pool.drain_margin()
        for unit, grace in (("rbee-queen", 10), ("rbee-worker@", worker), ("rbee-worker-cuda@", worker)):
            said = settings(UNITS / f"{unit}.service")
            self.assertGreater(seconds(said["TimeoutStopSec"][-1]), grace, unit)
            self.assertEqual(said["Type"], ["notify"], unit)
            self.assertGreater(seconds(said["WatchdogSec"][-1]), 10, unit)
            self.assertEqual((said["Restart"], said["StartLimitIntervalSec"]), (["always"], ["0"]), unit)

    def test_the_package_has_what_its_units_run_and_a_pool_of_it_draws(self) -> None:
        tree = self.package()
        self.assertRegex(self.control, r"(?m)^Depends: .*libc6 \(>= 2\.")
        installed = tree / "usr/lib/systemd/system"
        self.assertEqual(
            sorted(unit.name for unit in installed.iterdir()), ["rbee-queen.service", "rbee-worker@.service"]
        )
        nats, queen = pool.free_port(), pool.free_port()
        server = [pool.nats_server(), "-a", "127.0.0.1", "-p", str(nats), "-js", "-sd", str(self.folder / "nats")]
        process = self.stack.enter_context(pool.running(server, self.folder / "nats.log"))
        pool.wait_until_answering(nats, process, self.folder / "nats.log")
        here = {
            "NATS_URL": f"nats://127.0.0.1:{nats}",
            "STORE_URL": f"file://{self.folder}/store",
            "QUEEN_LISTEN": f"127.0.0.1:{queen}",
            "SD_HTTP": f"127.0.0.1:{pool.free_port()}",
        }
        for unit in ("rbee-worker@", "rbee-queen"):
            self.run_unit(tree, settings(installed / f"{unit}.service"), here)
        keeper = [tree / "usr/bin/rbee-keeper", "--queen", f"127.0.0.1:{queen}", "image", "generate", "--prompt", "a"]
        picture = self.folder / "a.png"
        drawn = subprocess.run(
            [*keeper, "--steps", "1", "--width", "64", "--height", "64", "--output", picture],
            capture_output=True,
            text=True,
        )
        self.assertEqual(drawn.returncode, 0, drawn.stderr)
        self.assertTrue(picture.read_bytes().startswith(b"\x89PNG"))

    def run_unit(self, tree: Path, said: dict[str, list[str]], here: dict[str, str]) -> None:
        """Runs a unit's command until the end of the test, and waits until systemd would take it for started."""
        given = {"PATH": os.environ["PATH"]} | dict(each.split("=", 1) for each in said.get("Environment", []))
        for file in said["EnvironmentFile"]:
            given |= variables(tree / file.lstrip("/").replace("%i", "1"))
        given = {name: value.replace("/usr/share/", f"{tree}/usr/share/") for name, value in given.items()}
        given |= {name: value for name, value in here.items() if name in given}
        program = tree / said["ExecStart"][0].lstrip("/")
        path = str(self.folder / f"{program.name}.notify")
        notified = self.stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)))
        notified.bind(path)
        notified.settimeout(pool.PATIENCE)
        watchdog = str(seconds(said["WatchdogSec"][-1]) * 1_000_000)
        log = self.folder / f"{program.name}.log"
        process = self.stack.enter_context(
            pool.running([str(program)], log, given | {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": watchdog})
        )
        try:
            for line in (b"READY=1", b"WATCHDOG=1"):
                while notified.recv(256) != line:
                    pass
        except TimeoutError:
            self.fail(log.read_text())
        self.stack.callback(self.ends, process, notified, log)

    def ends(self, process: subprocess.Popen[bytes], notified: socket.socket, log: Path) -> None:
        process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 20
        while notified.recv(256) != b"STOPPING=1":
            self.assertLess(time.monotonic(), end, log.read_text())
        self.assertEqual(process.wait(20), 0, log.read_text())


if __name__ == "__main__":
    unittest.main()
