"""A picture from words: it grows, waits, is cancelled, goes on after a reload."""

from __future__ import annotations

import json
import re
import unittest

from playwright.sync_api import Route, expect

import pool
from rig import MODELS, PageTest, Pool, wait_until

# Collects the pictures that were shown.
WATCH = """() => {
    window.shown = new Set();
    const note = () => {
        const image = document.querySelector(".frame img");
        if (image?.src) window.shown.add(image.src);
    };
    new MutationObserver(note).observe(document.getElementById("stage"),
        { subtree: true, childList: true, attributes: true, attributeFilter: ["src"] });
}"""


class Drawing(PageTest):
    def test_words_and_a_button_are_all_that_a_picture_needs(self) -> None:
        self.page.get_by_label("Prompt").fill("a large red circle on a blue background")
        self.page.get_by_role("button", name="Draw").click()
        self.done()
        expect(self.page.locator("#status")).to_contain_text("Done: 1 picture")
        expect(self.page.locator("#gallery li")).to_have_count(1)

    def test_a_picture_grows_before_it_is_done(self) -> None:
        self.page.evaluate(WATCH)
        # Each picture of a simulated job has a colour of its own.
        self.draw("a small green star", "slow", steps=8, n=3)
        self.done()
        previews = self.page.evaluate(
            "[...window.shown].filter((url) => url.startsWith('data:image/jpeg')).length"
        )
        self.assertGreaterEqual(previews, 2)

    def test_what_is_not_said_is_asked_for_and_what_queen_refuses_is_shown_at_its_field(self) -> None:
        self.page.get_by_role("button", name="Draw").click()
        expect(self.page.locator("#form-error")).to_have_text("Say what to draw.")
        expect(self.page.get_by_label("Prompt")).to_be_focused()
        self.ready()
        self.page.evaluate("document.getElementById('model').append(new Option('gone', 'gone'))")
        self.draw("a star", "gone")
        expect(self.page.locator("#form-error")).to_contain_text("`model`")
        expect(self.page.locator("#model")).to_have_attribute("aria-invalid", "true")
        expect(self.page.locator("#gallery li")).to_have_count(0)
        # The browser itself writes a refused request down.
        self.errors = [text for text in self.errors if "404" not in text]

    def test_a_job_that_runs_and_one_that_waits_are_cancelled_apart(self) -> None:
        self.draw("the first", "slow", steps=100)
        self.frame("running")
        self.draw("the second", "slow", steps=100)
        self.frame("queued")
        expect(self.page.locator("#queue-list li")).to_have_count(2)
        self.page.get_by_role("button", name="Cancel: the second").click()
        expect(self.page.locator("#queue-list li")).to_have_count(1)
        expect(self.page.locator("#queue-list")).to_contain_text("the first")
        self.page.locator("#queue-list .choose-job").click()
        self.frame("running")
        self.page.locator("#stage").get_by_role("button", name="Cancel").click()
        self.frame("cancelled")
        expect(self.page.locator("#gallery li")).to_have_count(2)
        wait_until(lambda: self.pool.workers()[0]["free_slots"] == 1, "the worker goes on")

    def test_a_job_that_queen_has_no_room_for_is_sent_again_under_its_id(self) -> None:
        sent: list[str] = []

        def answer(route: Route) -> None:
            if route.request.method != "POST" or len(sent) > 1:
                return route.continue_()
            sent.append(json.loads(route.request.post_data or "")["job_id"])
            if len(sent) > 1:
                return route.continue_()
            busy = {"error": {"code": "busy", "message": "the queue is full", "retryable": True}}
            return route.fulfill(status=503, headers={"Retry-After": "1"}, json=busy)

        self.page.route("**/v1/jobs", answer)
        self.draw("no room", steps=2)
        expect(self.page.locator(".state")).to_have_text("The queue is full; it is sent again in 1 s")
        self.done()
        self.assertEqual(len(set(sent)), 1, sent)
        self.errors = [text for text in self.errors if "503" not in text]

    def test_a_reload_in_the_middle_goes_on(self) -> None:
        self.draw("before the reload", "slow", steps=40, negative_prompt="blur")
        expect(self.page.locator(".state")).to_have_text(re.compile("Step [1-9]"))
        self.page.reload()
        expect(self.page.locator(".words")).to_have_text("before the reload")
        expect(self.page.locator(".state")).to_have_text(re.compile("Step [1-9][0-9]? of 40"))
        expect(self.page.locator("#negative_prompt")).to_have_value("blur")
        expect(self.page.locator("#model")).to_have_value("slow")
        self.done()
        expect(self.page.locator("#gallery li")).to_have_count(1)
        self.page.reload()
        self.done()

    def test_a_queen_that_was_away_is_found_again_and_the_job_goes_on(self) -> None:
        port = pool.free_port()
        with self.pool.queen_on(port) as url:
            page = self.open(url)
            self.draw("while queen is away", "slow", page=page, steps=60)
            expect(page.locator(".state")).to_have_text(re.compile("Step [1-9]"))
        expect(page.locator("#summary")).to_contain_text("Connecting again")
        with self.pool.queen_on(port):
            self.done(page)
            expect(page.locator("#summary")).to_contain_text("1 of 1 slot free")
            page.close()
        # Away, or starting.
        self.errors = [text for text in self.errors if "ERR_" not in text and "503" not in text]

    def test_a_page_that_is_opened_while_queen_starts_draws_when_queen_is_ready(self) -> None:
        late = Pool(begun=False)
        self.addCleanup(late.stack.close)
        late.url = late.stack.enter_context(late.queen_on(pool.free_port(), is_late=True))
        page = self.open(late.url)
        expect(page.locator("#summary")).to_contain_text("queen starts")
        late.server()
        late.worker(MODELS)
        self.draw("from the start", page=page, steps=2)
        self.done(page)
        page.close()
        self.errors = [text for text in self.errors if "503" not in text]

    def test_two_tabs_follow_eight_jobs_and_leave_connections_for_the_rest(self) -> None:
        other = self.open()
        for number in range(4):
            self.draw(f"here {number}", steps=40)
            self.draw(f"there {number}", page=other, steps=40)
        for page in (self.page, other):
            answer = page.evaluate("fetch('/health').then((answer) => answer.status)")
            self.assertEqual(answer, 200)
            expect(page.locator("#gallery li")).to_have_count(8)
            self.assertEqual(page.locator("#gallery .ended").count(), 0)

    def test_a_job_is_drawn_again_with_its_seed_or_without(self) -> None:
        self.draw("once more", steps=2)
        self.done()
        seed, file = self.fact("Seed"), self.saved()
        self.page.get_by_role("button", name="Again, same seed").click()
        expect(self.page.locator("#gallery li")).to_have_count(2)
        self.done()
        self.assertEqual((self.fact("Seed"), self.saved()), (seed, file))
        self.page.get_by_role("button", name="Again, new seed").click()
        expect(self.page.locator("#gallery li")).to_have_count(3)
        self.done()
        self.assertNotEqual(self.fact("Seed"), seed)
        self.assertNotEqual(self.saved(), file)

    def fact(self, name: str) -> str:
        return self.page.locator(".facts div", has_text=name).locator("dd").inner_text()

    def test_seeds_of_64_bits_are_kept_to_the_last_digit(self) -> None:
        self.draw("a seed", seed="18446744073709551615", steps=2)
        self.done()
        self.assertEqual(self.fact("Seed"), "18446744073709551615")
        self.assertIn(b"Seed: 18446744073709551615", self.saved())

    def test_several_pictures_of_a_job_are_chosen_by_their_small_ones(self) -> None:
        self.draw("three", steps=2, n=3)
        self.done()
        first = self.fact("Seed")
        self.page.get_by_role("button", name="Picture 3 of 3").click()
        self.assertEqual(int(self.fact("Seed")), int(first) + 2)
        self.assertIn(f"Seed: {int(first) + 2}".encode(), self.saved())


if __name__ == "__main__":
    unittest.main()
