"""Lesson 4 in a real window, drawn in with a mouse: frames per second, and the round trip."""

import re
import tempfile
import time
from pathlib import Path

from running_lessons import ROOT, free_port
from screen import Window, running_screen
from table import Report
from wires import lesson_server

RUNS = 3
STROKE = [(100 + 20 * step, 300) for step in range(20)]


def measure(report: Report) -> None:
    rates, trips = [], []
    with tempfile.TemporaryDirectory() as name, running_screen() as screen:
        folder, port = Path(name), free_port()
        env = {"WEBSOCKET_URL": f"ws://127.0.0.1:{port}"}
        with lesson_server(folder, "websocket_server_echo_ping.py", port):
            for run in range(RUNS):
                log = folder / f"frames-{run}.log"
                window = Window(screen, ROOT / "pygame_websocket.py", log, env)
                window.reads("Connected")
                begin = time.monotonic()
                for row in range(6):
                    window.mouse(*[(x, y + 40 * row) for x, y in STROKE])
                frames = [when for when, _ in window.frames(begin)]
                rates.append((len(frames) - 1) / (frames[-1] - frames[0]))
                window.reads("0 on their way")
                trip = re.search(r"round trip (\d+\.\d) ms", window.text())
                assert trip
                trips.append(float(trip[1]))
                window.key("Escape")
                window.ended_well()
    report.add("lesson 4, while somebody draws: frames per second", rates, "FPS", at_least=59)
    report.add("lesson 4, round trip of a stroke, p50", trips, "ms", 1)
