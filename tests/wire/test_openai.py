"""OpenAI Images as the openai package speaks it, against a queen, its workers and real pictures.

Run by scripts/test; by hand: `python -m unittest discover -s tests/wire` with SD_WORKER and SD_QUEEN set.
"""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import threading
import time
import unittest
import urllib.error
import urllib.request
from typing import Any

import openai
from PIL import Image

import pool

WORDS = "a large red circle on a blue background"


class Counting:
    """Passes connections on to queen, and counts the requests that have this path."""

    def __init__(self, address: str) -> None:
        self.requests = 0
        self.target = int(address.rsplit(":", 1)[1])
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.server.accept()
                queen = socket.create_connection(("127.0.0.1", self.target))
                for source, to in ((client, queen), (queen, client)):
                    threading.Thread(target=self.copy, args=(source, to, source is client), daemon=True).start()

    def copy(self, source: socket.socket, to: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if counts:
                    self.requests += data.count(b"POST /v1/images/")
                to.sendall(data)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.server.close()


def picture(entry: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry.b64_json))).convert("RGB")


def png(image: Image.Image) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, "PNG")
    file.seek(0)
    file.name = "picture.png"
    return file


class OpenAI(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.stack = contextlib.ExitStack()
        shapes = f"shapes={pool.ROOT / 'models/tiny-shapes'}"
        cls.address = cls.stack.enter_context(pool.queen(shapes, "slow=sim://?step_ms=100&size=64"))
        cls.addClassCleanup(cls.stack.close)

    def client(self, address: str | None = None, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{address or self.address}/v1", api_key="none", **options)

    def test_a_picture_is_generated_and_has_its_usage(self) -> None:
        drawn = self.client().images.generate(
            model="shapes", prompt=WORDS, n=2, size="128x128", quality="high", extra_body={"seed": 7, "steps": 8}
        )
        self.assertEqual([picture(entry).size for entry in drawn.data], [(128, 128)] * 2)
        red, green, blue = picture(drawn.data[0]).getpixel((64, 64))
        self.assertTrue(red > 150 and green < 120 and blue < 120, (red, green, blue))
        self.assertEqual((drawn.size, drawn.output_format, drawn.usage.total_tokens), ("128x128", "png", 0))

    def test_what_a_mask_leaves_stays_as_it_is(self) -> None:
        before = Image.new("RGB", (128, 128), (30, 60, 200))
        mask = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
        mask.paste((0, 0, 0, 0), (64, 0, 128, 128))
        edited = self.client().images.edit(
            model="gpt-image-1", image=png(before), mask=png(mask), prompt=WORDS, extra_body={"seed": 3, "steps": 6}
        )
        after = picture(edited.data[0])
        self.assertEqual(after.size, before.size)
        changed = [
            abs(a - b) for x in range(0, 128, 8) for y in range(0, 128, 8)
            for a, b in zip(after.getpixel((x, y)), before.getpixel((x, y)))
            if x >= 72
        ]
        kept = [
            abs(a - b) for x in range(0, 48, 8) for y in range(0, 128, 8)
            for a, b in zip(after.getpixel((x, y)), before.getpixel((x, y)))
        ]
        self.assertLess(max(kept), 8, "opaque parts are kept")
        self.assertGreater(max(changed), 60, "transparent parts are repainted")

    def test_an_edit_without_a_mask_is_a_transform_in_the_size_that_is_asked_for(self) -> None:
        edited = self.client().images.edit(
            model="shapes", image=[png(Image.new("RGB", (128, 128), (9, 9, 9)))], prompt=WORDS, size="64x64",
            extra_body={"strength": 0.5, "steps": 4},
        )
        self.assertEqual(picture(edited.data[0]).size, (64, 64))

    def test_a_stream_gives_partial_pictures_and_then_the_whole_one(self) -> None:
        stream = self.client().images.generate(
            model="slow", prompt=WORDS, stream=True, partial_images=2, extra_body={"steps": 36}
        )
        seen = list(stream)
        self.assertEqual(
            [event.type for event in seen],
            ["image_generation.partial_image"] * 2 + ["image_generation.completed"],
        )
        self.assertEqual([event.partial_image_index for event in seen[:2]], [0, 1])
        for event in seen:
            self.assertGreater(min(picture(event).size), 0)
        self.assertEqual(seen[-1].usage.total_tokens, 0)

    def test_models_are_listed_and_found(self) -> None:
        models = {model.id: model for model in self.client().models.list()}
        self.assertEqual(set(models), {"shapes", "slow", "gpt-image-1"})
        self.assertEqual(models["gpt-image-1"].alias_of, "shapes")
        self.assertEqual(self.client().models.retrieve("slow").object, "model")
        with self.assertRaises(openai.NotFoundError) as missing:
            self.client().models.retrieve("nosuch")
        self.assertEqual(missing.exception.code, "model_not_found")

    def test_an_error_is_one_of_the_package(self) -> None:
        with self.assertRaises(openai.BadRequestError) as bad:
            self.client().images.generate(model="shapes", prompt=WORDS, size="100x100")
        self.assertEqual((bad.exception.param, bad.exception.type), ("size", "invalid_request_error"))
        with self.assertRaises(openai.NotFoundError) as missing:
            self.client().images.generate(model="dall-e-9", prompt=WORDS)
        self.assertEqual((missing.exception.param, missing.exception.code), ("model", "model_not_found"))

    def test_a_job_that_is_cancelled_is_sent_once(self) -> None:
        counting = Counting(self.address)
        self.addCleanup(counting.close)
        client = self.client(counting.address)

        def cancel() -> None:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                request = urllib.request.Request(f"{self.address}/v1/jobs/to-be-cancelled", method="DELETE")
                with contextlib.suppress(urllib.error.HTTPError):
                    urllib.request.urlopen(request)
                    return
                time.sleep(0.1)

        threading.Thread(target=cancel, daemon=True).start()
        with self.assertRaises(openai.ConflictError) as cancelled:
            client.images.generate(
                model="slow", prompt=WORDS, extra_body={"steps": 100},
                extra_headers={"Idempotency-Key": "to-be-cancelled"},
            )
        self.assertEqual(cancelled.exception.code, "cancelled")
        self.assertEqual(counting.requests, 1, "the package would have drawn it twice more")

    def test_a_key_gives_the_same_picture_again(self) -> None:
        def draw() -> Any:
            return self.client().images.with_raw_response.generate(
                model="shapes", prompt=WORDS, extra_body={"steps": 3}, extra_headers={"Idempotency-Key": "order 7"}
            )

        first, second = draw(), draw()
        self.assertEqual(first.headers["x-job-id"], second.headers["x-job-id"])
        self.assertEqual(first.parse().data[0].b64_json, second.parse().data[0].b64_json)

    def test_a_client_that_gives_up_takes_its_job_with_it(self) -> None:
        with self.assertRaises(openai.APITimeoutError):
            self.client(timeout=1.0, max_retries=0).images.generate(
                model="slow", prompt=WORDS, extra_body={"steps": 100}
            )
        started = time.monotonic()
        # The one slot of the worker is free again, long before ten seconds of steps are over.
        self.client().images.generate(model="slow", prompt=WORDS, extra_body={"steps": 1})
        self.assertLess(time.monotonic() - started, 8)


if __name__ == "__main__":
    unittest.main()
