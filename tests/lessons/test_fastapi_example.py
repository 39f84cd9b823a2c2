"""Lesson 5: what it hears, what it refuses, and that it starts and stops as it says."""

import ast
import asyncio
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import fastapi_offline
import jiwer
import numpy as np
import pytest
import requests
from fastapi.testclient import TestClient
from packaging.requirements import Requirement
from playwright.sync_api import Route, expect, sync_playwright
from running_lessons import (
    ROOT,
    STRICT_PYTHON,
    RunLesson,
    chromium,
    free_port,
    lesson_environment,
)
from running_service import MICRO_WHISPER, TRANSCRIPTION, client, until
from speech import LONG_PHRASES, PHRASES, Audio, silence, spoken, write_wav
from starlette.testclient import WebSocketDenialResponse, WebSocketTestSession

LESSON = ROOT / "fastapi_example.py"
UPLOADS = "/v1/audio/transcriptions"
BECKETT = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."
TWO_CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age "
    "of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the "
    "season of light, it was the season of darkness, it was the spring of hope, it was the winter "
    "of despair, we had everything before us, we had nothing before us, we were all going direct "
    "to heaven, we were all going direct the other way, in short, the period was so far like the "
    "present period that some of its noisiest authorities insisted on its being received for good "
    "or for evil in the superlative degree of comparison only."
)


def talk(phrases: list[str] = PHRASES, rate: int = 24_000) -> Audio:
    """Return phrases with a pause of 0.9 s after each, PCM16 at rate Hz."""
    return np.concatenate(
        [part for text in phrases for part in (spoken(text, rate), silence(0.9, rate))]
    )


def load_lesson(**env: str) -> ModuleType:
    """Import the lesson anew, as it is with these environment variables."""
    with mock.patch.dict(os.environ, env):
        spec = importlib.util.spec_from_file_location("lesson_5", LESSON)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["lesson_5"] = module  # where pydantic looks up the names of types
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lesson() -> ModuleType:
    return load_lesson(WHISPER_MODEL=MICRO_WHISPER)


@pytest.fixture(scope="module")
def web(lesson: ModuleType) -> Iterator[TestClient]:
    """The lesson with the micro Whisper, in this process."""
    with TestClient(lesson.app) as testing:
        yield testing


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "talk.wav", talk(), 24_000)


