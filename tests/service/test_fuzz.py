"""What nobody would send on purpose, by the thousand: the service answers, and goes on.

SOAK=1 sends 10,000 events and 1,000 files, other ones each time. Else it is fewer, always the same.
"""

import base64
import json
import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from neighbour import exact_neighbour
from running_lessons import ROOT
from running_service import TRANSCRIPTION, Event, Service, until
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance
from speech import HELLO, PHRASES, Audio, converted, silence, spoken
from websockets.sync.client import connect

IS_LONG = bool(os.environ.get("SOAK"))
SESSIONS, STEPS, EVENTS = (220, 100, 10_000) if IS_LONG else (20, 30, 300)
FILES, REQUESTS = (1000, 300) if IS_LONG else (60, 40)
FUZZ = settings(
    max_examples=SESSIONS,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    derandomize=not IS_LONG,
    phases=[Phase.generate],  # to make a failure smaller would take longer than to read it
    suppress_health_check=list(HealthCheck),
)
ERROR_KEYS = {"message", "type", "param", "code"}
pytestmark = pytest.mark.timeout(1800)


@contextmanager
def level(service: Service, what: str, mib: float = 30) -> Iterator[None]:
    """Check that neither the memory nor the number of open files has grown at the end."""
    memory, files = service.memory(), service.open_files()
    yield
    until(lambda: service.health()["sessions"] == 0)
    until(lambda: service.open_files() <= files + 1)  # 1: what health() keeps alive
    grown = service.memory() - memory
    print(f"\n{what}: memory {memory / 2**20:.0f} MiB and {grown / 2**20:+.1f} MiB", end="")
    print(f", open files {files} and then {service.open_files()}")
    assert grown < mib * 2**20


# ------------------------------------------------------------------------------- WebSocket

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


def encoded(audio: Audio) -> str:
    return base64.b64encode(audio.astype("<i2").tobytes()).decode()


def noise(seed: int) -> Audio:
    return np.frombuffer(random.Random(seed).randbytes(2 * (seed % 24_000)), "<i2")


