"""Webhooks as their receivers read them: by the library of Standard Webhooks, and by the openai package's own reader.

Run by scripts/test; by hand: `python -m unittest discover -s tests/wire` with SD_WORKER and SD_QUEEN set.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import queue
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import openai
import standardwebhooks

import pool

OLD, NEW = (f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2))
BODY = jsonschema.Draft202012Validator(json.loads((pool.ROOT / "schemas/webhook.json").read_text()))
Got = tuple[dict[str, str], str]


def queen_binary() -> Path:
    """`SD_QUEEN`, or the one beside the worker."""
    return Path(os.environ.get("SD_QUEEN", pool.worker_binary().parent / "queen-rbee"))


class Receiver(http.server.ThreadingHTTPServer):
    """Takes what is posted to it."""

    def __init__(self) -> None:
        self.got: queue.Queue[Got] = queue.Queue()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.server.got.put((dict(self.headers.items()), body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Webhooks(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        with contextlib.ExitStack() as stack:
            temp = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            nats_port, port = pool.free_port(), pool.free_port()
            server = [pool.nats_server(), "-a", "127.0.0.1", "-p", str(nats_port), "-js", "-sd", str(temp / "nats")]
            process = stack.enter_context(pool.running(server, temp / "nats.log"))
            pool.wait_until_answering(nats_port, process, temp / "nats.log")
            shared = ["--nats-url", f"nats://127.0.0.1:{nats_port}", "--store-url", str(temp / "store")]
            secrets = temp / "secrets"
            secrets.write_text(f"# the new one, and the one before\n{NEW}\n{OLD}\n")
            front = [str(queen_binary()), "--listen", f"127.0.0.1:{port}", *shared, "--models", "sim"]
            front += ["--webhook-secret-file", str(secrets), "--webhook-allow", "127.0.0.1"]
            process = stack.enter_context(pool.running(front, temp / "queen.log"))
            pool.wait_until_answering(port, process, temp / "queen.log")
            worker = [str(pool.worker_binary()), "--model", "sim=sim://?step_ms=5&size=64", *shared]
            stack.enter_context(pool.running([*worker, "--grace", "5s"], temp / "worker.log"))
            cls.queen = f"http://127.0.0.1:{port}"
            cls.receiver = Receiver()
            stack.callback(cls.receiver.server_close)
            stack.callback(cls.receiver.shutdown)
            cls.addClassCleanup(stack.pop_all().close)

    def told(self, **fields: Any) -> Got:
        """The first that is posted of a job with these fields."""
        url = f"http://127.0.0.1:{self.receiver.server_port}/hook"
        body = {"operation": "image_generation", "prompt": "a", "steps": 3, "webhook_url": url, **fields}
        end = time.monotonic() + pool.PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{self.queen}/v1/jobs", json.dumps(body).encode()).close()
                break
            except urllib.error.HTTPError as error:
                # JetStream is looked for when queen starts.
                if error.code != 503 or time.monotonic() > end:
                    raise
                time.sleep(0.1)
        return self.receiver.got.get(timeout=pool.PATIENCE)

    def test_the_library_of_the_specification_reads_them_with_either_secret(self) -> None:
        headers, body = self.told(job_id="read", n=2)
        for secret in (OLD, NEW):
            message = standardwebhooks.Webhook(secret).verify(body, headers)
            self.assertEqual(message["type"], "job.complete")
            BODY.validate(message)
            self.assertEqual((message["data"]["job_id"], len(message["data"]["images"])), ("read", 2))
        self.assertNotIn("base64", body)
        self.assertLess(len(body), 20_000)
        other = f"whsec_{base64.b64encode(bytes(32)).decode()}"
        for secret, changed in ((other, body), (OLD, body.replace("complete", "Complete", 1))):
            with self.assertRaises(standardwebhooks.WebhookVerificationError):
                standardwebhooks.Webhook(secret).verify(changed, headers)

    def test_the_openai_package_reads_them(self) -> None:
        headers, body = self.told(job_id="unwrapped", webhook_events=["accepted"])
        for secret in (OLD, NEW):
            client = openai.OpenAI(api_key="none", webhook_secret=secret)
            self.assertEqual(client.webhooks.unwrap(body, headers).type, "job.accepted")
        with self.assertRaises(openai.InvalidWebhookSignatureError):
            openai.OpenAI(api_key="none").webhooks.unwrap(body, headers, secret=f"whsec_{'A' * 43}=")

    def test_a_job_that_runs_out_of_time_is_told_of_as_an_error(self) -> None:
        headers, body = self.told(job_id="wrong", steps=50, n=8, deadline_ms=1)
        message = standardwebhooks.Webhook(NEW).verify(body, headers)
        BODY.validate(message)
        self.assertEqual((message["type"], message["data"]["job_id"]), ("job.error", "wrong"))


if __name__ == "__main__":
    unittest.main()
