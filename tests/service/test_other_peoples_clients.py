"""What clients that nobody here wrote send, and what they should get."""

import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import requests
from running_lessons import ROOT, RunLesson
from running_service import TRANSCRIPTION, Service, StartService, client, closing, until
from speech import PHRASES, silence, spoken, write_wav
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

SAMPLE = ROOT / "samples/speech.wav"
KEY = "correct-horse-battery-staple"


def phrase(rate: int, text: str = "thank you") -> np.ndarray:
    return np.concatenate([spoken(text, rate), silence(1, rate)])


async def test_a_browser_may_send_its_key_as_a_subprotocol(start_service: StartService) -> None:
    service = start_service(API_KEY=KEY, TRACE="1")
    offered = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{KEY}")]
    async with client(service.url, subprotocols=offered) as page:
        assert page.websocket.subprotocol == "realtime"
        await page.say(phrase(24_000))
        assert await page.transcripts(1) == ["thank you"]
    wrong = [offered[0], Subprotocol("openai-insecure-api-key.wrong")]
    error, code, _ = await closing(service.url, subprotocols=wrong)
    assert (error["code"], code) == ("invalid_api_key", 3000)
    assert KEY not in service.output


async def test_a_browser_without_a_key_may_offer_realtime_alone(service: Service) -> None:
    async with client(service.url, subprotocols=[Subprotocol("realtime")]) as page:
        assert page.websocket.subprotocol == "realtime"
        await page.event("session.created")


