"""Backup and restore as docs/operate.md says: the streams by the requests of `nats stream backup` and `restore`, or the
folder of a server that is stopped; the store by a copy. The server is lost with all that it has; a new one goes on.

NATS_SERVER names another server than the one on PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats

import pool

STREAMS = ("JOBS", "EVENTS", "DLQ")
CHUNK = 128 * 1024
MODEL = "sim://?step_ms=1&size=64"


@dataclass(frozen=True)
class Backup:
    """A stream as the server wrote it down: its configuration and state, and an archive in pieces."""

    described: dict[str, Any]
    pieces: list[bytes]


async def back_up(url: str) -> dict[str, Backup]:
    client = await nats.connect(url)
    backups = {}
    for stream in STREAMS:
        inbox = client.new_inbox()
        pieces = await client.subscribe(inbox)
        request = json.dumps({"deliver_subject": inbox, "chunk_size": CHUNK}).encode()
        answer = json.loads((await client.request(f"$JS.API.STREAM.SNAPSHOT.{stream}", request, timeout=10)).data)
        assert "error" not in answer, answer
        kept = []
        while (piece := await pieces.next_msg(timeout=10)).data:
            kept.append(piece.data)
            if piece.reply:
                await client.publish(piece.reply, b"")
        backups[stream] = Backup({name: answer[name] for name in ("config", "state")}, kept)
    await client.close()
    return backups


async def restore(url: str, backups: dict[str, Backup]) -> None:
    client = await nats.connect(url)
    for stream, backup in backups.items():
        request = json.dumps(backup.described).encode()
        answer = json.loads((await client.request(f"$JS.API.STREAM.RESTORE.{stream}", request, timeout=10)).data)
        assert "error" not in answer, answer
        for piece in [*backup.pieces, b""]:
            said = (await client.request(answer["deliver_subject"], piece, timeout=10)).data
        assert "error" not in json.loads(said), said
    await client.close()


def call(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=pool.PATIENCE) as answer:
        read = answer.read()
    return json.loads(read) if answer.headers["content-type"] == "application/json" else read


def is_ready(front: str) -> bool:
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(f"{front}/ready") as answer:
        return answer.status == 200
    return False


class Place:
    """A machine: a server, a queen, and a worker for as long as one is wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = contextlib.ExitStack()
        self.nats, self.queen = pool.free_port(), pool.free_port()
        self.url, self.front = f"nats://127.0.0.1:{self.nats}", f"http://127.0.0.1:{self.queen}"
        folder.mkdir(exist_ok=True)

    def start_server(self) -> None:
        data = ["-js", "-sd", str(self.folder / "nats")]
        server = [pool.nats_server(), "-a", "127.0.0.1", "-p", str(self.nats), *data]
        process = self.stack.enter_context(pool.running(server, self.folder / "nats.log"))
        pool.wait_until_answering(self.nats, process, self.folder / "nats.log")

    def start_queen(self) -> None:
        command = [str(pool.queen_binary()), "--listen", f"127.0.0.1:{self.queen}", "--models", "sim", *self.flags()]
        process = self.stack.enter_context(pool.running(command, self.folder / "queen.log"))
        log, end = self.folder / "queen.log", time.monotonic() + pool.PATIENCE
        pool.wait_until_answering(self.queen, process, log)
        while not is_ready(self.front):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)

    def worker(self) -> contextlib.AbstractContextManager[Any]:
        command = [str(pool.worker_binary()), "--model", MODEL, "--grace", "5s", *self.flags()]
        return pool.running(command, self.folder / "worker.log")

    def flags(self) -> list[str]:
        return ["--nats-url", self.url, "--store-url", str(self.folder / "store")]

    def submit(self, prompt: str) -> str:
        body = {
            "operation": "image_generation",
            "prompt": prompt,
            "model": "sim",
            "steps": 2,
            "job_id": f"job-{prompt}",
        }
        return call(f"{self.front}/v1/jobs", body)["job_id"]

    def status(self, job: str) -> str:
        return call(f"{self.front}/v1/jobs/{job}")["status"]

    def wait_for(self, job: str) -> None:
        end = time.monotonic() + pool.PATIENCE
        while (status := self.status(job)) != "completed":
            assert status != "failed" and time.monotonic() < end, (self.folder / "worker.log").read_text()
            time.sleep(0.05)


class Restored(unittest.TestCase):
    def go_on_from(self, is_stopped: bool) -> None:
        with tempfile.TemporaryDirectory() as temp, contextlib.ExitStack() as stack:
            old, new = Place(Path(temp) / "old"), Place(Path(temp) / "new")
            stack.enter_context(old.stack)
            old.start_server()
            old.start_queen()
            with old.worker():
                done = old.submit("done")
                old.wait_for(done)
            picture = call(f"{old.front}/v1/jobs/{done}/images/0")
            waits = old.submit("waits")
            # The streams first: what ends after that is in the store, and is not drawn again.
            backups = {} if is_stopped else asyncio.run(back_up(old.url))
            old.stack.close()
            if is_stopped:
                shutil.copytree(old.folder / "nats", new.folder / "nats")
            shutil.copytree(old.folder / "store", new.folder / "store")
            shutil.rmtree(old.folder)

            stack.enter_context(new.stack)
            new.start_server()
            asyncio.run(restore(new.url, backups))
            new.start_queen()
            self.assertEqual((new.status(done), new.status(waits)), ("completed", "queued"))
            self.assertEqual(call(f"{new.front}/v1/jobs/{done}/images/0"), picture)
            with new.worker():
                new.wait_for(waits)
                self.assertEqual(new.submit("done"), done)
                new.wait_for(new.submit("later"))
                log = (new.folder / "worker.log").read_text()
            self.assertNotIn(done, log, "what was drawn is not drawn again")

    def test_a_pool_goes_on_from_a_backup_of_its_streams_and_its_store(self) -> None:
        self.go_on_from(is_stopped=False)

    def test_a_pool_goes_on_from_the_folder_of_a_server_that_was_stopped(self) -> None:
        self.go_on_from(is_stopped=True)


if __name__ == "__main__":
    unittest.main()
