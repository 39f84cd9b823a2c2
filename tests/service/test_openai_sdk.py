"""OpenAI's official SDK, which nobody here wrote, works with the service."""

import json
import os
import subprocess
from typing import Any

import pytest
from running_lessons import ROOT
from running_service import TRANSCRIPTION, Service
from speech import HELLO, PHRASES

SAMPLE = ROOT / HELLO
WORDS = " ".join(PHRASES)


@pytest.fixture(scope="module")
def answers(_service: Service) -> dict[str, Any]:
    """Return what the SDK got from the service."""
    python = ROOT / ".venv-openai/bin/python"
    if not python.exists():
        reason = "needs the OpenAI SDK in .venv-openai (make test installs it)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    command = [str(python), "tests/rig/openai_client.py", _service.http_url, str(SAMPLE)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout))


def test_realtime_gives_deltas_and_texts(answers: dict[str, Any]) -> None:
    events = answers["events"]
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["session.created", "session.updated"]
    assert events[1]["session"]["type"] == "transcription"
    texts = [e["transcript"] for e in events if e["type"] == f"{TRANSCRIPTION}.completed"]
    assert [text for text in texts if text] == PHRASES
    deltas = "".join(e["delta"] for e in events if e["type"] == f"{TRANSCRIPTION}.delta")
    assert deltas == "".join(PHRASES)


def test_a_recording_is_transcribed_in_all_formats(answers: dict[str, Any]) -> None:
    assert answers["json"]["text"] == WORDS
    assert answers["text"] == WORDS + "\n"
    assert answers["verbose_json"]["text"] == WORDS
    assert [part["text"] for part in answers["verbose_json"]["segments"]] == PHRASES
    assert answers["srt"].startswith("1\n00:00:0") and answers["srt"].count(" --> ") == 5
    assert answers["vtt"].startswith("WEBVTT\n\n") and answers["vtt"].count(" --> ") == 5


def test_models_and_errors_arrive_as_the_sdk_knows_them(answers: dict[str, Any]) -> None:
    assert answers["models"] == ["micro_whisper"]
    assert "no audio" in answers["error"]
