"""Lessons 6 and 7 with a real model, at the default port of the service.

No part of `make test`, for it needs weights from the internet. Start the service first:

    WHISPER_MODEL=tiny-int8 docker compose up --wait faster-whisper
    .venv/bin/python -m pytest tests/lessons/real_weights_in_docker.py
"""

from running_lessons import RunLesson
from speech import SPEECH, SPEECH_TEXT, lines, words


def test_lesson_6_understands_every_word(run_lesson: RunLesson) -> None:
    ended = run_lesson("simple_transcription_test.py", "--file", SPEECH, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert words(ended.stdout.split("\n\n")[-1]) == words(SPEECH_TEXT)


def test_lesson_7_understands_every_word_live(run_lesson: RunLesson) -> None:
    ended = run_lesson("simple_audio_transcription.py", "--file", SPEECH, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert words(" ".join(lines(ended.stdout))) == words(SPEECH_TEXT)


def test_a_wrong_text_would_be_noticed() -> None:
    heard = SPEECH_TEXT.upper().replace("TEN", "10").replace(".", "!")
    assert words(heard) == words(SPEECH_TEXT)
    assert words(heard.replace("BLUE", "BLEW")) != words(SPEECH_TEXT)
