"""A pool and a real Chromium, for tests of the page: nats-server, queen and a worker on free ports, one browser.

The worker has one slot, so that jobs wait for each other, and models that only take time: a test says how many
steps it needs. Whatever a page writes into its console as an error fails its test, reports of its policy too.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
import unittest
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    FilePayload,
    Locator,
    Page,
    expect,
    sync_playwright,
)

import pool

PARITY = Path(__file__).parents[2] / "tools/parity"
sys.path.append(str(PARITY))
import segmenter_weights  # noqa: E402

SHAPES = Path(__file__).parents[1] / "data/parity/segmenter/vit.shapes.json"
PATIENCE = 30.0  # seconds that a page gets to show something
HOSTILE = "<img src=x onerror=document.title='taken'>"
MODELS = {
    "quick": "sim://?step_ms=5&size=128",
    "slow": "sim://?step_ms=100&size=192",
}


def queen_binary() -> Path:
    """`SD_QUEEN`, or the one beside the worker."""
    return Path(os.environ.get("SD_QUEEN", pool.worker_binary().with_name("queen-rbee")))


def chromium() -> str:
    for name in (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"):
        if name and (path := shutil.which(name)):
            return path
    raise RuntimeError("Chromium is missing: install it (apt install chromium), or name it in CHROMIUM")


@functools.cache
def browser() -> Browser:
    """One for all tests of a process."""
    playwright = sync_playwright().start()
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    started = playwright.chromium.launch(executable_path=chromium(), args=sandbox)

    def stop() -> None:
        started.close()
        playwright.stop()

    atexit.register(stop)
    expect.set_options(timeout=PATIENCE * 1000)
    return started


class Pool:
    """The processes, stopped at the end of this one. `begun` false: none of them runs yet."""

    def __init__(self, models: dict[str, str] = MODELS, *, begun: bool = True) -> None:
        self.stack = contextlib.ExitStack()
        atexit.register(self.stack.close)
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.loras = self.folder / "loras"
        self.loras.mkdir()
        self.segmenter = self.folder / "segmenter"
        self.segmenter.mkdir()
        segmenter_weights.write(SHAPES, self.segmenter / "sam.safetensors")
        (self.loras / f"{HOSTILE}.safetensors").write_bytes(b"no LoRA")
        self.port = pool.free_port()
        self.nats = f"nats://127.0.0.1:{self.port}"
        self.log = self.folder / "nats.log"
        if begun:
            self.server()
            self.url = self.queen()
            self.worker(models)

    def server(self) -> None:
        address = ["-a", "127.0.0.1", "-p", str(self.port)]
        server = [pool.nats_server(), *address, "-js", "-sd", str(self.folder / "nats")]
        process = self.stack.enter_context(pool.running(server, self.log))
        pool.wait_until_answering(self.port, process, self.log)

    def queen(self, *flags: str) -> str:
        """Starts one, and gives its address."""
        return self.stack.enter_context(self.queen_on(pool.free_port(), *flags))

    @contextlib.contextmanager
    def queen_on(self, port: int, *flags: str, is_late: bool = False) -> Iterator[str]:
        """A queen that is ready, or (`is_late`) starts and waits for what it needs."""
        log = self.folder / f"queen-{port}.log"
        command = [
            str(queen_binary()),
            "--listen",
            f"127.0.0.1:{port}",
            *self.common(),
            "--grace",
            "1s",
            *flags,
        ]
        with pool.running(command, log) as process:
            pool.wait_until_answering(port, process, log)
            url = f"http://127.0.0.1:{port}"
            if not is_late:
                wait_until(lambda: is_ready(url), "queen is not ready")
            yield url

    def worker(self, models: dict[str, str]) -> None:
        flags = [flag for name, source in models.items() for flag in ("--model", f"{name}={source}")]
        command = [str(pool.worker_binary()), *flags, *self.common(), "--lora-dir", str(self.loras)]
        command += ["--segmenter", str(self.segmenter)]
        command += ["--worker-id", "bench-1", "--grace", "1s", "--checkpoint-every", "1s"]
        self.stack.enter_context(pool.running(command, self.folder / "worker.log"))
        wait_until(lambda: is_ready(self.url) and len(self.workers()) == 1, "no worker is up")

    def common(self) -> list[str]:
        return ["--nats-url", self.nats, "--store-url", f"file://{self.folder / 'store'}"]

    def workers(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.url}/v1/workers") as answer:
            workers: list[dict[str, Any]] = json.load(answer)["workers"]
            return workers


@functools.cache
def the_pool() -> Pool:
    return Pool()


def is_ready(queen: str) -> bool:
    """Before it is, queen answers that it starts."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{queen}/ready") as answer:
        return answer.status == 200
    return False


def wait_until(holds: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(otherwise)
        time.sleep(0.05)


def noise(width: int, height: int, **text: str) -> bytes:
    """A PNG in which each pixel is another, with texts."""
    info = PngInfo()
    for keyword, value in text.items():
        info.add_itxt(keyword, value)
    out = io.BytesIO()
    Image.frombytes("RGB", (width, height), os.urandom(width * height * 3)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def png(data: bytes) -> FilePayload:
    """A file as it is chosen in a form."""
    return {"name": "a.png", "mimeType": "image/png", "buffer": data}


class PageTest(unittest.TestCase):
    """A page of a browser that has never been here, on a wide screen."""

    size = {"width": 1360, "height": 900}

    def setUp(self) -> None:
        self.pool = the_pool()
        self.errors: list[str] = []
        self.context = self.new_context()
        self.page = self.open()

    def tearDown(self) -> None:
        self.assertEqual(self.errors, [], "the console of the page has errors")

    def new_context(self, **options: Any) -> BrowserContext:
        context = browser().new_context(**{"viewport": self.size, "accept_downloads": True, **options})
        self.addCleanup(context.close)
        return context

    def open(self, url: str = "", context: BrowserContext | None = None) -> Page:
        page = (context or self.context).new_page()
        page.on("console", self.heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(url or self.pool.url)
        return page

    def heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def ready(self, page: Page | None = None) -> None:
        """Waits for the models of the worker."""
        expect((page or self.page).locator("#model option[value=quick]")).to_be_attached()

    def draw(self, prompt: str, model: str = "quick", page: Page | None = None, **fields: Any) -> None:
        page = page or self.page
        self.ready(page)
        page.locator("#model").select_option(model)
        for name, value in fields.items():
            page.locator(f"#{name}").fill(str(value))
        page.get_by_label("Prompt").fill(prompt)
        page.get_by_role("button", name="Draw").click()

    def frame(self, state: str, page: Page | None = None) -> Locator:
        """The job at large, once it is so."""
        found = (page or self.page).locator(f".frame[data-state={state}]")
        found.wait_for(timeout=PATIENCE * 1000)
        return found

    def done(self, page: Page | None = None) -> None:
        self.frame("completed", page)
        expect((page or self.page).locator(".frame img")).to_have_attribute("src", contains("blob:"))

    def saved(self) -> bytes:
        """The file of the picture at large."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name="Save").click()
        return Path(download.value.path()).read_bytes()

    def drop(self, selector: str, name: str, data: bytes) -> None:
        """Drops a file, as a mouse would bring it from another window."""
        encoded = base64.b64encode(data).decode()
        script = """([name, text]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type: "image/png" }));
            return transfer;
        }"""
        transfer = self.page.evaluate_handle(script, [name, encoded])
        for event in ("dragenter", "dragover", "drop"):
            self.page.dispatch_event(selector, event, {"dataTransfer": transfer})


def contains(text: str) -> Any:
    return re.compile(re.escape(text))
