"""What docker-compose.yml runs, without containers: NATS, queen and a worker with exactly its command lines, variables
and users, and a job that goes through. Only host names, ports and folders are those of this machine, and the store is a
folder.

Run by scripts/test; by hand: `python -m unittest test_compose` in tests/wire, with SD_WORKER set to a worker that has a
queen beside it. NATS_SERVER names another server than the one on PATH.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

import pool

COMPOSE = yaml.safe_load((pool.ROOT / "docker-compose.yml").read_text())["services"]
# Of the environment here no more than a container has.
INHERITED = ("PATH", "HOME")


def filled_in(text: str) -> str:
    """With the defaults of variables, as compose puts them in where nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def environment(service: str, **instead: str) -> dict[str, str]:
    """The variables of a service; those of `instead` in their place, or not at all where that is empty."""
    given = {name: filled_in(str(value)) for name, value in COMPOSE[service].get("environment", {}).items()}
    every = {name: os.environ[name] for name in INHERITED if name in os.environ} | given | instead
    return {name: value for name, value in every.items() if value}


def mounted(service: str, inside: str) -> Path:
    """The file of this folder that the service sees under that name."""
    for volume in COMPOSE[service]["volumes"]:
        source, target = volume.split(":")[:2]
        if target == inside:
            return pool.ROOT / source
    raise AssertionError(f"{service}: nothing is mounted at {inside}")


def call(url: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=pool.PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


class Compose(unittest.TestCase):
    def setUp(self) -> None:
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))

    def start(self, service: str, command: list[str], port: int | None = None, **instead: str) -> Path:
        """Starts a service, and waits until it answers on that port."""
        log = self.folder / f"{service}.log"
        process = self.stack.enter_context(pool.running(command, log, environment(service, **instead)))
        if port is not None:
            pool.wait_until_answering(port, process, log)
        return log

    def test_a_job_goes_through_with_the_users_of_the_compose_file(self) -> None:
        nats, monitor, queen = pool.free_port(), pool.free_port(), pool.free_port()
        command = [filled_in(word) for word in COMPOSE["nats"]["command"]]
        file = command.index("-c") + 1
        command[file] = str(mounted("nats", command[file]))
        command = [pool.nats_server(), *command, "-a", "127.0.0.1", "-p", str(nats), "-m", str(monitor)]
        store = self.folder / "nats"
        self.assertEqual(environment("nats")["NATS_STORE"], "/data")
        self.start("nats", command, nats, NATS_STORE=str(store))

        here = {"NATS_URL": f"nats://127.0.0.1:{nats}", "STORE_URL": str(self.folder / "store"), "STORE_PUBLIC_URL": ""}
        worker_log = self.start(
            "worker",
            [str(pool.worker_binary())],
            **here,
            SD_MODELS=str(pool.ROOT / "models/tiny-shapes"),
            SD_HTTP=f"127.0.0.1:{pool.free_port()}",
        )
        queen_binary = pool.worker_binary().with_name("queen-rbee")
        queen_log = self.start("queen", [str(queen_binary)], queen, **here, QUEEN_LISTEN=f"127.0.0.1:{queen}")

        url = f"http://127.0.0.1:{queen}"
        body = {"operation": "image_generation", "prompt": "a large red circle on a blue background", "steps": 2}
        end = time.monotonic() + pool.PATIENCE
        status, answer = call(f"{url}/v1/jobs", body)
        while status == 503 and time.monotonic() < end:
            time.sleep(0.1)
            status, answer = call(f"{url}/v1/jobs", body)
        self.assertEqual(status, 200, f"{answer}\n{worker_log.read_text()}\n{queen_log.read_text()}")
        view: dict[str, Any] = {}
        while view.get("status") not in ("completed", "failed") and time.monotonic() < end:
            time.sleep(0.1)
            view = call(f"{url}/v1/jobs/{answer['job_id']}")[1]
        self.assertEqual(view.get("status"), "completed", f"{view}\n{worker_log.read_text()}")
        health = call(f"{url}/health")[1]
        self.assertEqual((health["nats"], health["durable"]), ("connected", True))
        logs = worker_log.read_text() + queen_log.read_text()
        refused = [line for line in logs.splitlines() if "permissions violation" in line.lower()]
        # A worker that comes before queen would make the streams, and may not.
        self.assertEqual([line for line in refused if "stream.create." not in line.lower()], [])


if __name__ == "__main__":
    unittest.main()