@pytest.mark.parametrize(
    ("eagerness", "pause_ms"), [("low", 1500), ("medium", 800), ("high", 400), (None, 800)]
)
async def test_semantic_vad_becomes_a_pause_of_a_length_that_is_told(
    service: Service, eagerness: str | None, pause_ms: int
) -> None:
    wanted: dict[str, Any] = {"type": "semantic_vad"}
    if eagerness:
        wanted["eagerness"] = eagerness
    async with client(service.url) as agent:
        session = (await agent.configure(turn_detection=wanted))["session"]
        said = session["audio"]["input"]["turn_detection"]
        assert (said["type"], said["silence_duration_ms"]) == ("semantic_vad", pause_ms)
        pause = silence(pause_ms / 1000 + 0.5, 24_000)
        await agent.say(np.concatenate([spoken("goodbye", 24_000), pause]))
        assert await agent.transcripts(1) == ["goodbye"]
        again = (await agent.configure(turn_detection={"type": "server_vad"}))["session"]
        assert again["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 500


@pytest.mark.parametrize("model", ["gpt-live-transcribe", "gpt-realtime-whisper"])
async def test_a_live_model_leaves_the_turns_to_the_client(service: Service, model: str) -> None:
    async with client(service.url) as agent:
        session = (await agent.configure(transcription={"model": model}))["session"]
        assert session["audio"]["input"]["turn_detection"] is None
        await agent.say(np.concatenate([spoken("goodbye", 24_000), silence(0.55, 24_000)]))
        await agent.send("input_audio_buffer.commit")
        assert await agent.transcripts(1) == ["goodbye"]
        assert not agent.all("error") and not agent.all("input_audio_buffer.speech_started")
        session = (await agent.configure(transcription={"model": "gpt-transcribe"}))["session"]
        assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"


@pytest.mark.parametrize(
    ("change", "language"),
    [
        ({"language": "en-US"}, "en"),
        ({"language": "EN"}, "en"),
        ({"language": ""}, None),
        ({"language": None}, None),
        ({"languages": ["de", "fr"]}, None),
        ({"languages": ["fr"]}, "fr"),
    ],
)
async def test_the_language_that_was_set_last_counts(
    service: Service, change: dict[str, object], language: str | None
) -> None:
    async with client(service.url) as agent:
        for before in ({"language": "de"}, {"languages": ["es"]}):
            await agent.configure(transcription=before)
            session = (await agent.configure(transcription=change))["session"]
            assert session["audio"]["input"]["transcription"]["language"] == language


async def test_null_for_the_transcription_means_turns_without_their_text(service: Service) -> None:
    async with client(service.url) as agent:
        session = (await agent.configure(transcription=None))["session"]
        assert session["audio"]["input"]["transcription"] is None
        await agent.say(phrase(24_000))
        await agent.event("conversation.item.done")
        await agent.configure(transcription={"model": "whisper-1"})
        await agent.say(phrase(24_000, "goodbye"))
        assert await agent.transcripts(1) == ["goodbye"]
        texts = [event for event in agent.events if event["type"].startswith(TRANSCRIPTION)]
        items = agent.all("input_audio_buffer.committed")
        assert {event["item_id"] for event in texts} == {items[1]["item_id"]}


@pytest.mark.parametrize(("law", "codec"), [("pcmu", "pcm_mulaw"), ("pcma", "pcm_alaw")])
async def test_a_telephone_is_understood(service: Service, law: str, codec: str) -> None:
    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format = 8000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(phrase(8000, PHRASES[0])[None], "s16", "mono")
    frame.sample_rate = 8000
    call = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    async with client(service.url) as agent:
        await agent.configure(format={"type": f"audio/{law}"})
        await agent.append_bytes(call)
        assert await agent.transcripts(1) == [PHRASES[0]]


UNSUPPORTED: list[tuple[dict[str, object], str]] = [
    ({"noise_reduction": {"type": "near_field"}}, "noise_reduction"),
    ({"turn_detection": {"type": "server_vad", "idle_timeout_ms": 6000}}, "idle_timeout_ms"),
    ({"transcription": {"model": "whisper-1", "delay": "low"}}, "transcription.delay"),
    ({"transcripton": {"language": "en"}}, "transcripton"),
    ({"turn_detection": {"type": "semantic_vad", "eagerness": "very"}}, "eagerness"),
    ({"format": {"type": "audio/opus"}}, "format"),
]


@pytest.mark.parametrize(("wrong", "name"), UNSUPPORTED)
async def test_what_is_not_supported_gets_an_error_that_names_it(
    service: Service, wrong: dict[str, object], name: str
) -> None:
    async with client(service.url) as agent:
        session: dict[str, object] = {"type": "transcription", "audio": {"input": wrong}}
        await agent.send("session.update", session=session)
        error = (await agent.event("error"))["error"]
        assert name in str(error["param"]) and name.split(".")[-1] in error["message"]


async def test_a_turn_detection_without_a_type_is_server_vad(service: Service) -> None:
    async with client(service.url) as agent:
        session = (await agent.configure(turn_detection={"silence_duration_ms": 700}))["session"]
        said = session["audio"]["input"]["turn_detection"]
        assert (said["type"], said["silence_duration_ms"]) == ("server_vad", 700)


async def test_what_is_empty_or_null_asks_for_nothing(service: Service) -> None:
    """SDKs write null for what nobody has set."""
    vad = {"type": "server_vad", "idle_timeout_ms": None, "create_response": False}
    async with client(service.url) as agent:
        await agent.configure(noise_reduction=None, turn_detection=vad)
        session = {"type": "transcription", "include": []}
        await agent.send("session.update", session=session)
        await agent.event("session.updated", 2)
        assert not agent.all("error")


async def test_the_beta_api_is_told_what_to_use_now(service: Service) -> None:
    async with client(service.url) as agent:
        await agent.send("transcription_session.update", session={})
        error = (await agent.event("error"))["error"]
        assert error["param"] == "type" and re.search(r"Use session\.update", error["message"])


# --- HTTP ---


PAGE = "http://p5.example:5500"


def test_a_page_that_is_allowed_may_fetch_with_a_key(start_service: StartService) -> None:
    service = start_service(API_KEY=KEY, ALLOWED_ORIGINS=f" {PAGE}/ ")
    address = f"{service.http_url}/v1/audio/transcriptions"
    preflight = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    answer = requests.options(address, headers=preflight, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers["Access-Control-Allow-Headers"].lower() == "authorization"
    for key, status in ((KEY, 200), ("wrong", 401)):  # a page has to be able to read errors, too
        headers = {"Origin": PAGE, "Authorization": f"bearer {key}"}
        files = {"file": ("hello.wav", SAMPLE.read_bytes())}
        answer = requests.post(address, files=files, headers=headers, timeout=60)
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE


def test_a_page_that_is_not_allowed_is_named_once_in_the_terminal(
    start_service: StartService,
) -> None:
    service = start_service()
    for _ in range(3):
        for headers in ({"Origin": PAGE}, {"Host": "speech.example"}):
            answer = requests.get(f"{service.http_url}/health", headers=headers, timeout=30)
            assert answer.status_code == 403
            assert "Access-Control-Allow-Origin" not in answer.headers
            with pytest.raises(InvalidStatus):
                connect(service.url, additional_headers=headers, proxy=None)
    until(lambda: service.output.count("Refused") == 2)
    assert f"Refused the web page {PAGE}. To let it in: ALLOWED_ORIGINS={PAGE}" in service.output
    assert "Refused the name speech.example. To let it in: ALLOWED_HOSTS=" in service.output


@pytest.mark.parametrize("origin", ["*", "page.example", "http://*.example", "https://a.b/page"])
def test_an_origin_that_no_browser_sends_is_named_at_the_start(
    run_lesson: RunLesson, origin: str
) -> None:
    ended = run_lesson("-m", "service", env={"ALLOWED_ORIGINS": origin})
    assert ended.returncode == 1
    assert f"ALLOWED_ORIGINS={origin}: '{origin}' should look like https://name" in ended.stderr


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/health", 200),
        ("GET", "/", 200),
        ("GET", "/v1/models/whisper-1", 200),
        ("GET", "/v1/models/Systran/faster-whisper-small", 200),
        ("GET", "/nothing", 404),
    ],
)
def test_what_clients_look_at_first_is_there(
    service: Service, method: str, path: str, status: int
) -> None:
    answer = requests.request(method, f"{service.http_url}{path}", timeout=30)
    assert answer.status_code == status
    if path.startswith("/v1/models/"):
        model = answer.json()
        assert (model["id"], model["object"]) == (path.removeprefix("/v1/models/"), "model")