class TestRecordings:
    def test_a_recording_becomes_text(self, web: TestClient, recording: Path) -> None:
        answer = web.post(UPLOADS, files={"file": recording.open("rb")})
        assert answer.status_code == 200
        assert answer.json() == {"text": " ".join(PHRASES)}

    def test_two_minutes_become_text_in_the_right_order(
        self, web: TestClient, tmp_path: Path
    ) -> None:
        phrases = PHRASES * 9
        path = write_wav(tmp_path / "long.wav", talk(phrases, 16_000))
        assert path.stat().st_size > 90 * 32_000
        answer = web.post(UPLOADS, files={"file": path.open("rb")}, data={"language": "en"})
        assert answer.json() == {"text": " ".join(phrases)}

    def test_silence_has_no_words(self, web: TestClient, tmp_path: Path) -> None:
        path = write_wav(tmp_path / "silence.wav", silence(40))
        assert web.post(UPLOADS, files={"file": path.open("rb")}).json() == {"text": ""}

    @pytest.mark.parametrize("content", [b"", b"no audio", b"RIFF" + bytes(400)])
    def test_what_is_not_a_recording_is_named(self, web: TestClient, content: bytes) -> None:
        answer = web.post(UPLOADS, files={"file": ("talk.wav", content)})
        assert answer.status_code == 400
        assert "no audio" in answer.json()["error"]["message"]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("language", "xx"),
            ("prompt", "A talk about boats."),
            ("response_format", "srt"),
            ("stream", "true"),
            ("temperature", "0"),
            ("timestamp_granularities[]", "word"),
        ],
    )
    def test_what_it_cannot_do_is_an_error_that_names_it(
        self, web: TestClient, recording: Path, name: str, value: str
    ) -> None:
        answer = web.post(UPLOADS, files={"file": recording.open("rb")}, data={name: value})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"] == name and error["message"].startswith(f"{name}: ")

    def test_a_form_without_a_file_is_an_error(self, web: TestClient) -> None:
        answer = web.post(UPLOADS, data={"model": "whisper-1"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")

    def test_more_than_25_mb_is_refused(self, web: TestClient) -> None:
        answer = web.post(UPLOADS, files={"file": ("talk.wav", bytes(25 * 2**20 + 1))})
        assert answer.status_code == 413

    @pytest.mark.parametrize(
        ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", UPLOADS, 405)]
    )
    def test_errors_have_the_shape_of_openai(
        self, web: TestClient, method: str, path: str, status: int
    ) -> None:
        answer = web.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"

    def test_there_is_one_model(self, web: TestClient) -> None:
        [model] = web.get("/v1/models").json()["data"]
        assert model["id"].startswith("Whisper") and model["id"].endswith("micro_whisper")


class TestWebPages:
    def test_the_docs_describe_what_can_be_sent(self, web: TestClient) -> None:
        assert "swagger" in web.get("/docs").text
        about = web.get("/openapi.json").json()
        assert set(about["paths"]) == {UPLOADS, "/v1/models"}
        form = about["paths"][UPLOADS]["post"]["requestBody"]["content"]["multipart/form-data"]
        schema = about["components"]["schemas"][form["schema"]["$ref"].split("/")[-1]]
        assert set(schema["properties"]) == {"file", "model", "language", "response_format"}
        assert schema["required"] == ["file"]

    @pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "http://localhost:5500"])
    def test_pages_of_this_computer_may_use_it(
        self, web: TestClient, recording: Path, origin: str
    ) -> None:
        headers = {"Origin": origin}
        answer = web.post(UPLOADS, files={"file": recording.open("rb")}, headers=headers)
        assert answer.status_code == 200
        with web.websocket_connect("/v1/realtime", headers=headers) as websocket:
            assert websocket.receive_json()["type"] == "session.created"

    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "http://localhost.evil.example", "https://evil", "null"]
    )
    def test_foreign_pages_are_refused(self, web: TestClient, recording: Path, origin: str) -> None:
        headers = {"Origin": origin}
        answer = web.post(UPLOADS, files={"file": recording.open("rb")}, headers=headers)
        assert answer.status_code == 403
        assert origin in answer.json()["error"]["message"]
        with (
            pytest.raises(WebSocketDenialResponse) as refused,
            web.websocket_connect("/v1/realtime", headers=headers),
        ):
            pass
        assert refused.value.status_code == 403


class Caller:
    """A client of the WebSocket in this process: it sends, and collects what comes."""

    def __init__(self, websocket: WebSocketTestSession) -> None:
        self.websocket = websocket
        self.events: list[dict[str, Any]] = []
        self.event("session.created")

    def send(self, kind: str, **fields: object) -> None:
        self.websocket.send_json({"type": kind, **fields})

    def append(self, samples: Audio) -> None:
        self.send("input_audio_buffer.append", audio=b64encode(samples.tobytes()).decode())

    def say(self, samples: Audio) -> None:
        for start in range(0, len(samples), 960):  # 40 ms
            self.append(samples[start : start + 960])

    def update(self, **fields: object) -> dict[str, Any]:
        session = {"type": "transcription", "audio": {"input": fields}}
        self.send("session.update", session=session)
        return dict(self.event("session.updated")["session"]["audio"]["input"])

    def event(self, kind: str) -> dict[str, Any]:
        """Read events up to the next one of a kind, and return that."""
        while True:
            self.events.append(self.websocket.receive_json())
            if self.events[-1]["type"] == kind:
                return self.events[-1]
            assert self.events[-1]["type"] != "error", self.events[-1]

    def error(self) -> dict[str, Any]:
        return dict(self.event("error")["error"])

    def texts(self, count: int) -> list[str]:
        return [str(self.event(f"{TRANSCRIPTION}.completed")["transcript"]) for _ in range(count)]


@pytest.fixture
def caller(web: TestClient) -> Iterator[Caller]:
    with web.websocket_connect("/v1/realtime?intent=transcription") as websocket:
        yield Caller(websocket)


