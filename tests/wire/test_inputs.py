"""What a worker reads from the pictures that people send, beside what Pillow (libjpeg-turbo, libwebp, LittleCMS) reads.

A simulated model paints over what the mask selects and keeps the rest pixel for pixel: with a black mask the result is the
picture as the worker has read it, with a mask to be tried it shows the mask."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import unittest
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

import icc
import pool

SIZE = (96, 72)
RNG = np.random.default_rng(5)


def photo(width: int = SIZE[0], height: int = SIZE[1]) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + y / 11), np.sin(x / 15 - y / 7 + 1), np.cos(x * y / 400)]
    picture = 128 + 100 * np.stack(waves, -1) + RNG.normal(0, 9, (height, width, 3))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def colours() -> Image.Image:
    """A cube of 16 x 16 x 16 colours."""
    levels = np.arange(16, dtype=np.uint8) * 17
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(64, 64, 3))


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def text(file: bytes) -> str:
    return base64.b64encode(file).decode()


class Inputs(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.stack = contextlib.ExitStack()
        cls.pool = cls.stack.enter_context(pool.pool("sim://?step_ms=0&size=64"))
        cls.addClassCleanup(cls.stack.close)

    async def asyncSetUp(self) -> None:
        self.client = await self.pool.connect()
        self.addAsyncCleanup(self.client.close)

    async def inpainted(self, picture: str, mask: str) -> dict[str, Any]:
        body = {"prompt": "a", "init_image": picture, "mask_image": mask, "steps": 1, "stream": False}
        reply = await pool.request(self.client, "image.inpaint", json.dumps(body).encode())
        event: dict[str, Any] = json.loads(reply.data)
        return event

    def picture_of(self, event: dict[str, Any]) -> np.ndarray:
        self.assertEqual(event["type"], "complete", event)
        return np.asarray(Image.open(self.pool.store / event["images"][0]["key"])).astype(int)

    async def read(self, file: bytes, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, list[str]]:
        """The picture as the worker has it, and what it says of it."""
        event = await self.inpainted(text(file), text(saved(Image.new("L", size), "PNG")))
        said = [line for line in event.get("warnings", []) if not line.startswith("mask_image")]
        return self.picture_of(event), said

    async def masked(self, mask: Image.Image, **options: Any) -> tuple[np.ndarray, list[str]]:
        """Where the worker paints, and what it says of the mask."""
        grey = saved(Image.new("RGB", mask.size, (1, 2, 3)), "PNG")
        event = await self.inpainted(text(grey), text(saved(mask, **{"kind": "PNG", **options})))
        return (self.picture_of(event) != (1, 2, 3)).any(-1), event["warnings"]

    async def refused(self, file: bytes) -> str:
        event = await self.inpainted(text(file), text(saved(Image.new("L", SIZE), "PNG")))
        self.assertEqual((event["type"], event.get("code")), ("error", "image_invalid"), event)
        self.assertTrue(event["message"].startswith("`init_image`: "), event)
        self.assertFalse(event["retryable"])
        return str(event["message"])

    async def test_a_cut_picture_is_refused_and_a_missing_end_mark_is_not(self) -> None:
        picture = photo()
        files = {
            "baseline": saved(picture, "JPEG", quality=85),
            "progressive": saved(picture, "JPEG", quality=85, progressive=True),
            "restarts": saved(picture, "JPEG", quality=85, restart_marker_rows=1),
            "grey": saved(picture.convert("L"), "JPEG", quality=85, optimize=True),
            "lossy": saved(picture, "WEBP", quality=80),
            "lossless": saved(picture, "WEBP", lossless=True),
            "animated": saved(picture, "WEBP", save_all=True, append_images=[photo()]),
            "png": saved(picture, "PNG"),
        }
        for name, file in files.items():
            for part in (0.1, 0.3, 0.5, 0.9, 0.98):
                with self.subTest(f"{name}, {part:.0%} of it"):
                    await self.refused(file[: int(len(file) * part)])
            with self.subTest(f"{name}, zeros in its middle"):
                half = len(file) // 2
                if name in ("baseline", "progressive", "restarts", "grey", "png"):
                    await self.refused(file[:half] + bytes(200) + file[half + 200 :])
            if name in ("baseline", "progressive", "restarts", "grey"):
                with self.subTest(f"{name}, without its end mark"):
                    whole, _ = await self.read(file)
                    open_ended, _ = await self.read(file[:-2])
                    self.assertTrue((whole == open_ended).all())

    async def test_what_encoders_write_is_read_as_pillow_reads_it(self) -> None:
        picture = photo(133, 77)
        for options in (
            {"subsampling": 0},
            {"subsampling": 1, "progressive": True},
            {"subsampling": 2, "optimize": True},
            {"subsampling": 2, "restart_marker_blocks": 3},
            {"quality": 5, "progressive": True, "restart_marker_rows": 2},
            {"quality": 100, "subsampling": 0, "progressive": True},
        ):
            for mode in ("RGB", "L"):
                with self.subTest(f"{mode} {options}"):
                    file = saved(picture.convert(mode), "JPEG", **options)
                    found, said = await self.read(file, picture.size)
                    wanted = np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)
                    self.assertLess(np.abs(found - wanted).mean(), 1.5, "chroma is spread in another way")
                    self.assertEqual(said, [])

    async def test_colours_are_those_of_littlecms(self) -> None:
        worst = {}
        for name, profile, (mean, most) in (
            ("Display P3", icc.rgb("Display P3", icc.DISPLAY_P3, icc.D65, None), (0.6, 3)),
            ("Adobe RGB", icc.rgb("Adobe RGB (1998)", icc.ADOBE_RGB, icc.D65, 2.2), (0.6, 3)),
            ("ProPhoto", icc.rgb("ProPhoto", icc.PROPHOTO, icc.PROPHOTO_WHITE, 1.8), (0.6, 3)),
        ):
            source = colours()
            wanted = ImageCms.profileToProfile(
                source, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            )
            assert wanted is not None
            for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
                with self.subTest(f"{name} in {kind}"):
                    file = saved(source, kind, icc_profile=profile, **options)
                    found, said = await self.read(file, source.size)
                    off = np.abs(found - np.asarray(wanted).astype(int))
                    worst[name, kind] = (float(off.mean()), int(off.max()))
                    self.assertLessEqual(off.mean(), mean)
                    self.assertLessEqual(off.max(), most)
                    self.assertIn("converted from `", said[0])
        print(f"\nbeside LittleCMS, mean and largest difference of 255: {worst}")

    async def test_a_grey_picture_with_a_profile_and_one_of_cmyk_go_on_working(self) -> None:
        grey = Image.fromarray(np.tile(np.arange(96, dtype=np.uint8) * 2, (72, 1)))
        found, said = await self.read(saved(grey, "PNG", icc_profile=icc.grey("linear", 1.0)))
        linear = np.asarray(grey) / 255
        wanted = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
        self.assertLessEqual(np.abs(found[..., 0] - wanted).max(), 1)
        self.assertIn("`linear`", said[0])
        cmyk = saved(photo().convert("CMYK"), "JPEG", quality=95, icc_profile=icc.profile("ink", {}, b"CMYK"))
        _, said = await self.read(cmyk)
        self.assertIn("CMYK", said[0])

    async def test_orientation_is_that_of_pillow(self) -> None:
        picture = photo()
        for kind in ("JPEG", "PNG", "WEBP"):
            for orientation in range(1, 9):
                with self.subTest(f"{kind} {orientation}"):
                    exif = Image.Exif()
                    exif[0x0112] = orientation
                    file = saved(picture, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
                    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
                    found, _ = await self.read(file, wanted.size)
                    off = np.abs(found - np.asarray(wanted.convert("RGB")).astype(int)).mean()
                    self.assertLess(off, 2.0 if kind == "JPEG" else 0.01)

    async def test_transparent_parts_are_white(self) -> None:
        picture = photo()
        alpha = Image.fromarray(np.tile(np.linspace(0, 255, SIZE[0]).round().astype(np.uint8), (SIZE[1], 1)))
        layered = picture.convert("RGBA")
        layered.putalpha(alpha)
        wanted = Image.new("RGBA", SIZE, "white")
        wanted.alpha_composite(layered)
        for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
            with self.subTest(kind):
                found, said = await self.read(saved(layered, kind, **options))
                off = np.abs(found - np.asarray(wanted.convert("RGB")).astype(int))
                self.assertLessEqual(off.max(), 1)
                self.assertEqual(said, ["init_image: its transparent parts are laid on white"])

    async def test_a_mask_in_an_alpha_channel_is_read_from_there(self) -> None:
        painted = np.zeros((72, 96), bool)
        painted[24:48, 16:64] = True
        alpha = Image.fromarray(painted.astype(np.uint8) * 255)
        black, white = Image.new("L", SIZE), Image.new("L", SIZE, 255)
        red = Image.new("RGB", SIZE, (255, 0, 0))
        red.putalpha(alpha)
        palette = Image.fromarray(painted.astype(np.uint8)).convert("P")
        palette.putpalette([255, 255, 255, 10, 20, 200])
        masks = {
            "black strokes": (Image.merge("LA", (black, alpha)), {}),
            "white strokes": (Image.merge("LA", (white, alpha)), {}),
            "white strokes on transparent black": (Image.merge("LA", (alpha, alpha)), {}),
            "red strokes": (red, {}),
            "red strokes in WebP": (red, {"kind": "WEBP", "lossless": True}),
            "a palette": (palette, {"transparency": 0}),
        }
        for name, (mask, options) in masks.items():
            with self.subTest(name):
                found, said = await self.masked(mask, **options)
                self.assertTrue((found == painted).all())
                self.assertIn("opaque is repainted, transparent is kept", said[0])
        opaque = alpha.convert("RGBA")
        found, said = await self.masked(opaque)
        self.assertTrue((found == painted).all())
        self.assertEqual(said, [])
        hole = photo().convert("RGBA")
        hole.putalpha(alpha)
        event = await self.inpainted(text(saved(photo(), "PNG")), text(saved(hole, "PNG")))
        self.assertEqual((event["type"], event.get("code")), ("error", "image_invalid"), event)
        self.assertIn("`mask_image`", event["message"])

    async def test_a_mask_that_changes_nothing_or_everything_is_said(self) -> None:
        for value, says in ((0, "nothing is repainted"), (255, "the whole picture is repainted")):
            found, said = await self.masked(Image.new("L", SIZE, value))
            self.assertEqual(bool(found.all()), value == 255)
            self.assertIn(says, said[-1])

    async def test_base64_as_people_make_it(self) -> None:
        file = saved(photo(), "PNG")
        wanted, _ = await self.read(file)
        mask = text(saved(Image.new("L", SIZE), "PNG"))
        plain = text(file)
        for name, form in {
            "lines of 76": base64.encodebytes(file).decode(),
            "lines as mail has them": base64.encodebytes(file).decode().replace("\n", "\r\n"),
            "no padding": plain.rstrip("="),
            "for addresses": base64.urlsafe_b64encode(file).decode().rstrip("="),
            "spaces around": f"  {plain} \n",
            "a data: URL": f"data:image/png;charset=utf-8;base64,{plain}",
        }.items():
            with self.subTest(name):
                self.assertTrue((self.picture_of(await self.inpainted(form, mask)) == wanted).all())
        for form, says in (("!!!!", "character 1 is '!'"), (plain[:9], "cut off"), ("R0lGODlhAQABAAAAADs=", "a GIF")):
            event = await self.inpainted(form, mask)
            self.assertEqual((event["type"], event.get("code")), ("error", "image_invalid"), event)
            self.assertIn(says, event["message"])
            self.assertIn("`init_image`", event["message"])


if __name__ == "__main__":
    unittest.main()
