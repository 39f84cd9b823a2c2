"""Lesson 8 in a browser: START to the first sound at the service, and text to the page."""

import statistics
import tempfile
import time
from pathlib import Path

from browser import LESSON, App, open_browser
from ear import Ear
from playwright.sync_api import sync_playwright
from processes import processor_seconds
from running_service import until
from speech import silence, write_wav
from table import Report

RUNS = 3
TEXTS = 8  # in each run
SECONDS = 5  # for which the processor is watched


def measure(report: Report) -> None:
    firsts, delays, costs = [], [], []
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        wav = write_wav(folder / "said.wav", silence(1, 48_000), 48_000)
        for _ in range(RUNS):
            ear = Ear(has_vad=True)
            app = App(folder, LESSON, {"WEBSOCKET_URL": ear.url}, with_streamlit=False)
            visitor = open_browser(playwright, says=wav)
            visitor.open(app.url)
            begin = time.time()
            visitor.start()
            until(lambda ear=ear: bool(ear.calls and ear.calls[0].first_audio_at))  # type: ignore[misc]
            firsts.append(ear.calls[0].first_audio_at - begin)
            visitor.expect_badge("service on")
            sent = {}
            for number in range(TEXTS):
                text = f"phrase number {number}"
                sent[text] = ear.calls[0].write(text, f"item_{number}", number * 50, 50)
                visitor.expect_said(*sent)
                visitor.page.wait_for_timeout(37 * number)  # so that it meets any moment
            seen = visitor.seen()
            shown = [
                next(state["time"] for state in seen if text in state["said"]) - sent[text]
                for text in sent
            ]
            delays.append(1000 * statistics.median(shown))
            used = processor_seconds(app.process.pid)
            visitor.page.wait_for_timeout(1000 * SECONDS)
            costs.append(100 * (processor_seconds(app.process.pid) - used) / SECONDS)
            visitor.browser.close()
            app.stop()
            ear.close()
    report.add("lesson 8: START → first sound at the service", firsts, "s", 1)
    report.add("lesson 8: completed → text on the page, p50", delays, "ms", 300)
    report.add("lesson 8: processor while the microphone is on, of one core", costs, "%")
