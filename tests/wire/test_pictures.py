"""What a picture says about itself, read by sd-parsers: a reader of A1111's PNG texts that is not ours."""

from __future__ import annotations

import contextlib
import json
import unittest
from pathlib import Path
from typing import Any

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


class Pictures(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.stack = contextlib.ExitStack()
        cls.pool = cls.stack.enter_context(pool.pool(f"shapes={pool.ROOT / 'models/tiny-shapes'}"))
        cls.addClassCleanup(cls.stack.close)

    async def asyncSetUp(self) -> None:
        self.client = await self.pool.connect()
        self.addAsyncCleanup(self.client.close)

    async def drawn(self, **fields: Any) -> PromptInfo:
        body = {"steps": 2, "width": 64, "height": 72, "guidance_scale": 3.5, "stream": False, **fields}
        reply = await pool.request(self.client, "image.generate", json.dumps(body).encode())
        event = json.loads(reply.data)
        self.assertEqual(event["type"], "complete", event)
        picture: Path = self.pool.store / event["images"][0]["key"]
        info = ParserManager().parse(picture)
        assert info is not None, "no parameters were found"
        self.assertEqual(info.generator, Generators.AUTOMATIC1111)
        return info

    async def test_both_prompts_come_back_as_they_were_given(self) -> None:
        for name, (prompt, negative) in PROMPTS.items():
            with self.subTest(name):
                info = await self.drawn(prompt=prompt, negative_prompt=negative)
                self.assertEqual([text.value for text in info.prompts], [prompt])
                self.assertEqual([text.value for text in info.negative_prompts], [negative] if negative else [])

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
