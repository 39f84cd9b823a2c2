"""Lesson 8 as a visitor meets it: Streamlit in a process of its own, the page in Chromium."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright
from running_lessons import ROOT, STRICT_PYTHON, chromium, free_port, lesson_environment

LESSON = ROOT / "speech_to_text_webrtc.py"
WAIT_MS = 30_000  # for whatever is to appear: the machine may be busy
expect.set_options(timeout=WAIT_MS)

# What Streamlit 1.66 and 1.67 themselves say when a page is closed at the very moment of a message.
HANGING_UP = (
    r"(?:\S+ \S+ )?Exception in ASGI application\n.{,3000}in receive_bytes\n"
    r".{,6000}in _websocket_endpoint\n    await websocket.close\(\)\n.{,600}has been sent\.\n"
)
# And of its own dictionary of widgets, when a visitor's page runs twice at once.
RUNNING_TWICE = (
    r"─+ Traceback \(most recent call last\) ─+\n(?:(?!Traceback|/speech_to_text_webrtc).){,4000}"
    r"y:\d+ in _call_callbacks(?:(?!Traceback).){,600}"
    r"RuntimeError: dictionary keys changed during iteration\n"
)

WATCH = """() => {
  window.seen = []
  const look = () => {
    const live = document.querySelector(".live")?.innerText ?? ""
    const lines = document.querySelector('[data-testid="stText"]')?.innerText ?? ""
    const said = lines.split("\\n").filter(Boolean).map((line) => line.replace(/^\\[.+?\\] /, ""))
    const last = window.seen.at(-1)
    if (last && last.live === live && last.said.length === said.length) return
    window.seen.push({ live, said, time: Date.now() / 1000 })
  }
  new MutationObserver(look).observe(
    document.body, { subtree: true, childList: true, characterData: true })
  look()
}"""


class App:
    """The lesson, started with python LESSON or with streamlit run LESSON."""

    def __init__(
        self, folder: Path, lesson: Path, env: dict[str, str], with_streamlit: bool
    ) -> None:
        self.port = int(env.get("STREAMLIT_SERVER_PORT") or free_port())
        self.url = f"http://localhost:{self.port}/"
        self.log = folder / f"streamlit-{self.port}.log"
        settings = {"STREAMLIT_SERVER_PORT": str(self.port), "STREAMLIT_SERVER_HEADLESS": "true"}
        if with_streamlit:
            command = [*STRICT_PYTHON, "-m", "streamlit", "run", str(lesson)]
        else:
            command = [*STRICT_PYTHON, str(lesson)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=lesson_environment(settings | env), stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline, self.output()
            time.sleep(0.05)
        self.sockets_at_rest = self.sockets()

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}_stcore/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    def output(self) -> str:
        return self.log.read_text()

    def threads(self) -> list[str]:
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sorted((task / "comm").read_text().strip() for task in tasks)

    def sockets(self) -> int:
        count = 0
        for file in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed in this very moment
                count += str(file.readlink()).startswith("socket:")
        return count

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it, and see whether it had anything to complain about."""
        self.process.terminate()
        self.process.wait(20)
        output = re.sub(r"\x1b\[[0-9;]*m", "", self.output())  # without colours
        for noise in (HANGING_UP, RUNNING_TWICE):
            output = re.sub(noise, "", output, flags=re.DOTALL)
        for word in ("Traceback", "Error", "WARNING", "ScriptRunContext", "eprecat", "never "):
            assert word not in output, output