class TestLiveSpeech:
    def test_each_phrase_is_a_turn_with_its_exact_text(self, caller: Caller) -> None:
        caller.say(talk())
        assert caller.texts(5) == PHRASES

    def test_one_append_of_many_seconds_is_heard_the_same(self, caller: Caller) -> None:
        caller.append(talk())
        assert caller.texts(5) == PHRASES

    def test_pieces_of_any_size_are_heard_the_same(self, caller: Caller) -> None:
        audio = talk(PHRASES[:2])
        cuts = np.cumsum(np.random.default_rng(7).integers(1, 4000, 100))
        for piece in np.split(audio, cuts[cuts < len(audio)]):
            caller.append(piece)
        assert caller.texts(2) == PHRASES[:2]

    def test_the_events_of_a_turn_come_in_order_and_name_it(self, caller: Caller) -> None:
        caller.say(np.concatenate([silence(2, 24_000), talk(PHRASES[:2])]))
        caller.texts(2)
        turns = list(dict.fromkeys(e["item_id"] for e in caller.events if "item_id" in e))
        assert len(turns) == 2
        first, second = ([e for e in caller.events if e.get("item_id") == id_] for id_ in turns)
        for events in (first, second):
            kinds = [e["type"].removeprefix(f"{TRANSCRIPTION}.") for e in events]
            assert [kind for kind in kinds if kind != "delta"] == [
                "input_audio_buffer.speech_started",
                "input_audio_buffer.speech_stopped",
                "input_audio_buffer.committed",
                "completed",
            ]
        length = len(spoken(PHRASES[0])) / 16
        started, stopped = first[0]["audio_start_ms"], first[-1 - len(first) + 1]
        assert 1500 <= started <= 2300
        stopped = next(e for e in first if e["type"].endswith("speech_stopped"))
        assert started + length * 0.7 <= stopped["audio_end_ms"] <= 2000 + length + 700
        assert len({event["event_id"] for event in caller.events}) == len(caller.events)

    def test_silence_and_noise_are_no_turn(self, caller: Caller) -> None:
        noise = np.random.default_rng(7).normal(0, 300, 24_000 * 5).astype("<i2")
        caller.say(np.concatenate([silence(5, 24_000), noise]))
        caller.say(talk(["hello world"]))
        assert caller.texts(1) == ["hello world"]

    def test_without_voice_detection_a_commit_ends_a_turn(self, caller: Caller) -> None:
        assert caller.update(turn_detection=None)["turn_detection"] is None
        for phrase in PHRASES:
            caller.say(spoken(phrase, 24_000))
            caller.send("input_audio_buffer.commit")
        assert caller.texts(5) == PHRASES
        assert not [e for e in caller.events if "speech_" in e["type"]]

    def test_a_commit_in_mid_speech_ends_the_turn(self, caller: Caller) -> None:
        caller.say(spoken("thank you", 24_000))
        caller.send("input_audio_buffer.commit")
        assert caller.texts(1) == ["thank you"]

    def test_a_turn_without_a_pause_is_cut_before_30_seconds(self, caller: Caller) -> None:
        speech = np.concatenate([spoken(text, 24_000) for text in LONG_PHRASES * 6])
        caller.say(np.concatenate([speech, silence(1, 24_000)]))
        seconds = 0.0
        while seconds < len(speech) / 24_000 - 1:  # every second of it is in one of the turns
            turn = caller.event(f"{TRANSCRIPTION}.completed")
            assert turn["usage"]["seconds"] < 30.1 and turn["transcript"]
            seconds += turn["usage"]["seconds"]
        assert len([e for e in caller.events if e["type"].endswith("committed")]) == 2

    def test_an_update_changes_only_what_it_mentions(self, caller: Caller) -> None:
        vad = {"type": "server_vad", "silence_duration_ms": 900}
        assert caller.update(turn_detection=vad)["turn_detection"]["silence_duration_ms"] == 900
        now = caller.update(transcription={"model": "any", "languages": ["de"]})
        assert now["turn_detection"]["silence_duration_ms"] == 900
        assert now["transcription"]["languages"] == ["de"]
        assert now["format"] == {"type": "audio/pcm", "rate": 24000}

    @pytest.mark.parametrize(
        ("param", "session"),
        [
            ("session.include", {"include": ["item.input_audio_transcription.logprobs"]}),
            ("session.type", {"type": "realtime"}),
            ("format.rate", {"format": {"type": "audio/pcm", "rate": 8000}}),
            ("format.type", {"format": {"type": "audio/pcmu"}}),
            ("noise_reduction", {"noise_reduction": {"type": "near_field"}}),
            ("transcription.prompt", {"transcription": {"model": "any", "prompt": "boats"}}),
            ("transcription.language", {"transcription": {"language": "xx"}}),
            ("turn_detection.type", {"turn_detection": {"type": "semantic_vad"}}),
            ("turn_detection.idle_timeout_ms", {"turn_detection": {"idle_timeout_ms": 1}}),
            ("turn_detection.silence_duration_ms", {"turn_detection": {"silence_duration_ms": 1}}),
            ("trun_detection", {"trun_detection": None}),
        ],
    )
    def test_what_it_cannot_do_is_an_error_that_names_it(
        self, caller: Caller, param: str, session: dict[str, object]
    ) -> None:
        if not param.startswith("session."):
            param = f"session.audio.input.{param}"
            session = {"audio": {"input": session}}
        caller.send("session.update", session={"type": "transcription"} | session)
        error = caller.error()
        assert error["param"] == param and error["message"].startswith(f"{param}: ")

    def test_what_is_cleared_is_forgotten(self, caller: Caller) -> None:
        caller.say(spoken("hello world", 24_000))
        caller.send("input_audio_buffer.clear")
        caller.event("input_audio_buffer.cleared")
        caller.say(talk(["goodbye"]))
        assert caller.texts(1) == ["goodbye"]

    def test_nonsense_gets_an_error_each_and_spoils_nothing(self, caller: Caller) -> None:
        commit = "input_audio_buffer.commit"
        expected = {
            "not JSON": "JSON",
            "[]": "object",
            "{}": "type",
            '{"type": "response.create"}': "response.create",
            '{"type": "input_audio_buffer.append", "audio": "!"}': "base64",
            '{"type": "input_audio_buffer.append", "audio": "AAAA"}': "sample",
            '{"type": "input_audio_buffer.append"}': "audio",
            f'{{"type": "{commit}", "final": true}}': "final",
            f'{{"type": "{commit}"}}': "No speech yet",
        }
        for message, hint in expected.items():
            caller.websocket.send_text(message)
            assert hint in caller.error()["message"], message
        assert caller.events[-1]["error"]["code"] == "input_audio_buffer_commit_empty"
        caller.websocket.send_bytes(spoken("goodbye").tobytes())
        assert "binary" in caller.error()["message"]
        caller.say(talk(["hello world"]))
        assert caller.texts(1) == ["hello world"]


