"""Nothing that is said is lost or written twice, whatever happens to the service or on the way.

SOAK=1 makes it forty phrases and twenty deaths of the service; every other time it is less.
"""

import io
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pexpect
import pytest
from bad_line import BadLine, Mood, OpenLine
from browser import StartApp, Visit
from running_lessons import OpenLesson
from running_service import Service, StartService
from speech import PHRASES, Audio, silence, spoken, write_wav

COUNT, DEATHS = (40, 20) if os.environ.get("SOAK") else (8, 5)
PATIENCE_S = 120  # after the last word, for the words that are still missing
LESSON_7 = "simple_audio_transcription.py"

pytestmark = pytest.mark.timeout(600)


def script(seed: int, count: int = COUNT) -> list[str]:
    """Return phrases in which a loss, a double or a wrong order would be seen."""
    choice = random.Random(seed)
    phrases = [choice.choice(PHRASES)]
    while len(phrases) < count:
        phrases.append(choice.choice([phrase for phrase in PHRASES if phrase != phrases[-1]]))
    return phrases


def said(phrases: list[str], rate: int) -> Audio:
    parts = [silence(2, rate)]  # in which a browser opens its microphone
    for phrase in phrases:
        parts += [spoken(phrase, rate), silence(0.9, rate)]
    return np.concatenate(parts)


def at_random_moments(seed: int, count: int, seconds: float) -> list[float]:
    choice = random.Random(seed)
    return sorted(choice.uniform(1, seconds) for _ in range(count))


def die_again_and_again(service: Service, seed: int, count: int, seconds: float) -> None:
    begin = time.monotonic()
    for moment in at_random_moments(seed, count, seconds):
        time.sleep(max(0.0, begin + moment - time.monotonic()))
        service.kill()
        service.start()


def lesson_7_writes(
    open_lesson: OpenLesson, url: str, wav: Path, meanwhile: Callable[[], None]
) -> list[str]:
    """Let lesson 7 hear a recording while something happens; return what it wrote."""
    lesson = open_lesson(LESSON_7, "--file", str(wav), env={"WEBSOCKET_URL": url})
    lesson.logfile_read = output = io.StringIO()
    lesson.expect("0:00 ")  # it has found the service, and listens
    meanwhile()
    lesson.expect("of audio", timeout=PATIENCE_S)
    lesson.expect(pexpect.EOF)
    assert lesson.wait() == 0
    return re.findall(r"\] ([a-z ]+?) *\r", str(output.getvalue()))


@pytest.mark.parametrize("seed", [1, 2])
def test_lesson_7_and_a_service_that_dies_again_and_again(
    seed: int, start_service: StartService, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    service, phrases = start_service(), script(seed)
    sound = said(phrases, 16_000)
    wav = write_wav(tmp_path / "said.wav", sound)

    def meanwhile() -> None:
        die_again_and_again(service, seed, DEATHS, len(sound) / 16_000)

    assert lesson_7_writes(open_lesson, service.url, wav, meanwhile) == phrases


@pytest.mark.parametrize("seed", [3])
def test_lesson_8_and_a_service_that_dies_again_and_again(
    seed: int, start_service: StartService, start_app: StartApp, visit: Visit, tmp_path: Path
) -> None:
    service, phrases = start_service(), script(seed)
    sound = said(phrases, 48_000)
    app = start_app(WEBSOCKET_URL=service.url)
    visitor = visit(says=write_wav(tmp_path / "said.wav", sound, 48_000))
    visitor.open(app.url)
    visitor.start()
    visitor.expect_badge("microphone on")
    die_again_and_again(service, seed, DEATHS, len(sound) / 48_000)
    visitor.expect_said(*phrases)
    visitor.stop()
    visitor.expect_said(*phrases)


def stalls(line: BadLine) -> None:
    for _ in range(3):
        time.sleep(2)
        line.stall()
        time.sleep(3)
        line.resume()


def goes_dead(line: BadLine) -> None:
    time.sleep(4)
    line.go_dead()


def goes_dead_late(line: BadLine) -> None:
    time.sleep(18)  # of 20: the words that come last have nothing behind them
    line.go_dead()


def breaks_off(line: BadLine) -> None:
    for _ in range(4):
        time.sleep(3.3)
        line.cut()


def nothing_more(line: BadLine) -> None:
    """Do no more than the mood of the line does all the time."""


BAD_LINES = [
    pytest.param(Mood.SPLIT, nothing_more, id="cuts frames in two"),
    pytest.param(Mood.LATE, nothing_more, id="delays by two seconds"),
    pytest.param(Mood.GOOD, stalls, id="stalls"),
    pytest.param(Mood.GOOD, goes_dead, id="goes dead without a word"),
    pytest.param(Mood.GOOD, goes_dead_late, id="goes dead at the end"),
    pytest.param(Mood.SPLIT, breaks_off, id="breaks off"),
]


@pytest.mark.parametrize(("mood", "trouble"), BAD_LINES)
def test_lesson_7_and_a_line_that(
    mood: Mood,
    trouble: Callable[[BadLine], None],
    service: Service,
    open_line: OpenLine,
    open_lesson: OpenLesson,
    tmp_path: Path,
) -> None:
    line = open_line(service.port, mood)
    phrases = script(4, 8)
    wav = write_wav(tmp_path / "said.wav", said(phrases, 16_000))
    assert lesson_7_writes(open_lesson, line.url, wav, lambda: trouble(line)) == phrases
    assert line.bytes > 2 * 16_000 * len(phrases)  # it did go through the line


@pytest.mark.parametrize(("mood", "trouble"), BAD_LINES)
def test_lesson_8_and_a_line_that(
    mood: Mood,
    trouble: Callable[[BadLine], None],
    service: Service,
    open_line: OpenLine,
    start_app: StartApp,
    visit: Visit,
    tmp_path: Path,
) -> None:
    line = open_line(service.port, mood)
    phrases = script(5, 8)
    app = start_app(WEBSOCKET_URL=line.url)
    visitor = visit(says=write_wav(tmp_path / "said.wav", said(phrases, 48_000), 48_000))
    visitor.open(app.url)
    visitor.start()
    visitor.expect_badge("microphone on")
    trouble(line)
    visitor.expect_said(*phrases, patience_s=PATIENCE_S)
    assert line.bytes > 2 * 16_000 * len(phrases)