class Visitor:
    """Somebody who has the page open, and what that person sees there."""

    def __init__(self, page: Page) -> None:
        self.page = page
        assert page.context.browser
        self.browser = page.context.browser
        self.component = page.frame_locator('iframe[title*="webrtc_streamer"]')
        self.history = page.get_by_test_id("stText")

    def open(self, url: str) -> None:
        """Open the page, once more if the machine's network changed while it was loading."""
        failures: list[str] = []
        self.page.on("requestfailed", lambda request: failures.append(str(request.failure)))
        for _ in range(5):
            failures.clear()
            self.page.goto(url, wait_until="networkidle")
            if not any("ERR_NETWORK_CHANGED" in failure for failure in failures):
                break
        expect(self.component.get_by_role("button", name="START")).to_be_enabled()
        self.page.evaluate(WATCH)

    def start(self) -> None:
        self.component.get_by_role("button", name="START").click()

    def stop(self) -> None:
        self.component.get_by_role("button", name="STOP").click()
        expect(self.component.get_by_role("button", name="START")).to_be_enabled()

    def expect_badge(self, text: str) -> None:
        expect(self.page.get_by_text(text)).to_be_visible()

    def wait_for_words(self, text: str) -> None:
        """Wait until words that begin like this stand there: while they are spoken, as a rule.

        On a busy machine the service leaves partial text out, and they come with the final one.
        """
        words = re.compile(rf"^(\[.+?\] )?{text}", re.MULTILINE)
        self.page.locator(".live").or_(self.history).filter(has_text=words).first.wait_for()

    def expect_said(self, *phrases: str, patience_s: float = WAIT_MS / 1000) -> None:
        """Wait until exactly these phrases stand in the history."""
        lines = [rf"\[\d+:\d\d\] {re.escape(phrase)}" for phrase in phrases]
        text = re.compile(r"^\s*" + r"\s+".join(lines) + r"\s*$")
        expect(self.history).to_have_text(text, timeout=1000 * patience_s)

    def expect_problem(self, *texts: str) -> None:
        """Wait for a message that holds all of the texts."""
        message = self.page.get_by_test_id("stAlert")
        for text in texts:
            message = message.filter(has_text=text)
        expect(message).to_be_visible()

    def seen(self) -> list[dict[str, Any]]:
        """Return what stood on the page, one state after the other, with the time of each."""
        return list(self.page.evaluate("window.seen"))

    def download(self, button: str, path: Path) -> Path:
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=button).click()
        download.value.save_as(path)
        return path

    def take_picture(self, path: Path) -> Path:
        """Save what the page looks like, as a small PNG file."""
        path.parent.mkdir(exist_ok=True)
        self.page.wait_for_load_state("networkidle")
        self.page.evaluate("document.fonts.ready")
        with Image.open(BytesIO(self.page.screenshot())) as picture:
            picture.convert("RGB").quantize(256).save(path, optimize=True)
        return path

    def open_settings(self) -> None:
        """Unfold the settings, and wait until what is below them has moved to its new place."""
        if self.page.get_by_test_id("stRadio").is_visible():
            return
        self.page.get_by_text("Service, key, and language").click()
        start = self.page.locator('iframe[title*="webrtc_streamer"]')
        places = [None, start.bounding_box()]
        while places[-1] != places[-2]:
            self.page.wait_for_timeout(200)
            places.append(start.bounding_box())

    def choose(self, service: str, address: str = "", key: str = "") -> None:
        """Choose a service, as a visitor does."""
        self.open_settings()
        self.page.get_by_test_id("stRadio").get_by_text(service, exact=True).click()
        if address:
            self.page.get_by_label("Address").fill(address)
            self.page.get_by_label("Address").press("Enter")
        if key:
            # Each address has a field of its own, which comes when the page has been drawn again.
            url = address or "wss://api.openai.com/v1/realtime?intent=transcription"
            field = re.sub(r"[^\w-]", "-", f"st-key-key for {url}")
            self.page.locator(f".{field}").wait_for()
            expect(self.page.get_by_label("API key")).to_have_count(1)
            self.page.get_by_label("API key").fill(key)
            self.page.get_by_label("API key").press("Enter")


StartApp = Callable[..., App]
Visit = Callable[..., Visitor]


@pytest.fixture
def start_app(tmp_path: Path) -> Iterator[StartApp]:
    """Start the lesson, or a copy of it: start_app(with_streamlit=False, **environment)."""
    started: list[App] = []

    def start(lesson: Path = LESSON, with_streamlit: bool = False, **env: str) -> App:
        started.append(App(tmp_path, lesson, env, with_streamlit))
        return started[-1]

    yield start
    for app in started:
        app.stop()


@pytest.fixture
def _playwright() -> Iterator[Playwright]:
    """Playwright, for one test only: while it lives, this thread can run no other event loop."""
    with sync_playwright() as playwright:
        yield playwright


def open_browser(
    playwright: Playwright,
    says: Path | None = None,
    env: dict[str, str] | None = None,
    allow: bool = True,
    arguments: tuple[str, ...] = (),
    width: int = 1280,
) -> Visitor:
    """Open Chromium; its own fake microphone says the WAV file once, when it is opened."""
    args = ["--no-sandbox", "--disable-gpu", "--mute-audio", *arguments]
    if allow:
        args += ["--use-fake-ui-for-media-stream"]
    if says:
        args += ["--use-fake-device-for-media-stream"]
        args += [f"--use-file-for-fake-audio-capture={says}%noloop"]
    browser = playwright.chromium.launch(
        executable_path=chromium(), args=args, env=dict(os.environ | (env or {}))
    )
    page = browser.new_page(viewport={"width": width, "height": 844 if width < 500 else 800})
    page.set_default_timeout(WAIT_MS)
    return Visitor(page)


@pytest.fixture
def visit(_playwright: Playwright) -> Iterator[Visit]:
    """Open a browser with a microphone: visit(says=WAV) or visit(env=microphone.environment)."""
    browsers: list[Browser] = []

    def open_one(*arguments: Any, **options: Any) -> Visitor:
        visitor = open_browser(_playwright, *arguments, **options)
        browsers.append(visitor.browser)
        return visitor

    yield open_one
    for browser in browsers:
        browser.close()
