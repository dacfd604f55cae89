"""A newcomer's way, in seconds: scripts/quickstart --keep, the page in a browser, the first picture.

    PYTHONPATH=tests/wire:tests/page python tests/page/newcomer.py

What was built before is not in the figures: run scripts/quickstart once before, or read cargo's time as its own line.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

from playwright.sync_api import expect

import pool
import rig


def main() -> None:
    begun = time.monotonic()
    command = [str(pool.ROOT / "scripts/quickstart"), "--keep"]
    quickstart = subprocess.Popen(
        command, cwd=pool.ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )

    def tell(what: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {what}", flush=True)

    try:
        assert quickstart.stderr
        for line in quickstart.stderr:
            if "Finished" in line or re.match(r"nats-server, queen|[123]/3|done in", line):
                tell(line.strip())
            if address := re.search(r"Open (http://\S+) in a browser", line):
                break
        else:
            raise SystemExit(f"scripts/quickstart ended: {quickstart.wait()}")
        page = rig.browser().new_page()
        page.goto(address[1])
        page.get_by_label("Prompt").fill("a large red circle on a blue background")
        tell("the page is open, and a prompt is in it")
        page.get_by_role("button", name="Draw").click()
        expect(page.locator("#status")).to_contain_text("Done: 1 picture")
        tell("its first picture is drawn")
    finally:
        os.killpg(quickstart.pid, signal.SIGINT)
        quickstart.wait()


if __name__ == "__main__":
    main()
