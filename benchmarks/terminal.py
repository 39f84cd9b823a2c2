"""Lesson 7 at a terminal, with a microphone: what it costs, and how long audio stays in it."""

import json
import tempfile
import time
from bisect import bisect_left
from pathlib import Path

import numpy as np
import pexpect
from live import running_service
from microphone import Microphone
from processes import processor_seconds
from running_lessons import ROOT, STRICT_PYTHON, lesson_environment
from speakers import PHRASES, percentile
from speech import silence, spoken, write_wav
from table import Report

RUNS = 3
SECONDS = 10


def measure(report: Report) -> None:
    costs, delays = [], []
    said = np.concatenate(
        [part for phrase in PHRASES[:3] for part in (spoken(phrase), silence(1.0))]
    )
    with tempfile.TemporaryDirectory() as name, running_service() as service:
        folder = Path(name)
        microphone = Microphone(folder / "pulse")
        wav = write_wav(folder / "said.wav", said)
        for run in range(RUNS):
            log = folder / f"{run}.json"
            script = str(ROOT / "benchmarks/watched_microphone.py")
            terminal = pexpect.spawn(
                STRICT_PYTHON[0],
                [script, str(log)],
                env=lesson_environment(
                    {"TERM": "xterm", "WEBSOCKET_URL": service.url} | microphone.environment
                ),
                dimensions=(30, 100),
                encoding="utf-8",
                timeout=30,
            )
            assert terminal.pid
            terminal.expect("Microphone number")
            terminal.sendline("")
            terminal.expect("How many seconds")
            terminal.sendline(str(SECONDS + 2))
            terminal.expect("Speak!")
            speaking = microphone.say(wav)
            used, begin = processor_seconds(terminal.pid), time.monotonic()
            terminal.expect(pexpect.TIMEOUT, timeout=SECONDS)  # reads what it prints meanwhile
            used = processor_seconds(terminal.pid) - used
            costs.append(100 * used / (time.monotonic() - begin))
            speaking.wait()
            terminal.expect("of audio")
            terminal.expect(pexpect.EOF)
            terminal.close()
            delays.append(percentile(delays_of(log), 99))
        microphone.unplug()
    report.add("lesson 7: processor while streaming, of one core", costs, "%", 5)
    report.add("lesson 7: microphone's callback → socket, p99", delays, "ms", 10)


def delays_of(log: Path) -> list[float]:
    """Return how many ms passed from the callback that brought a piece until it was sent."""
    events = json.loads(log.read_text())
    positions = [position for _, position in events["heard"]]
    return [
        1000 * (when - events["heard"][bisect_left(positions, position - 1e-6)][0])
        for when, position in events["sent"]
    ]
