"""Draws with the shipped checkpoint and writes the pictures of the page that the documents show.

PYTHONPATH=tests/wire python tests/page/screenshots.py docs/img
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page, expect

import pool
import rig

PROMPTS = [
    "a large red circle on a blue background",
    "a small yellow star on a purple background",
    "a large pink heart on a white background",
    "a large green triangle on a black background",
    "a large orange ring on a blue background",
    "a small white square on a red background",
]


def page(url: str, width: int, height: int, scheme: Literal["light", "dark"], touch: bool = False) -> Page:
    context = rig.browser().new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=touch, is_mobile=touch
    )
    opened = context.new_page()
    opened.goto(url)
    expect(opened.locator("#fleet > li")).to_have_count(1)
    return opened


def draw(shown: Page, prompt: str, **fields: str) -> None:
    for name, value in fields.items():
        shown.locator(f"#{name}").evaluate("(field, value) => { field.value = value; }", value)
    shown.get_by_label("Prompt").fill(prompt)
    shown.get_by_role("button", name="Draw").click()


def done(shown: Page) -> None:
    shown.locator(".frame[data-state=completed]").wait_for()
    expect(shown.locator(".frame img")).to_have_attribute("src", re.compile("blob:"))


def at_work(shown: Page) -> None:
    """Waits for a picture of which something is to be seen."""
    for _ in range(2000):
        if re.match("Step (2[4-9]|3[0-6]) of", shown.locator(".state").inner_text()):
            return
        shown.wait_for_timeout(10)
    raise RuntimeError("no picture was seen growing")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    started = rig.Pool({"shapes": str(pool.ROOT / "models/tiny-shapes")})
    wide = page(started.url, 1360, 820, "light")
    wide.screenshot(path=folder / "page-rest.png")
    for prompt in PROMPTS:
        draw(wide, prompt, n="3" if prompt == PROMPTS[0] else "1")
        done(wide)
    draw(wide, PROMPTS[4], steps="40")
    draw(wide, PROMPTS[1])
    wide.locator("#queue-list .choose-job").first.click()
    at_work(wide)
    wide.screenshot(path=folder / "page-work.png")
    done(wide)

    dark = page(started.url, 1360, 820, "dark")
    draw(dark, PROMPTS[0], n="2")
    done(dark)
    dark.get_by_role("button", name="Paint a mask on it").click()
    dark.locator("#mask-canvas").wait_for()
    box = dark.locator("#mask-canvas").bounding_box()
    assert box is not None
    dark.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.45)
    dark.mouse.down()
    dark.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.55, steps=9)
    dark.mouse.up()
    dark.screenshot(path=folder / "page-mask.png")

    phone = page(started.url, 390, 800, "dark", touch=True)
    draw(phone, PROMPTS[1], steps="40")
    at_work(phone)
    phone.screenshot(path=folder / "page-phone.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
