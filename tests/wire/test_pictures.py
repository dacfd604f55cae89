"""What a picture says about itself, read by sd-parsers and by Pillow: readers of A1111's texts that are not ours."""

from __future__ import annotations

import contextlib
import json
import unittest
from pathlib import Path
from typing import Any

from PIL import Image
from sd_parsers import ParserManager
from sd_parsers.data import Generators, PromptInfo

import pool

PROMPTS = {
    "plain": ("a large red circle", "blur"),
    "lines": ("a red circle,\non a blue background\n\nin three lines", "blur,\nnoise"),
    "unicode": ("caf\u00e9 \u5186 \U0001f534 \u0645\u0631\u062d\u0628\u0627", "na\u00efve \U0001f469\u200d\U0001f4bb"),
    "latin": ("caf\u00e9 \u00fcber 50\u00b0", "na\u00efve"),
    "separators": ('a "red" circle: (large:1.3), Steps: 3, {x} \\(y\\)', "it's: \"blur\", Seed: 1"),
    "no negative": ("a star", None),
}


#: Pictures that sd-parsers has read: it knows a picture by its `id` and takes an old text for a new picture whose `id` is
#: one that was given before, so none is let go.
READ: list[Image.Image] = []


def parsed(file: Path) -> PromptInfo:
    with Image.open(file) as picture:
        READ.append(picture)
        info = ParserManager().parse(picture)
    assert info is not None, "no parameters were found"
    return info


class Pictures(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.stack = contextlib.ExitStack()
        cls.pool = cls.stack.enter_context(pool.pool(f"shapes={pool.ROOT / 'models/tiny-shapes'}"))
        cls.addClassCleanup(cls.stack.close)

    async def asyncSetUp(self) -> None:
        self.client = await self.pool.connect()
        self.addAsyncCleanup(self.client.close)

    async def file(self, **fields: Any) -> Path:
        body = {"steps": 2, "width": 64, "height": 72, "guidance_scale": 3.5, "stream": False, **fields}
        reply = await pool.request(self.client, "image.generate", json.dumps(body).encode())
        event = json.loads(reply.data)
        self.assertEqual(event["type"], "complete", event)
        picture: Path = self.pool.store / event["images"][0]["key"]
        return picture

    async def drawn(self, **fields: Any) -> PromptInfo:
        info = parsed(await self.file(**fields))
        self.assertEqual(info.generator, Generators.AUTOMATIC1111)
        return info

    async def test_both_prompts_come_back_as_they_were_given(self) -> None:
        for name, (prompt, negative) in PROMPTS.items():
            with self.subTest(name):
                info = await self.drawn(prompt=prompt, negative_prompt=negative)
                self.assertEqual([text.value for text in info.prompts], [prompt])
                self.assertEqual([text.value for text in info.negative_prompts], [negative] if negative else [])

    async def test_jpeg_and_webp_say_what_a_png_says(self) -> None:
        for name, (prompt, negative) in PROMPTS.items():
            fields = {"prompt": prompt, "negative_prompt": negative, "seed": 7}
            with Image.open(await self.file(**fields)) as picture:
                png = picture.info["parameters"]
            for kind in ("jpeg", "webp"):
                with self.subTest(f"{name} in {kind}"):
                    file = await self.file(**fields, output={"format": kind})
                    with Image.open(file) as picture:
                        self.assertEqual((picture.format, picture.size), (kind.upper(), (64, 72)))
                        # As A1111 reads it: piexif's UserComment, whose first 8 bytes name the encoding.
                        comment = picture.getexif().get_ifd(0x8769)[0x9286]
                    self.assertEqual((comment[:8], comment[8:].decode("utf-16-be")), (b"UNICODE\0", png))
                    again = await self.file(**fields, output={"format": kind})
                    self.assertNotEqual(file, again)
                    self.assertEqual(file.read_bytes(), again.read_bytes())
                    info = parsed(file)
                    self.assertEqual([text.value for text in info.prompts], [prompt])

    async def test_the_longest_prompts_fit_into_a_jpeg(self) -> None:
        longest = "\U0001f534" * 4096
        file = await self.file(prompt=longest, negative_prompt=longest, output={"format": "jpeg"})
        with Image.open(file) as picture:
            comment = picture.getexif().get_ifd(0x8769)[0x9286][8:].decode("utf-16-be")
        self.assertTrue(comment.startswith(f"{longest}\nNegative prompt: {longest}\nSteps: 2, "))

    async def test_what_draws_the_picture_again_comes_back(self) -> None:
        info = await self.drawn(prompt="a star", seed=2**53 - 1, scheduler="euler_a", clip_skip=1)
        (sampler,) = info.samplers
        self.assertEqual(sampler.name, "Euler a")
        self.assertEqual(sampler.parameters, {"steps": "2", "cfg_scale": "3.5", "seed": str(2**53 - 1)})
        self.assertEqual(sampler.model.name, "shapes")
        self.assertEqual(info.metadata, {"Size": "64x72", "Clip skip": "2"})

    async def test_a_weighted_prompt_is_written_with_its_weights(self) -> None:
        prompt = "a (large:1.3) [red] circle BREAK on blue"
        info = await self.drawn(prompt=prompt, prompt_syntax="a1111", negative_prompt="(blur:1.2)")
        self.assertEqual([text.value for text in info.prompts], [prompt])
        self.assertEqual([text.value for text in info.negative_prompts], ["(blur:1.2)"])


if __name__ == "__main__":
    unittest.main()
