"""A1111's API as webuiapi and sd-backend-client speak it, against a queen, its workers and real pictures.

Run by scripts/test; by hand: `python -m unittest discover -s tests/wire` with SD_WORKER and SD_QUEEN set.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any

import webuiapi
from PIL import Image
from sd_backend_client import A1111Webservice, AuthError, DiffusionParams, GenerationStatus, ServerError

import pool

WORDS = "a large red circle on a blue background"


def mask(size: tuple[int, int]) -> Image.Image:
    """White in its left half."""
    image = Image.new("L", size, 0)
    image.paste(255, (0, 0, size[0] // 2, size[1]))
    return image


def right(image: Image.Image) -> bytes:
    """The pixels that the mask keeps."""
    return image.convert("RGB").crop((image.width // 2, 0, image.width, image.height)).tobytes()


class Door(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.stack = contextlib.ExitStack()
        shapes = f"shapes={pool.ROOT / 'models/tiny-shapes'}"
        cls.address = cls.stack.enter_context(pool.queen(shapes, "slow=sim://?step_ms=100&size=64"))
        cls.addClassCleanup(cls.stack.close)


class WebUIApi(Door):
    def setUp(self) -> None:
        self.api = webuiapi.WebUIApi(baseurl=f"{self.address}/sdapi/v1", sampler="Euler a", steps=8)
        self.shapes = {"sd_model_checkpoint": "shapes"}

    def drawn(self, **more: Any) -> webuiapi.WebUIApiResult:
        return self.api.txt2img(
            prompt=WORDS, width=128, height=128, seed=7, override_settings=self.shapes, **more
        )

    def test_a_picture_is_drawn_and_says_how(self) -> None:
        result = self.drawn(batch_size=2, cfg_scale=3.5, negative_prompt="fog")
        self.assertEqual([image.size for image in result.images], [(128, 128)] * 2)
        self.assertEqual((result.info["seed"], result.info["all_seeds"]), (7, [7, 8]))
        self.assertEqual((result.info["sampler_name"], result.info["cfg_scale"]), ("Euler a", 3.5))
        self.assertEqual(result.info["sd_model_name"], "shapes")
        self.assertEqual(result.parameters["prompt"], WORDS)
        for image, text in zip(result.images, result.info["infotexts"], strict=True):
            self.assertEqual(image.info["parameters"], text)
            self.assertIn("Negative prompt: fog\nSteps: 8, Sampler: Euler a", text)

    def test_a_picture_is_changed(self) -> None:
        start = self.drawn().images[0]
        result = self.api.img2img(
            [start], prompt="a green star", width=96, height=64, override_settings=self.shapes, denoising_strength=0.6
        )
        self.assertEqual(result.images[0].size, (96, 64))
        self.assertEqual(result.info["denoising_strength"], 0.6)

    def test_what_a_mask_keeps_comes_back_pixel_for_pixel(self) -> None:
        start = self.drawn().images[0].convert("RGB")
        for more in ({"inpaint_full_res": False}, {"inpaint_full_res": True, "inpaint_full_res_padding": 16}):
            result = self.api.img2img(
                [start], prompt="a green star", mask_image=mask(start.size), mask_blur=0, inpainting_fill=1, seed=3,
                width=128, height=128, override_settings=self.shapes, **more
            )
            self.assertEqual(right(result.image), right(start))
            self.assertNotEqual(result.image.convert("RGB").tobytes(), start.tobytes())
            inverted = self.api.img2img(
                [start], prompt="a green star", mask_image=mask(start.size), inpainting_mask_invert=1, mask_blur=0,
                width=128, height=128, override_settings=self.shapes, **more
            )
            self.assertNotEqual(right(inverted.image), right(start))

    def test_a_png_says_its_parameters(self) -> None:
        start = self.drawn().images[0]
        said = self.api.png_info(start).info
        self.assertTrue(said.startswith(WORDS), said)
        self.assertIn("Seed: 7", said)

    def test_the_model_is_chosen_by_options_and_stays(self) -> None:
        self.api.util_set_model("slow")
        self.assertEqual(self.api.util_get_current_model(), "slow")
        self.assertEqual(self.api.txt2img(prompt="a", steps=1, width=64, height=64).info["sd_model_name"], "slow")
        self.api.set_options(self.api.get_options() | self.shapes)
        self.assertEqual(self.api.util_get_current_model(), "shapes")
        with self.assertRaisesRegex(RuntimeError, "nosuch"):
            self.api.txt2img(prompt="a", override_settings={"sd_model_checkpoint": "nosuch"})

    def test_lists_are_there(self) -> None:
        self.assertEqual(set(self.api.util_get_model_names()), {"shapes", "slow", "gpt-image-1"})
        self.assertIn("DPM++ 2M", self.api.util_get_sampler_names())
        self.assertIn("karras", self.api.util_get_scheduler_names())
        for list_ in (
            self.api.get_upscalers, self.api.get_latent_upscale_modes, self.api.get_loras, self.api.get_sd_vae,
            self.api.get_hypernetworks, self.api.get_face_restorers, self.api.get_realesrgan_models,
            self.api.get_prompt_styles,
        ):
            self.assertIsInstance(list_(), list)
        for object_ in (self.api.get_embeddings, self.api.get_memory, self.api.get_cmd_flags, self.api.get_scripts):
            self.assertIsInstance(object_(), dict)
        self.assertIsNone(self.api.refresh_checkpoints())

    def test_what_was_switched_on_and_cannot_be_done_is_refused_by_name(self) -> None:
        unit = webuiapi.ControlNetUnit(model="canny")
        for more, says in (
            ({"enable_hr": True}, "enable_hr"), ({"restore_faces": True}, "restore_faces"), ({"tiling": True}, "tiling"),
            ({"script_name": "loopback"}, "script_name"), ({"controlnet_units": [unit]}, "ControlNet"),
            ({"sampler_name": "DPM2"}, "Sampler not found"), ({"styles": ["x"], "n_iter": 9}, "batch_size"),
        ):
            with self.subTest(says), self.assertRaisesRegex(RuntimeError, says):
                self.drawn(**more, alwayson_scripts={})

    def test_a_call_is_seen_and_interrupted(self) -> None:
        results: list[webuiapi.WebUIApiResult] = []
        slow = {"sd_model_checkpoint": "slow"}
        call = threading.Thread(
            target=lambda: results.append(self.api.txt2img(prompt="a", steps=150, override_settings=slow))
        )
        call.start()
        seen = []
        end = time.monotonic() + pool.PATIENCE
        while time.monotonic() < end:
            seen.append(self.api.get_progress())
            if seen[-1]["progress"] > 0 and seen[-1]["current_image"]:
                break
            time.sleep(0.1)
        self.assertEqual(seen[-1]["state"]["job_count"], 1)
        self.assertEqual(seen[-1]["state"]["sampling_steps"], 150)
        self.assertGreater(seen[-1]["eta_relative"], 0)
        self.api.interrupt()
        call.join(20)
        self.assertEqual((results[0].images, results[0].info["infotexts"]), ([], []))
        self.assertEqual(self.api.get_progress()["state"]["job_count"], 0)


class Strict(Door):
    """sd-backend-client looks at every key of every answer."""

    def setUp(self) -> None:
        self.service = A1111Webservice(self.address)

    def params(self, **more: Any) -> DiffusionParams:
        named = {"prompt": WORDS, "sd_model_name": "shapes", "width": 128, "height": 128, "steps": 8, "seed": 7}
        return DiffusionParams(**(named | more))

    def test_every_answer_is_what_its_models_say(self) -> None:
        result = self.service.txt2img(self.params(batch_size=2))
        self.assertEqual([image.size for image in result["images"]], [(128, 128)] * 2)
        assert result["info"] is not None
        self.assertEqual(result["info"].all_seeds, [7, 8])
        start = result["images"][0].convert("RGB")
        changed = self.service.submit_img2img(self.params(init_images=[start], denoising_strength=0.5)).wait(60)
        self.assertEqual(changed.images[0].size, (128, 128))
        inpaint = self.params(init_images=[start], mask=mask(start.size), mask_blur=0, denoising_strength=1.0)
        for full in (False, True):
            handle = self.service.submit_inpaint(inpaint.model_copy(update={"inpaint_full_res": full}))
            self.assertEqual(right(handle.wait(60).images[0]), right(start))

    def test_lists_and_options_are_what_its_models_say(self) -> None:
        self.assertEqual({option.name for option in self.service.list_checkpoints()}, {"shapes", "slow", "gpt-image-1"})
        self.assertIn("dpmpp_2m", {option.name for option in self.service.list_samplers()})
        self.assertLessEqual({"karras", "normal"}, {option.name for option in self.service.list_schedulers()})
        for empty in (
            self.service.list_vaes, self.service.list_loras, self.service.list_hypernetworks,
            self.service.list_upscalers, self.service.list_controlnet_models, self.service.get_styles,
            self.service.get_latent_upscale_modes, self.service.get_script_info,
        ):
            self.assertEqual(empty(), [])
        can = self.service.get_capabilities()
        self.assertTrue(can.scheduler)
        self.assertFalse(can.controlnet or can.ultimate_upscale or can.soft_inpainting or can.interrogate)
        self.assertEqual(self.service.get_config()["samples_format"], "png")
        self.service.set_config({"sd_model_checkpoint": "shapes"})
        for refresh in (self.service.refresh_checkpoints, self.service.refresh_vae, self.service.refresh_loras):
            self.assertEqual(refresh().status_code, 200)
        with self.assertRaises(ServerError) as refused:
            self.service.post("/sdapi/v1/extra-single-image", {"image": "AAAA", "upscaler_1": "None"})
        self.assertEqual(refused.exception.status_code, 422)

    def test_a_call_is_followed_and_cancelled_and_not_failed(self) -> None:
        handle = self.service.submit_txt2img(self.params(sd_model_name="slow", steps=150))
        end = time.monotonic() + pool.PATIENCE
        while not (now := handle.poll()).preview and time.monotonic() < end:
            time.sleep(0.1)
        self.assertEqual(now.status, GenerationStatus.ACTIVE)
        self.assertGreater(now.progress or 0, 0)
        handle.cancel()
        while not (now := handle.poll()).done and time.monotonic() < end:
            time.sleep(0.1)
        self.assertEqual(now.status, GenerationStatus.CANCELLED)


class Tokens(unittest.TestCase):
    def test_a_token_is_the_password_of_basic(self) -> None:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            file = Path(folder) / "tokens"
            token = pool.new_token("alice", file)
            address = stack.enter_context(pool.queen("sim=sim://?step_ms=1&size=64", arguments=["--token-file", str(file)]))
            named = webuiapi.WebUIApi(baseurl=f"{address}/sdapi/v1", username="me", password=token)
            self.assertEqual(named.txt2img(prompt="a", steps=1, width=64, height=64).image.size, (64, 64))
            strict = A1111Webservice(address, credentials_provider=lambda: ("anybody", token))
            self.assertEqual(strict.get_config()["sd_model_checkpoint"], "sim")
            wrong = A1111Webservice(address, credentials_provider=lambda: ("me", "wrong"))
            with self.assertRaises(AuthError):
                wrong.get_config()


if __name__ == "__main__":
    unittest.main()
