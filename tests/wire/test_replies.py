"""The reply rules of the bus, tried with a client that is not ours: what `nats req` relies on.

Run by scripts/test; by hand: `python -m unittest discover -s tests/wire` with SD_WORKER set to a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import unittest
from typing import Any

import jsonschema
import nats.errors
from nats.aio.msg import Msg

import pool

SCHEMAS = {
    name: jsonschema.Draft202012Validator(json.loads((pool.ROOT / "schemas" / f"{name}.json").read_text()))
    for name in ("event", "operation", "worker_info")
}


def valid(name: str, data: bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(data)
    SCHEMAS[name].validate(message)
    return message


def body(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a red circle", "steps": 3, **fields}).encode()


class Replies(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.stack = contextlib.ExitStack()
        cls.pool = cls.stack.enter_context(pool.pool("sim://?step_ms=5&size=64"))
        cls.addClassCleanup(cls.stack.close)

    async def asyncSetUp(self) -> None:
        self.client = await self.pool.connect()
        self.addAsyncCleanup(self.client.close)

    async def replies(self, subject: str, data: bytes) -> list[Msg]:
        """Every reply up to the empty one, as `nats req --wait-for-empty` reads them."""
        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox)
        for _ in range(600):
            await self.client.publish(subject, data, reply=inbox)
            messages = [await subscription.next_msg(timeout=30)]
            if (messages[0].headers or {}).get("Status") == "503":
                await asyncio.sleep(0.1)
                continue
            while messages[-1].data:
                messages.append(await subscription.next_msg(timeout=30))
            with self.assertRaises(nats.errors.TimeoutError):
                await subscription.next_msg(timeout=0.3)
            await subscription.unsubscribe()
            return messages
        self.fail("no slot became free")

    async def test_whoever_stops_at_the_first_reply_has_the_result(self) -> None:
        request = {"operation": "image_generation", **json.loads(body(stream=False))}
        SCHEMAS["operation"].validate(request)
        reply = await pool.request(self.client, "image.generate", json.dumps(request).encode())
        event = valid("event", reply.data)
        self.assertEqual(event["type"], "complete")
        self.assertEqual(reply.headers["Job-Event"], "complete")
        picture = self.pool.store / event["images"][0]["key"]
        self.assertEqual(picture.stat().st_size, event["images"][0]["bytes"])

    async def test_whoever_stops_at_the_empty_reply_has_every_event(self) -> None:
        *events, end = await self.replies("image.generate", body(job_id="all-events"))
        self.assertEqual(end.headers["Job-Event"], "end")
        messages = [valid("event", event.data) for event in events]
        self.assertEqual([message["seq"] for message in messages], list(range(len(messages))))
        self.assertEqual(messages[0]["type"], "accepted")
        self.assertEqual(messages[-1]["type"], "complete")
        steps = [message["step"] for message in messages if message["type"] == "progress"]
        self.assertEqual(steps[-1], 3)
        for event, message in zip(events, messages, strict=True):
            self.assertEqual(event.headers["Job-Id"], "all-events")
            self.assertEqual(event.headers["Job-Event"], message["type"])
            self.assertEqual(event.headers["Job-Seq"], str(message["seq"]))

    async def test_a_bad_request_is_one_error_and_the_end(self) -> None:
        error, end = await self.replies("image.generate", body(steps=0))
        message = valid("event", error.data)
        self.assertEqual((message["type"], message["code"]), ("error", "invalid_request"))
        self.assertIn("steps", message["message"])
        self.assertEqual(error.headers["Nats-Service-Error-Code"], "400")
        self.assertIn("steps", error.headers["Nats-Service-Error"])
        self.assertEqual(end.headers["Job-Event"], "end")

    async def test_a_pool_without_workers_answers_503_at_once(self) -> None:
        with self.assertRaises(nats.errors.NoRespondersError):
            await self.client.request("nobody.image.generate", body(), timeout=30)

    async def test_a_heartbeat_is_what_its_schema_says(self) -> None:
        heartbeats = await self.client.subscribe("worker.*.heartbeat")
        message = await heartbeats.next_msg(timeout=30)
        info = valid("worker_info", message.data)
        self.assertEqual(message.subject, f"worker.{info['id']}.heartbeat")
        self.assertEqual(info["slots"], 1)


if __name__ == "__main__":
    unittest.main()
