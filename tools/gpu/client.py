"""Jobs over HTTP, queen's or a worker's own: sent, followed to their end, cancelled, and their pictures read from the store."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path

# Seconds: without a byte from a stream, which is sent a sign of life every 10 s; until a busy pool takes a job.
SILENCE, PATIENCE = 60.0, 60.0


class JobFailed(Exception):
    """A job ended in another way than with its pictures, or was refused."""


class Silent(JobFailed):
    """Nothing was heard of a job any more."""


class Door:
    """Queen or a worker on this machine. `check` raises when a job cannot come to its end any more."""

    def __init__(self, port: int, store: Path, check: Callable[[], None] = lambda: None) -> None:
        self._port = port
        self._store = store
        self._check = check

    def submit(self, operation: dict[str, object]) -> str:
        """The job's id. A pool that is full, or not there yet, is asked again."""
        body = json.dumps(operation).encode()
        end = time.monotonic() + PATIENCE
        while True:
            status, answer = self._ask("POST", "/v1/jobs", body)
            if status == 200:
                return str(answer["job_id"])
            if status != 503 or time.monotonic() > end:
                raise JobFailed(f"the answer is {status}: {json.dumps(answer)[:400]}")
            time.sleep(0.1)

    def follow(self, job: str, seen: Callable[[dict], None] | None = None) -> dict:
        """The terminal event. Every event before it goes to `seen`."""
        last = None
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self._check()
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SILENCE)
            try:
                headers = {} if last is None else {"Last-Event-ID": str(last)}
                connection.request("GET", f"/v1/jobs/{job}/stream", headers=headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    raise JobFailed(f"the answer about {job} is {answer.status}: {answer.read(400)!r}")
                for line in answer:
                    # A line comes every 10 s at least.
                    self._check()
                    if not line.startswith(b"data:") or not (data := line[5:].strip()).startswith(b"{"):
                        continue
                    event = json.loads(data)
                    end = time.monotonic() + PATIENCE
                    if event["type"] in ("complete", "error", "cancelled"):
                        return event
                    if event["type"] not in ("preview", "queued"):
                        last = event["seq"]
                    if seen:
                        seen(event)
                    if time.monotonic() > end:
                        break
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)  # cut off: the stream goes on behind the last event
            finally:
                connection.close()
        raise Silent(f"nothing was heard of {job} for {PATIENCE:.0f} s")

    def draw(self, operation: dict[str, object]) -> dict:
        """The complete event of a job."""
        return completed(self.follow(self.submit(operation)))

    def cancel(self, job: str) -> int:
        """The status of the answer."""
        return self._ask("DELETE", f"/v1/jobs/{job}")[0]

    def pictures(self, event: dict) -> list[bytes]:
        """The files that a complete event names, which must be what it says of them."""
        files = []
        for image in event["images"]:
            content = (self._store / image["key"]).read_bytes()
            if len(content) != image["bytes"] or hashlib.sha256(content).hexdigest() != image["sha256"]:
                raise JobFailed(f"{image['key']} in the store is not what the event says: {len(content)} bytes")
            files.append(content)
        return files

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SILENCE)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        finally:
            connection.close()


def completed(event: dict) -> dict:
    if event["type"] != "complete":
        raise JobFailed(f"{event['type']}: {event.get('code', '')} {event.get('message', '')}".strip())
    return event
