"""Who uses the page, and with what: a token, a phone, the keyboard alone, a screen reader."""

from __future__ import annotations

import hashlib
import re
import unittest

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from rig import PageTest, noise, png

TOKEN = "a-token-of-a-test-with-more-than-32-characters"
# Every rule of WCAG 2.2 at level AA that can be tested so, and best practices.
AXE = Axe()


class Access(PageTest):
    def check(self, page: Page, where: str) -> None:
        page.wait_for_timeout(200)  # colours fade in
        found = AXE.run(page)
        self.assertEqual(found.violations_count, 0, f"{where}:\n{found.generate_report()}")

    def test_no_state_of_the_page_shuts_anybody_out(self) -> None:
        for scheme in ("light", "dark"):
            page = self.open(context=self.new_context(color_scheme=scheme))
            self.ready(page)
            self.check(page, f"empty, {scheme}")
            self.draw("a picture", page=page, steps=2, n=2)
            self.done(page)
            expect(page.locator("#gallery img")).to_have_attribute("src", re.compile("blob:"))
            self.check(page, f"done, {scheme}")
            self.draw("waits", "slow", page=page, steps=100)
            self.frame("running", page)
            page.get_by_role("button", name="Add a LoRA").click()
            self.check(page, f"at work, {scheme}")
            page.keyboard.press("Escape")
            self.frame("cancelled", page)
            page.get_by_label("Prompt").fill("")
            page.get_by_role("button", name="Draw").click()
            self.check(page, f"a mistake, {scheme}")
            page.locator("#file").set_input_files(png(noise(64, 64)))
            page.get_by_role("button", name="Paint a mask").click()
            page.get_by_text("Without a pointer").click()
            self.check(page, f"the mask, {scheme}")

    def test_the_keyboard_is_enough(self) -> None:
        self.ready()
        self.tab_to("#prompt")
        self.page.keyboard.type("typed")
        self.page.keyboard.press("Control+Enter")
        self.done()
        self.page.locator("#model").select_option("slow")
        self.tab_to("#prompt", "Shift+Tab")
        self.page.keyboard.press("Control+Enter")
        self.frame("running")
        self.page.keyboard.press("Escape")
        self.frame("cancelled")
        self.tab_to("#gallery li:last-child button")
        self.page.keyboard.press("Enter")
        self.frame("completed")
        self.page.locator("#stage").focus()
        self.tab_to("#stage .buttons button:nth-child(5)")
        self.page.keyboard.press("Enter")
        expect(self.page.locator("#mask")).to_be_visible()
        self.tab_to("#mask-numbers summary")
        self.page.keyboard.press("Enter")
        self.tab_to("#rect-add")
        self.page.keyboard.press("Enter")
        self.page.keyboard.press("Control+z")
        self.page.keyboard.press("Enter")
        self.tab_to("#mask-done")
        self.page.keyboard.press("Enter")
        expect(self.page.locator("#source-mask")).to_be_visible()

    def tab_to(self, selector: str, key: str = "Tab") -> None:
        for _ in range(80):
            if self.page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
            self.page.keyboard.press(key)
        self.fail(f"the keyboard does not reach {selector}")

    def test_a_phone_scrolls_in_one_direction(self) -> None:
        narrow = {"width": 360, "height": 740}
        page = self.open(context=self.new_context(viewport=narrow, has_touch=True, is_mobile=True))

        def check(where: str) -> None:
            self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), 360, where)

        self.ready(page)
        check("empty")
        page.get_by_text("Settings", exact=True).tap()
        check("with its settings")
        self.draw("w" * 300, page=page, steps=2, n=2, negative_prompt="m" * 300)
        self.done(page)
        check("done")
        expect(page.locator("#stage")).to_be_in_viewport()
        page.get_by_role("button", name="Paint a mask on it").tap()
        expect(page.locator("#mask-canvas")).to_be_visible()
        box = page.locator("#mask-canvas").bounding_box()
        assert box is not None
        page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        expect(page.locator("#mask-says")).to_contain_text("1 stroke")
        check("the mask")
        self.pinch(page, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.get_by_role("button", name="Use this mask").tap()
        check("with a mask")

    def pinch(self, page: Page, x: float, y: float) -> None:
        """Two fingers zoom, and paint nothing."""
        touch = page.context.new_cdp_session(page)

        def send(kind: str, apart: float | None) -> None:
            points = [] if apart is None else [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        before = page.locator("#mask-zoom").inner_text()
        send("touchStart", 20)
        for apart in (30, 45, 60):
            send("touchMove", apart)
        send("touchEnd", None)
        expect(page.locator("#mask-zoom")).not_to_have_text(before)
        expect(page.locator("#mask-says")).to_contain_text("1 stroke")

    def test_a_token_is_typed_once(self) -> None:
        tokens = self.pool.folder / "tokens"
        tokens.write_text(f"alice:sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
        page = self.open(self.pool.queen("--token-file", str(tokens)))
        expect(page.get_by_role("dialog")).to_contain_text("Queen asks who you are")
        self.check(page, "the token")
        page.get_by_label("Token").fill("another")
        page.keyboard.press("Enter")
        expect(page.locator("#token-error")).to_have_text("Queen does not know this token.")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_hidden()
        self.draw("with a token", page=page, steps=2)
        self.done(page)
        page.reload()
        self.done(page)
        expect(page.get_by_role("dialog")).to_be_hidden()
        kept = page.evaluate("JSON.stringify(localStorage)")
        self.assertNotIn(TOKEN, kept, "it is gone with the tab")
        self.errors = [text for text in self.errors if "401" not in text]

    def test_what_is_said_aloud_is_said_once_and_not_by_step(self) -> None:
        self.ready()
        self.page.evaluate("""() => {
            window.said = [];
            const status = document.getElementById("status");
            new MutationObserver(() => window.said.push(status.textContent)).observe(status, { childList: true });
        }""")
        self.draw("many steps", steps=50)
        self.done()
        said = self.page.evaluate("window.said")
        self.assertEqual(len(said), 2, said)
        self.assertRegex(said[1], "Done: 1 picture in")

    def test_the_fleet_is_shown_as_it_is(self) -> None:
        self.ready()
        fleet = self.page.locator("#fleet")
        for text in ("bench-1", "cpu", "ready, 1 of 1 slot free", "quick in memory"):
            expect(fleet).to_contain_text(text)
        self.draw("at work", "slow", steps=60)
        expect(fleet).to_contain_text("drawing, 0 of 1 slot free")
        expect(self.page.locator("#summary")).to_contain_text("all busy")
        self.page.keyboard.press("Escape")
        expect(fleet).to_contain_text("ready, 1 of 1 slot free")
        expect(fleet).to_contain_text(re.compile(r"\d+ m?s a step"))


if __name__ == "__main__":
    unittest.main()