@pytest.mark.parametrize(
    ("before", "now", "agreed"),
    [
        ("it was", "It was, the", "It was,"),
        ("go forward ten", "go forward tent", "go forward"),
        ("", "hello", ""),
        ("hello", "", ""),
        ("no one", "know one", ""),
        ("“Fail better.”", "fail better", "fail better"),
    ],
)
def test_words_agree_whatever_their_capitals_and_commas(
    lesson: ModuleType, before: str, now: str, agreed: str
) -> None:
    assert lesson.agreed(before.split(), now.split()) == agreed.split()


class Running:
    """The lesson as a process of its own, started by any command."""

    def __init__(self, *command: str, cwd: Path = ROOT, **env: str) -> None:
        self.port = free_port()
        self.http_url = f"http://127.0.0.1:{self.port}"
        self.url = f"ws://127.0.0.1:{self.port}/v1/realtime?intent=transcription"
        self.output = ""
        self.process = subprocess.Popen(
            [
                part.replace("{port}", str(self.port))
                for part in command or (*STRICT_PYTHON, LESSON.name)
            ],
            cwd=cwd,
            env=lesson_environment({"PORT": str(self.port)} | env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        until(lambda: self.process.poll() is not None or self.answers(), 60)
        assert self.process.poll() is None, self.output

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.http_url}/v1/models", timeout=10).ok
        except requests.ConnectionError:
            return False

    def stop(self, how: int = signal.SIGINT) -> int:
        os.killpg(self.process.pid, how)
        return self.process.wait(20)


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[type[Running]]:
    """Start the lesson; it is stopped after the test, and must not have shown a traceback."""
    started: list[Running] = []

    class Remembered(Running):
        def __init__(self, *command: str, cwd: Path = ROOT, **env: str) -> None:
            super().__init__(*command, cwd=cwd, **env)
            started.append(self)

    yield Remembered
    for running in started:
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait(10)
        assert "Traceback" not in running.output, running.output


@pytest.fixture(scope="module")
def micro() -> Iterator[Running]:
    """The lesson with the micro Whisper, as a process."""
    running = Running(WHISPER_MODEL=MICRO_WHISPER)
    yield running
    running.stop()
    assert "Traceback" not in running.output, running.output


@pytest.fixture(scope="module")
def moonshine() -> Iterator[Running]:
    """The lesson as it is without any setting, as a process."""
    pytest.importorskip("moonshine_voice", reason="there is no Moonshine for this computer")
    running = Running()
    yield running
    running.stop()
    assert "Traceback" not in running.output, running.output


@pytest.mark.parametrize("phrase", LONG_PHRASES)
async def test_words_come_while_one_speaks_and_none_is_taken_back(
    micro: Running, phrase: str
) -> None:
    async with client(micro.url) as student:
        await student.configure(transcription={"languages": ["en"]})
        await student.say(spoken(phrase, 24_000), speed=1)
        spoken_at = asyncio.get_running_loop().time()
        await student.say(silence(0.9, 24_000), speed=1)
        assert await student.transcripts(1) == [phrase]
        deltas = student.all(f"{TRANSCRIPTION}.delta")
        assert len(deltas) > 1
        assert "".join(event["delta"] for event in deltas) == phrase
        assert student.times[student.events.index(deltas[0])] < spoken_at


async def test_two_who_speak_at_once_each_get_their_own_words(micro: Running) -> None:
    async with client(micro.url) as one, client(micro.url) as other:
        await asyncio.gather(
            one.say(talk(PHRASES), speed=2), other.say(talk(PHRASES[::-1]), speed=2)
        )
        assert await one.transcripts(5) == PHRASES
        assert await other.transcripts(5) == PHRASES[::-1]


async def test_a_client_that_leaves_in_mid_speech_is_no_fault(micro: Running) -> None:
    async with client(micro.url) as student:
        await student.say(spoken(LONG_PHRASES[0], 24_000))
    async with client(micro.url) as student:
        await student.say(talk(["thank you"]))
        assert await student.transcripts(1) == ["thank you"]


def test_the_page_at_docs_transcribes_a_recording(micro: Running, recording: Path) -> None:
    assets = Path(fastapi_offline.__file__).parent / "static"

    def from_package(route: Route) -> None:
        route.fulfill(path=assets / Path(route.request.url).name)

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        page.route("https://cdn.jsdelivr.net/**", from_package)  # tests have no internet
        page.goto(f"{micro.http_url}/docs")
        page.get_by_text(UPLOADS).first.click()
        page.get_by_role("button", name="Try it out").click()
        page.locator("input[type=file]").set_input_files(recording)
        page.get_by_role("button", name="Execute").click()
        answer = page.locator(".live-responses-table")
        expect(answer).to_contain_text(" ".join(PHRASES), timeout=30_000)
        browser.close()


def test_lesson_6_hears_the_recording(
    micro: Running, run_lesson: RunLesson, recording: Path
) -> None:
    env = {"SERVICE_URL": micro.http_url}
    ended = run_lesson("simple_transcription_test.py", "--file", str(recording), env=env)
    assert ended.returncode == 0, ended.stdout
    assert " ".join(PHRASES) in " ".join(ended.stdout.split())


def test_lesson_7_hears_the_recording(
    micro: Running, run_lesson: RunLesson, recording: Path
) -> None:
    env = {"WEBSOCKET_URL": micro.url}
    ended = run_lesson("simple_audio_transcription.py", "--file", str(recording), env=env)
    assert ended.returncode == 0, ended.stdout
    for phrase in PHRASES:
        assert phrase in ended.stdout


def test_openai_s_own_sdk_works_with_it(micro: Running, recording: Path) -> None:
    python = ROOT / ".venv-openai/bin/python"
    if not python.exists():
        reason = "needs the OpenAI SDK in .venv-openai (make test installs it)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    command = [str(python), "tests/rig/openai_lesson_client.py", micro.http_url, str(recording)]
    ended = subprocess.run([*command, "5"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    answers = json.loads(ended.stdout)
    assert answers["text"] == " ".join(PHRASES)
    assert len(answers["models"]) == 1
    assert "no audio" in answers["no audio"][0]
    assert (answers["srt"][1], answers["prompt"][1]) == ("response_format", "prompt")
    events = answers["events"]
    assert [event["type"] for event in events[:2]] == ["session.created", "session.updated"]
    texts = [e["transcript"] for e in events if e["type"] == f"{TRANSCRIPTION}.completed"]
    assert texts == PHRASES
    deltas = "".join(e["delta"] for e in events if e["type"] == f"{TRANSCRIPTION}.delta")
    assert deltas == "".join(PHRASES)
    assert events[-1]["error"]["code"] == "input_audio_buffer_commit_empty"


def word_errors(said: str, heard: str) -> float:
    plain = [" ".join(re.findall(r"\w+", text.lower())) for text in (said, heard)]
    return float(jiwer.wer(plain[0], plain[1]))


def assets() -> Path:
    spec = importlib.util.find_spec("moonshine_voice")
    assert spec and spec.origin
    return Path(spec.origin).parent / "assets"


@pytest.mark.parametrize(
    ("name", "said", "limit"), [("beckett", BECKETT, 0.25), ("two_cities", TWO_CITIES, 0.08)]
)
async def test_moonshine_hears_people_live_and_in_recordings(
    moonshine: Running, lesson: ModuleType, name: str, said: str, limit: float
) -> None:
    path = assets() / f"{name}.wav"
    with path.open("rb") as file:
        answer = requests.post(f"{moonshine.http_url}{UPLOADS}", files={"file": file}, timeout=60)
    assert word_errors(said, answer.json()["text"]) < limit
    samples = (lesson.decode_audio(str(path), 24_000) * 32767).astype("<i2")
    async with client(moonshine.url) as student:
        await student.say(np.concatenate([samples, silence(1.5, 24_000)]), speed=4)
        await student.send("input_audio_buffer.commit")
        await student.event("error")  # nothing is left: all that was said has its text
        texts = [e["transcript"] for e in student.all(f"{TRANSCRIPTION}.completed")]
    assert word_errors(said, " ".join(texts)) < limit


async def test_no_word_is_lost_where_a_long_turn_is_cut(
    moonshine: Running, lesson: ModuleType
) -> None:
    samples = lesson.decode_audio(str(assets() / "two_cities.wav"), 24_000)
    pieces = samples[: len(samples) // 240 * 240].reshape(-1, 240)  # of 10 ms
    is_loud = np.abs(pieces).max(axis=1) > 0.02
    is_kept = np.convolve(is_loud, np.ones(25), "same") > 0  # 120 ms on either side of a sound
    without_pauses = (pieces[is_kept].ravel() * 32767).astype("<i2")
    assert len(without_pauses) > 30 * 24_000
    async with client(moonshine.url) as student:
        await student.say(np.concatenate([without_pauses, silence(1.5, 24_000)]), speed=4)
        await student.send("input_audio_buffer.commit")
        await student.event("error")
        turns = student.all(f"{TRANSCRIPTION}.completed")
    assert max(turn["usage"]["seconds"] for turn in turns) > 20
    assert word_errors(TWO_CITIES, " ".join(turn["transcript"] for turn in turns)) < 0.1


def test_other_clients_are_answered_while_a_long_recording_is_transcribed(
    moonshine: Running,
) -> None:
    done = threading.Event()

    def upload() -> None:
        with (assets() / "two_cities.wav").open("rb") as file:
            requests.post(f"{moonshine.http_url}{UPLOADS}", files={"file": file}, timeout=60)
        done.set()

    thread = threading.Thread(target=upload)
    thread.start()
    answered = 0
    while not done.is_set():
        answered += moonshine.answers()
    thread.join()
    assert answered > 20


def test_silence_has_no_words_with_moonshine(moonshine: Running, tmp_path: Path) -> None:
    noise = np.random.default_rng(7).normal(0, 500, 16_000 * 20).astype("<i2")
    path = write_wav(tmp_path / "noise.wav", np.concatenate([silence(20), noise]))
    with path.open("rb") as file:
        answer = requests.post(f"{moonshine.http_url}{UPLOADS}", files={"file": file}, timeout=60)
    assert answer.json() == {"text": ""}


def test_a_language_that_moonshine_does_not_know_is_named(
    moonshine: Running, recording: Path
) -> None:
    form: dict[str, Any] = {"files": {"file": recording.open("rb")}, "timeout": 60}
    url = f"{moonshine.http_url}{UPLOADS}"
    error = requests.post(url, data={"language": "de"}, **form).json()["error"]
    assert error["param"] == "language" and "en" in error["message"]


def test_the_exercise_adds_a_route(start: type[Running], recording: Path, tmp_path: Path) -> None:
    source = LESSON.read_text()
    docstring = ast.get_docstring(ast.parse(source)) or ""
    block = re.search(r"^( {8}@app\.post.*\n(?: {8}.+\n?)+)", docstring, re.M)
    assert block
    before, line, after = re.split(r"(# -+ Live speech\n)", source)
    changed = before + textwrap.dedent(block[1]) + "\n\n" + line + after
    (tmp_path / LESSON.name).write_text(changed)
    running = start(cwd=tmp_path, WHISPER_MODEL=MICRO_WHISPER)
    with recording.open("rb") as file:
        words = requests.post(f"{running.http_url}/words", files={"file": file}, timeout=60).json()
    assert words == sorted(set(" ".join(PHRASES).split()))
    assert "/words" in requests.get(f"{running.http_url}/openapi.json", timeout=10).json()["paths"]


class TestStart:
    def test_it_says_what_the_docstring_promises(self, moonshine: Running) -> None:
        shown = re.search(r"You should see\n((?: {4}.+\n){2})", LESSON.read_text())
        assert shown
        for line in textwrap.dedent(shown[1]).splitlines():
            assert line.replace("8000", str(moonshine.port)) in moonshine.output

    def test_uvicorn_starts_it_too(self, start: type[Running]) -> None:
        command = [*STRICT_PYTHON, "-m", "uvicorn", "fastapi_example:app", "--port", "{port}"]
        running = start(*command, WHISPER_MODEL=MICRO_WHISPER)
        assert running.stop() == 0
        assert "Application startup complete" in running.output

    def test_fastapi_dev_starts_it_too(self, start: type[Running]) -> None:
        python = ROOT / ".venv-fastapi/bin/python"
        if not python.exists():
            reason = "needs fastapi-cli in .venv-fastapi (make test installs it)"
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
        packages = str(Path(requests.__file__).parents[1])  # all else that the lesson needs
        command = [str(python), "-m", "fastapi_cli", "dev", LESSON.name, "--port", "{port}"]
        running = start(*command, WHISPER_MODEL=MICRO_WHISPER, PYTHONPATH=packages)
        running.stop()

    def test_no_setting_opens_it_to_other_computers(self, start: type[Running]) -> None:
        running = start(WHISPER_MODEL=MICRO_WHISPER, HOST="0.0.0.0", UVICORN_HOST="0.0.0.0")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", running.port), 5)

    def test_a_port_in_use_is_one_sentence(self, run_lesson: RunLesson) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            ended = run_lesson(LESSON.name, env={"PORT": str(port)})
        assert ended.returncode == 1
        assert ended.stdout == ""
        assert ended.stderr.startswith(f"Port {port} is already in use. ")
        assert len(ended.stderr.splitlines()) == 1

    @pytest.mark.parametrize("moment", ["idle", "in mid-speech"])
    async def test_ctrl_c_stops_it_cleanly(self, start: type[Running], moment: str) -> None:
        running = start(WHISPER_MODEL=MICRO_WHISPER)
        if moment == "idle":
            assert running.stop() == 0
        else:
            async with client(running.url) as student:
                await student.say(spoken(LONG_PHRASES[0], 24_000), speed=2)
                assert await asyncio.to_thread(running.stop) == 0
        assert "Traceback" not in running.output


class Hub(ThreadingHTTPServer):
    """A stand-in for huggingface.co: whatever model you ask for, it is the micro Whisper."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            files = {file.name: file for file in Path(MICRO_WHISPER).glob("*.*")}
            if "/tree/" in path:
                tree = [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": name}
                    for name, file in files.items()
                ]
                self.answer(json.dumps(tree).encode())
            elif path.startswith("/api/"):
                siblings = [{"rfilename": name} for name in files]
                self.answer(
                    json.dumps({"id": "x/y", "sha": "5" * 40, "siblings": siblings}).encode()
                )
            else:
                self.answer(files[Path(path).name].read_bytes())

        do_HEAD = do_GET  # noqa: N815 (http.server calls it so)

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{len(body):040}"')
            self.send_header("X-Repo-Commit", "5" * 40)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Print nothing."""


class TestWeights:
    def test_whisper_is_downloaded_once_and_then_needs_no_network(
        self, start: type[Running], tmp_path: Path
    ) -> None:
        with Hub(("127.0.0.1", 0), Hub.Handler) as hub:
            threading.Thread(target=hub.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{hub.server_port}"
            env: dict[str, Any] = {"WHISPER_MODEL": "tiny.en", "HF_HOME": str(tmp_path)}
            first = start(**env, HF_ENDPOINT=address)
            assert "100%" in first.output, "no progress was shown"
            first.stop()
            [weights] = tmp_path.rglob("model.bin")
            weights.resolve().unlink()  # as after a download that broke off
            weights.unlink(missing_ok=True)
            start(**env, HF_ENDPOINT=address).stop()
            hub.shutdown()
        again = start(**env, HF_ENDPOINT=address)  # nothing answers at the hub's address any more
        assert "Speech model: Whisper tiny.en" in again.output
        assert "%" not in again.output

    @pytest.mark.parametrize("hub", ["refuses", "never answers", "drops packets"])
    def test_weights_that_cannot_be_had_are_one_sentence(
        self, run_lesson: RunLesson, tmp_path: Path, hub: str
    ) -> None:
        env = {"WHISPER_MODEL": "small", "HF_HOME": str(tmp_path)}
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            if hub != "refuses":
                silent.listen(0)
            env["HF_ENDPOINT"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
            waiting = [socket.socket() for _ in range(4 if hub == "drops packets" else 0)]
            for caller in waiting:  # a full queue: then nobody else gets any answer
                caller.setblocking(False)
                caller.connect_ex(silent.getsockname())
            began = time.monotonic()
            ended = run_lesson(LESSON.name, env=env | {"PORT": str(free_port())})
            for caller in waiting:
                caller.close()
        assert time.monotonic() - began < 20
        assert ended.returncode == 1
        assert ended.stderr.startswith("Cannot load Whisper small")
        assert len(ended.stderr.splitlines()) == 1

    @pytest.mark.parametrize("name", ["nonsense", str(ROOT / "samples")])
    def test_a_wrong_name_is_one_sentence(self, run_lesson: RunLesson, name: str) -> None:
        env = {"WHISPER_MODEL": name, "PORT": str(free_port())}
        ended = run_lesson(LESSON.name, env=env)
        assert ended.returncode == 1
        assert ended.stderr.startswith(f"Cannot load Whisper {name}")
        assert len(ended.stderr.splitlines()) == 1

    def test_where_there_is_no_moonshine_whisper_does_its_work(
        self, run_lesson: RunLesson, tmp_path: Path
    ) -> None:
        (tmp_path / "moonshine_voice.py").write_text("raise ImportError('not for this computer')")
        env = {"PYTHONPATH": str(tmp_path), "HF_HOME": str(tmp_path), "PORT": str(free_port())}
        ended = run_lesson(LESSON.name, env=env | {"HF_ENDPOINT": "http://127.0.0.1:9"})
        assert ended.stdout.startswith("Moonshine does not run on this kind of computer.")
        assert ended.stderr.startswith("Cannot load Whisper tiny.en")


LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_version": "#1 SMP"}
LINUX["platform_release"] = "6.1.0-21-amd64"
MAC = {"sys_platform": "darwin", "platform_machine": "arm64"}
WINDOWS = {"sys_platform": "win32", "platform_release": "11", "platform_version": "10.0.26100"}


@pytest.mark.parametrize(
    ("computer", "has_wheel"),
    [
        (LINUX, True),
        (LINUX | {"platform_machine": "aarch64"}, True),
        (LINUX | {"platform_machine": "armv7l"}, False),
        (WINDOWS | {"platform_machine": "AMD64"}, True),
        (WINDOWS | {"platform_machine": "ARM64"}, False),
        (MAC | {"platform_version": "Darwin Kernel Version 25.1.0: Mon"}, True),
        (MAC | {"platform_version": "Darwin Kernel Version 24.0.0: Mon"}, True),
        (MAC | {"platform_version": "Darwin Kernel Version 23.6.0: Mon"}, False),
        (MAC | {"platform_version": "Darwin Kernel Version 22.1.0: Mon"}, False),
        (
            MAC
            | {"platform_machine": "x86_64", "platform_version": "Darwin Kernel Version 24.0.0"},
            False,
        ),
    ],
)
def test_moonshine_is_asked_for_only_where_it_has_a_wheel(
    computer: dict[str, str], has_wheel: bool
) -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("moonshine-voice")]
    marker = Requirement(line.split("  #")[0]).marker
    assert marker
    assert marker.evaluate(computer) == has_wheel
