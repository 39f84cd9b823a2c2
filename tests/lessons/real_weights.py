"""Lessons 6 and 7 against the service at their default port, with a real model, however it heard.

No part of `make test`, for it needs weights from the internet. Start the service first:

    WHISPER_MODEL=tiny-int8 docker compose up --wait faster-whisper
    .venv/bin/python -m pytest tests/lessons/real_weights.py
"""

import re

import jiwer
import pytest
from running_lessons import ROOT, RunLesson
from speech import PHRASES

SAMPLE = "samples/speech.wav"
NUMBERS = {"3": "three", "10": "ten"}  # Whisper writes numbers as it likes
MOST_ERRORS = 0.2  # of the words; the smallest model hears a synthetic voice


def word_error_rate(heard: str) -> float:
    """Return the share of words that are wrong, whatever their case and punctuation."""
    words = re.findall(r"[a-z0-9]+", heard.lower())
    text = " ".join(NUMBERS.get(word, word) for word in words)
    return float(jiwer.wer(" ".join(PHRASES), text))


def test_lesson_6_understands_the_recording(run_lesson: RunLesson) -> None:
    ended = run_lesson("simple_transcription_test.py", "--file", SAMPLE, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    heard = ended.stdout.split("\n\n")[-1]
    assert word_error_rate(heard) <= MOST_ERRORS, heard


def test_lesson_7_understands_the_recording_live(run_lesson: RunLesson) -> None:
    ended = run_lesson("simple_audio_transcription.py", "--file", SAMPLE, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    heard = " ".join(re.findall(r"^\[\d+:\d\d\] (.*)", ended.stdout, flags=re.MULTILINE))
    assert word_error_rate(heard) <= MOST_ERRORS, heard


def test_a_wrong_text_would_be_noticed() -> None:
    assert word_error_rate("Hello, world! Set a timer for 3 minutes.") > MOST_ERRORS
    assert word_error_rate((ROOT / "samples/speech.txt").read_text()) == pytest.approx(0)
