"""Pictures that go in: settings read from a file, image to image, masks by brush and by numbers."""

from __future__ import annotations

import io
import unittest

import numpy as np
from PIL import Image
from playwright.sync_api import expect

from rig import HOSTILE, PageTest, noise, png


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


class Pictures(PageTest):
    def choose(self, data: bytes) -> None:
        self.ready()
        self.page.locator("#file").set_input_files(png(data))
        expect(self.page.locator("#source-picture")).to_be_visible()

    def test_a_dropped_picture_fills_the_form_with_its_settings(self) -> None:
        self.draw(
            "café, a star\nof two lines",
            steps=3,
            seed=77,
            guidance_scale=4.5,
            negative_prompt="blur",
            width=72,
        )
        self.done()
        file = self.saved()
        self.page.evaluate("localStorage.clear()")
        self.page.reload()
        self.ready()
        expect(self.page.get_by_label("Prompt")).to_have_value("")
        self.drop("#stage", "a.png", file)
        expect(self.page.get_by_label("Prompt")).to_have_value("café, a star\nof two lines")
        for name, value in {
            "steps": "3",
            "seed": "77",
            "guidance_scale": "4.5",
            "negative_prompt": "blur",
            "model": "quick",
            "width": "72",
            "height": "128",
        }.items():
            expect(self.page.locator(f"#{name}")).to_have_value(value)
        expect(self.page.locator("#source-picture")).to_be_hidden()
        self.page.get_by_role("button", name="Start from the picture, too").click()
        expect(self.page.locator("#source-picture")).to_be_visible()

    def test_the_text_that_a1111_writes_is_read(self) -> None:
        text = (
            "a bee <lora:ink:0.8>, (macro:1.2)\nNegative prompt: blur,\nnoise\n"
            'Steps: 30, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 12, Size: 512x768, Model: "a, b"'
        )
        self.ready()
        self.drop("body", "a.png", noise(64, 64, parameters=text))
        expect(self.page.get_by_label("Prompt")).to_have_value("a bee, (macro:1.2)")
        expect(self.page.locator("#loras input").first).to_have_value("ink")
        for name, value in {
            "negative_prompt": "blur,\nnoise",
            "steps": "30",
            "scheduler": "dpmpp_2m_karras",
            "guidance_scale": "6.5",
            "seed": "12",
            "width": "512",
            "height": "768",
            "model": "a, b",
        }.items():
            expect(self.page.locator(f"#{name}")).to_have_value(value)

    def test_a_picture_without_settings_is_what_the_next_one_starts_from(self) -> None:
        self.ready()
        self.drop("body", "a.png", noise(96, 64))
        expect(self.page.locator("#size-of-source")).to_contain_text("96 × 64")
        self.page.locator("#strength").fill("0.5")
        self.draw("something else", steps=4)
        self.done()
        self.assertEqual(pixels(self.saved()).shape, (64, 96, 3))
        self.page.reload()
        expect(self.page.locator("#size-of-source")).to_contain_text("96 × 64")
        expect(self.page.locator("#strength")).to_have_value("0.5")

    def test_what_is_no_picture_is_said_to_be_none(self) -> None:
        self.ready()
        for data in (
            b"no picture",
            noise(64, 64)[:100],
            b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXtparameters\0a",
        ):
            self.drop("body", "a.png", data)
            expect(self.page.locator("#notice")).to_have_text("This is no picture that the browser reads.")
            expect(self.page.locator("#source-picture")).to_be_hidden()
            self.page.evaluate("document.getElementById('notice').textContent = ''")

    def test_what_a_mask_leaves_out_is_the_same_to_the_bit(self) -> None:
        data = noise(128, 96)
        self.choose(data)
        self.page.get_by_role("button", name="Paint a mask").click()
        zoom = self.page.locator("#mask-zoom")
        # The picture is shown once it is decoded, as large as there is room.
        expect(zoom).not_to_have_text("100 %")
        fitting = zoom.inner_text()
        self.page.get_by_role("button", name="Zoom in").click()
        expect(zoom).not_to_have_text(fitting)
        self.page.get_by_role("button", name="Fit").click()
        expect(zoom).to_have_text(fitting)
        box = self.page.locator("#mask-canvas").bounding_box()
        assert box is not None
        scale = box["width"] / 128
        self.page.locator("#mask-size").fill("30")

        def stroke(*points: tuple[int, int]) -> None:
            self.page.mouse.move(*at(points[0]))
            self.page.mouse.down()
            for point in points[1:]:
                self.page.mouse.move(*at(point), steps=4)
            self.page.mouse.up()

        def at(point: tuple[int, int]) -> tuple[float, float]:
            return box["x"] + point[0] * scale, box["y"] + point[1] * scale

        says = self.page.locator("#mask-says")
        stroke((40, 30), (80, 30))
        expect(says).to_contain_text("1 stroke")
        stroke((0, 90), (127, 90))
        expect(says).to_contain_text("2 strokes")
        self.page.get_by_role("button", name="Undo").click()
        expect(says).to_contain_text("1 stroke")
        self.page.get_by_role("button", name="Eraser").click()
        stroke((80, 30), (80, 31))
        expect(says).to_contain_text("2 strokes")
        self.page.get_by_role("button", name="Use this mask").click()
        expect(self.page.locator("#source-mask")).to_be_visible()
        self.draw("inside", steps=2)
        self.done()
        before, after = pixels(data), pixels(self.saved())
        changed = np.argwhere((before != after).any(axis=2))
        radius = 0.3**1.5 * 128 * 0.5 / 2 + 1.5
        self.assertGreater(len(changed), 100)
        for y, x in changed:
            nearest = min(max(x, 40), 80)
            self.assertLessEqual(((x - nearest) ** 2 + (y - 30) ** 2) ** 0.5, radius, f"{x}, {y}")
        self.assertTrue((before[30, 78:83] == after[30, 78:83]).all(), "what was erased stays")
        # The mask stays for the next one, and over a reload.
        self.page.reload()
        expect(self.page.locator("#source-mask")).to_be_visible()

    def test_a_mask_is_made_of_numbers_and_of_a_file(self) -> None:
        data = noise(80, 64)
        self.choose(data)
        self.page.get_by_role("button", name="Paint a mask").press("Enter")
        self.page.get_by_text("Without a pointer").click()
        for name, value in {"Left": 8, "Top": 16, "Width": 24, "Height": 32}.items():
            rectangle = self.page.get_by_role("group", name="A rectangle, in pixels")
            rectangle.get_by_label(name).fill(str(value))
        self.page.get_by_role("button", name="Add", exact=True).click()
        expect(self.page.locator("#mask-says")).to_contain_text("15 % is painted anew")
        self.page.get_by_role("button", name="Use this mask").click()
        self.draw("a rectangle", steps=2)
        self.done()
        before, after = pixels(data), pixels(self.saved())
        wanted = np.zeros((64, 80), bool)
        wanted[16:48, 8:32] = True
        same = (before == after).all(axis=2)
        self.assertTrue(same[~wanted].all())
        self.assertLess(same[wanted].mean(), 0.01)

        self.page.get_by_role("button", name="Change the mask").click()
        # Before that, the dialog is nobody's who could take a file.
        expect(self.page.locator("#mask")).to_be_visible()
        file = io.BytesIO()
        Image.fromarray(np.where(np.arange(80) < 40, 255, 0).astype(np.uint8)[None].repeat(64, 0)).save(
            file, "PNG"
        )
        self.page.locator("#mask-file").set_input_files(png(file.getvalue()))
        expect(self.page.locator("#mask-says")).to_contain_text("50 % is painted anew")
        self.page.get_by_role("button", name="Invert").click()
        self.page.get_by_role("button", name="Clear", exact=True).click()
        expect(self.page.locator("#mask-says")).to_contain_text("0 % is painted anew")
        self.page.get_by_role("button", name="Leave as it was").click()
        expect(self.page.locator("#source-mask")).to_be_visible()

    def test_a_click_marks_an_object_and_a_worker_makes_its_mask(self) -> None:
        data = noise(96, 72)
        self.choose(data)
        self.page.get_by_role("button", name="Paint a mask").click()
        expect(self.page.locator("#mask-zoom")).not_to_have_text("100 %")
        self.page.get_by_role("button", name="Point at it").click()
        box = self.page.locator("#mask-canvas").bounding_box()
        assert box is not None
        scale = box["width"] / 96

        def click(x: int, y: int) -> None:
            self.page.mouse.click(box["x"] + (x + 0.5) * scale, box["y"] + (y + 0.5) * scale)

        says = self.page.locator("#mask-says")
        use = self.page.get_by_role("button", name="Use this mask")
        click(38, 21)
        expect(says).to_have_text("1 point: a worker makes the mask of them")
        click(38, 40)
        self.page.get_by_role("button", name="Undo").click()
        expect(says).to_contain_text("1 point:")
        self.page.get_by_role("button", name="Point beside it").click()
        click(90, 60)
        expect(says).to_contain_text("2 points")
        # Points beside it alone say nothing of what it is.
        self.page.get_by_role("button", name="Clear", exact=True).click()
        click(90, 60)
        expect(use).to_be_disabled()
        self.page.get_by_text("Without a pointer").click()
        numbers = self.page.locator("#point-numbers")
        numbers.get_by_label("Left").fill("38")
        numbers.get_by_label("Top").fill("21")
        numbers.get_by_role("button", name="On it").press("Enter")
        use.click()
        expect(self.page.locator("#source-mask")).to_be_visible()
        # They stay over a reload, as a mask does.
        self.page.reload()
        expect(self.page.locator("#source-mask")).to_be_visible()
        with self.page.expect_request(lambda request: request.method == "POST") as sent:
            self.draw("a vase", steps=2)
        body = sent.value.post_data_json
        self.assertEqual(
            (body["operation"], body["mask_points"], body["mask_labels"]),
            ("image_inpaint", [[90, 60], [38, 21]], [0, 1]),
        )
        self.assertNotIn("mask_image", body)
        self.done()
        masks = list((self.pool.folder / "store/jobs").glob(f"{body['job_id']}/mask.png"))
        with Image.open(masks[0]) as picture:
            mask = np.asarray(picture.convert("L"))
        same = (pixels(data) == pixels(self.saved())).all(axis=2)
        self.assertTrue(same[mask == 0].all(), "what it leaves out is the same to the bit")
        self.assertLess(same[mask == 255].mean(), 0.01)
        self.page.get_by_role("button", name="Remove the mask").click()
        expect(self.page.locator("#source-mask")).to_be_hidden()

    def test_texts_of_strangers_stay_text(self) -> None:
        self.ready()
        self.drop(
            "body", "a.png", noise(64, 64, parameters=f"{HOSTILE}\nSteps: 2, Model: {HOSTILE}, Seed: 1")
        )
        expect(self.page.get_by_label("Prompt")).to_have_value(HOSTILE)
        expect(self.page.locator("#model")).to_have_value(HOSTILE)
        self.page.get_by_role("button", name="Draw").click()
        expect(self.page.locator("#form-error")).to_contain_text(HOSTILE)
        self.draw(HOSTILE, steps=2)
        self.done()
        expect(self.page.locator(".words")).to_have_text(HOSTILE)
        self.page.get_by_role("button", name="Add a LoRA").click()
        self.assertIn(
            HOSTILE, self.page.eval_on_selector_all("#lora-names option", "all => all.map((o) => o.value)")
        )
        self.page.reload()
        self.done()
        self.assertEqual(self.page.locator("img[src=x]").count(), 0)
        self.assertNotIn("taken", self.page.title())
        self.errors = [text for text in self.errors if "404" not in text]


if __name__ == "__main__":
    unittest.main()