def test_a_file_without_a_name_gets_a_sentence(service: Service) -> None:
    form = {"file": (None, SAMPLE.read_bytes())}
    address = f"{service.http_url}/v1/audio/transcriptions"
    answer = requests.post(address, files=form, timeout=30)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "file" and "a file with a name" in error["message"]


def test_the_page_at_docs_needs_no_internet(service: Service) -> None:
    page = requests.get(f"{service.http_url}/docs", timeout=30).text
    addresses = re.findall(r"(?:src|href)=\"([^\"]+)\"", page)
    assert len(addresses) >= 3 and not any(each.startswith("http") for each in addresses)
    for address in addresses:
        assert requests.get(f"{service.http_url}{address}", timeout=30).ok, address


@pytest.mark.parametrize("key", [KEY, ""])
def test_the_page_at_docs_asks_for_a_key_if_there_is_one(
    start_service: StartService, key: str
) -> None:
    service = start_service(API_KEY=key)
    description = requests.get(f"{service.http_url}/openapi.json", timeout=30).json()
    post = description["paths"]["/v1/audio/transcriptions"]["post"]
    assert post.get("security") == ([{"HTTPBearer": []}] if key else None)


def test_a_recording_may_be_streamed_turn_by_turn(service: Service, tmp_path: Path) -> None:
    address = f"{service.http_url}/v1/audio/transcriptions"
    turns = [part for text in PHRASES[:3] for part in (spoken(text), silence(1))]
    recording = write_wav(tmp_path / "a.wav", np.concatenate(turns))
    files = {"file": ("a.wav", recording.read_bytes())}
    answer = requests.post(address, files=files, data={"stream": "true"}, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line) for line in re.findall(r"^data: (.+)$", answer.text, re.M)]
    deltas, done = events[:-1], events[-1]
    assert [event["type"] for event in deltas] == ["transcript.text.delta"] * 3
    assert (done["type"], done["text"]) == ("transcript.text.done", " ".join(PHRASES[:3]))
    assert "".join(event["delta"] for event in deltas) == done["text"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompts", "x"), ("known_speaker_names[]", "x"), ("temperature", "0.7"), ("stream", "maybe")],
)
def test_a_form_field_that_is_not_supported_is_named(
    service: Service, field: str, value: str
) -> None:
    files = {"file": ("a.wav", SAMPLE.read_bytes())}
    address = f"{service.http_url}/v1/audio/transcriptions"
    answer = requests.post(address, files=files, data={field: value}, timeout=60)
    assert answer.status_code == 400 and field in answer.json()["error"]["message"]