audio = st.one_of(
    st.sampled_from(PHRASES).map(lambda text: spoken(text, 24_000)),
    st.floats(0, 2).map(lambda seconds: silence(seconds, 24_000)),
    st.integers(0, 10**6).map(noise),
)
appends = st.builds(lambda sound: {"audio": encoded(sound)}, audio)
vad = st.fixed_dictionaries(
    {"type": st.just("server_vad")},
    optional={
        "threshold": st.floats(0, 1),
        "prefix_padding_ms": st.integers(0, 5000),
        "silence_duration_ms": st.integers(100, 10_000),
    },
)
inputs = st.fixed_dictionaries(
    {},
    optional={
        "format": st.fixed_dictionaries(
            {"type": st.just("audio/pcm")}, optional={"rate": st.sampled_from([16_000, 24_000])}
        ),
        "transcription": st.none()
        | st.fixed_dictionaries(
            {"model": st.text(max_size=9)},
            optional={"language": st.sampled_from(["en", "de", None])},
        ),
        "turn_detection": st.none() | vad,
        "noise_reduction": st.none(),
    },
)
updates = st.builds(
    lambda given: {"session": {"type": "transcription", "audio": {"input": given}}}, inputs
)
valid = st.one_of(
    st.builds(lambda fields: {"type": "input_audio_buffer.append", **fields}, appends),
    st.builds(lambda fields: {"type": "session.update", **fields}, updates),
    st.sampled_from([{"type": f"input_audio_buffer.{what}"} for what in ("commit", "clear")]),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (object, key) inside an event, at any depth."""
    found = [(value, key) for key in value] if isinstance(value, dict) else []
    return found + [place for inner, key in found for place in places(inner[key])]


class Stranger(RuleBasedStateMachine):
    """A client that does whatever comes to its mind, in any order."""

    service: Service
    events = 0

    def __init__(self) -> None:
        super().__init__()
        self.open()

    def open(self) -> None:
        self.line = ExitStack()
        self.websocket = self.line.enter_context(connect(self.service.url, compression=None))
        assert self.receive()["type"] == "session.created"

    def receive(self) -> Event:
        return dict(json.loads(self.websocket.recv(timeout=60)))  # else it hangs

    def answers(self, message: str | bytes) -> list[Event]:
        """Send a message, and return what comes until the service has dealt with it."""
        type(self).events += 1
        self.websocket.send(message)
        self.websocket.send('{"type": "fence", "event_id": "fence"}')
        got: list[Event] = []
        while True:
            event = self.receive()
            if event["type"] == "error" and event["error"]["event_id"] == "fence":
                return got
            got.append(event)

    def errors(self, message: str | bytes) -> list[Event]:
        errors = [event["error"] for event in self.answers(message) if event["type"] == "error"]
        for error in errors:
            assert error.keys() == ERROR_KEYS | {"event_id"} and error["message"]
        return errors

    @rule(fields=appends)
    def append(self, fields: dict[str, str]) -> None:
        assert not self.errors(json.dumps({"type": "input_audio_buffer.append", **fields}))

    @rule()
    def commit(self) -> None:
        got = self.answers('{"type": "input_audio_buffer.commit"}')
        kinds = [event["type"] for event in got]
        codes = [event["error"]["code"] for event in got if event["type"] == "error"]
        assert ("input_audio_buffer.committed" in kinds) != bool(codes)
        assert set(codes) <= {"input_audio_buffer_commit_empty"}

    @rule()
    def clear(self) -> None:
        got = self.answers('{"type": "input_audio_buffer.clear"}')
        assert "input_audio_buffer.cleared" in [event["type"] for event in got]

    @rule(fields=updates)
    def update(self, fields: dict[str, Any]) -> None:
        got = self.answers(json.dumps({"type": "session.update", **fields}))
        (updated,) = [event["session"] for event in got if event["type"] == "session.updated"]
        wanted, given = fields["session"]["audio"]["input"], updated["audio"]["input"]
        for name in wanted.keys() & {"format", "turn_detection"}:
            assert (
                wanted[name] is given[name] is None or wanted[name].items() <= given[name].items()
            )

    @rule(event=valid, data=st.data(), put=anything)
    def nearly_valid(self, event: dict[str, Any], data: st.DataObject, put: object) -> None:
        event = json.loads(json.dumps({"event_id": "mine", **event}))
        inside, key = data.draw(st.sampled_from(places(event)), label="where")
        if data.draw(st.booleans(), label="left out"):
            del inside[key]
        else:
            inside[key] = put
        errors = self.errors(json.dumps(event))
        assert len(errors) <= 1
        assert all(error["event_id"] in (event.get("event_id"), None) for error in errors)

    @rule(value=anything)
    def other_json(self, value: object) -> None:
        assert len(self.errors(json.dumps(value))) == 1

    @rule(kind=st.text(max_size=99), fields=st.dictionaries(st.text(max_size=9), anything))
    def unknown_event(self, kind: str, fields: dict[str, object]) -> None:
        (error,) = self.errors(json.dumps({**fields, "type": kind}))
        assert error["code"] == "invalid_value" and error["param"] == "type"

    @rule(text=st.text(max_size=200))
    def other_text(self, text: str) -> None:
        assert len(self.errors(text)) == 1

    @rule(data=st.binary(max_size=200))
    def binary(self, data: bytes) -> None:
        (error,) = self.errors(data)
        assert error["code"] == "invalid_event"

    @rule()
    def vanish(self) -> None:
        self.websocket.socket.shutdown(socket.SHUT_RDWR)
        self.line.close()
        self.open()

    def teardown(self) -> None:
        """Whatever it did: from now on its session works as if nothing had been."""
        session = {"type": "transcription", "audio": {"input": AFRESH}}
        self.answers('{"type": "input_audio_buffer.clear"}')
        got = self.answers(json.dumps({"type": "session.update", "session": session}))
        assert "session.updated" in [event["type"] for event in got]
        for sound in (silence(0.5, 24_000), spoken("thank you", 24_000), silence(1, 24_000)):
            event = {"type": "input_audio_buffer.append", "audio": encoded(sound)}
            self.websocket.send(json.dumps(event))
        while (started := self.receive())["type"] != "input_audio_buffer.speech_started":
            note(str(started))
        while True:
            event = self.receive()
            is_mine = event.get("item_id") == started["item_id"]
            if event["type"] == f"{TRANSCRIPTION}.completed" and is_mine:
                break
        assert event["transcript"] == "thank you"
        self.line.close()


AFRESH = {
    "format": {"type": "audio/pcm", "rate": 24_000},
    "transcription": {"model": "", "language": "en"},
    "turn_detection": {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
    },
}


def test_a_client_may_send_anything_in_any_order(service: Service) -> None:
    class Visitor(Stranger):
        pass

    Visitor.service = service
    run_state_machine_as_test(Visitor, settings=settings(FUZZ, max_examples=5))  # warm up
    Visitor.events = 0
    with level(service, "events"), exact_neighbour(service):
        run_state_machine_as_test(Visitor, settings=FUZZ)
    print(f"{Visitor.events} events")
    assert Visitor.events > EVENTS  # not every session takes all its steps


# ------------------------------------------------------------------------------------ HTTP


def spoiled(recording: bytes, other: bytes, choice: random.Random) -> bytes:
    """Return a recording after an accident."""
    where, length = choice.randrange(len(recording)), choice.randrange(1, 400)
    match choice.randrange(6):
        case 0:  # it breaks off
            return recording[:where]
        case 1:  # a part is missing
            return recording[:where] + recording[where + length :]
        case 2:  # a part is there twice
            return recording[:where] + recording[max(0, where - length) :]
        case 3:  # a part is noise
            return recording[:where] + choice.randbytes(length) + recording[where + length :]
        case 4:  # it goes on in another format
            return recording[:where] + other[choice.randrange(len(other)) :]
    spoiled = bytearray(recording)  # bits are wrong, most of them where the formats are named
    for _ in range(choice.randrange(1, 20)):
        end = choice.choice([64, 512, len(spoiled)])
        spoiled[choice.randrange(min(end, len(spoiled)))] ^= 1 << choice.randrange(8)
    return bytes(spoiled)


def test_a_file_may_be_spoiled_in_any_way(service: Service) -> None:
    choice = random.Random(None if IS_LONG else 1)
    formats = [("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus")]
    formats += [("webm", "libopus"), ("mp4", "aac"), ("adts", "aac"), ("avi", "pcm_s16le")]
    recordings = [converted(container, codec, 48_000) for container, codec in formats]
    recordings.append((ROOT / HELLO).read_bytes())
    url = f"{service.http_url}/v1/audio/transcriptions"

    def send(data: bytes) -> int:
        kind = choice.choice(["json", "text", "verbose_json", "srt", "vtt"])
        form = {"response_format": kind}
        answer = requests.post(url, files={"file": data}, data=form, timeout=60)  # else it hangs
        assert answer.status_code in (200, 400), (answer.text, data[:100])
        if answer.status_code == 400:
            assert answer.json()["error"].keys() == ERROR_KEYS
        return answer.status_code

    for recording in recordings:
        assert send(recording) == 200
    with level(service, "files"), exact_neighbour(service):
        statuses = []
        for number in range(FILES):
            if number % 10 == 0:
                data = choice.randbytes(choice.randrange(20_000))
            else:
                data = spoiled(choice.choice(recordings), choice.choice(recordings), choice)
            statuses.append(send(data))
    print(f"{FILES} files, of which something was heard in {statuses.count(200)}")
    assert {*statuses} == {200, 400}


PATHS = [
    "GET /health",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "POST /v1/audio/transcriptions",
]


@pytest.mark.parametrize("path", PATHS)
def test_what_the_page_at_docs_says_is_true(service: Service, path: str) -> None:
    """Each answer is one that the OpenAPI description knows, and none is a failure."""
    api = schemathesis.openapi.from_url(f"{service.http_url}/openapi.json")
    found = [result for result in api.get_all_operations() if isinstance(result, Ok)]
    operations = {result.ok().label: result.ok() for result in found}
    assert list(operations) == PATHS
    modes = schemathesis.GenerationMode
    cases = [operations[path].as_strategy(mode) for mode in (modes.POSITIVE, modes.NEGATIVE)]

    @given(case=st.one_of(cases))
    @settings(FUZZ, max_examples=REQUESTS)
    def check(case: schemathesis.Case[Any]) -> None:
        # Not every file holds audio, and not every word is a language: both are told.
        case.call_and_validate(timeout=60, excluded_checks=[positive_data_acceptance])

    check()
