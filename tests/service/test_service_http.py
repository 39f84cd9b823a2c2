"""The service's HTTP part: recordings in, text out in five formats, errors in OpenAI's shape."""

import io
import re
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import requests
from running_lessons import ROOT
from running_service import Service
from speech import HELLO, PHRASES, Audio, converted, silence, spoken

SAMPLE = ROOT / HELLO
WORDS = " ".join(PHRASES)


def post(
    service: Service, recording: bytes, name: str = "a.wav", **fields: str
) -> requests.Response:
    url = f"{service.http_url}/v1/audio/transcriptions"
    files = {"file": (name, recording)}
    return requests.post(url, files=files, data=fields, timeout=120)


def test_json_holds_the_text_and_how_long_it_is(service: Service) -> None:
    answer = post(service, SAMPLE.read_bytes()).json()
    assert answer["text"] == WORDS
    assert answer["usage"] == {
        "type": "duration",
        "seconds": pytest.approx(len_of_sample(), abs=0.01),
    }


def len_of_sample() -> float:
    with wave.open(str(SAMPLE)) as sample:
        return float(sample.getnframes() / sample.getframerate())


def test_text_is_only_the_text(service: Service) -> None:
    assert post(service, SAMPLE.read_bytes(), response_format="text").text == WORDS + "\n"


def test_verbose_json_tells_when_each_phrase_was_said(service: Service) -> None:
    answer = post(service, SAMPLE.read_bytes(), response_format="verbose_json").json()
    assert answer["task"] == "transcribe" and answer["language"] == "en"
    assert [part["text"] for part in answer["segments"]] == PHRASES
    begin = 0.5  # the sample's leading silence; then each phrase, and 0.9 s of pause
    for phrase, part in zip(PHRASES, answer["segments"], strict=True):
        end = begin + len(spoken(phrase)) / 16_000
        assert part["start"] == pytest.approx(begin, abs=0.35)
        assert part["end"] == pytest.approx(end, abs=0.35)
        begin = end + 0.9


def test_srt_and_vtt_are_subtitles(service: Service) -> None:
    srt = post(service, SAMPLE.read_bytes(), response_format="srt").text
    blocks = srt.strip().split("\n\n")
    for number, (block, phrase) in enumerate(zip(blocks, PHRASES, strict=True), start=1):
        label, times, text = block.split("\n")
        assert (label, text) == (str(number), phrase)
        assert re.fullmatch(r"\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}", times)
    vtt = post(service, SAMPLE.read_bytes(), response_format="vtt").text
    assert vtt.startswith("WEBVTT\n\n")
    assert vtt.count(" --> ") == 5 and "," not in vtt
    assert [line for line in vtt.split("\n") if line in PHRASES] == PHRASES


def wav(samples: Audio, rate: int, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.tobytes())
    return file.getvalue()


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("wav", "pcm_s16le", 8_000),
        ("wav", "pcm_s24le", 48_000),
        ("wav", "pcm_f32le", 44_100),
        ("wav", "pcm_u8", 16_000),
        ("flac", "flac", 48_000),
        ("mp3", "libmp3lame", 44_100),
        ("ogg", "libopus", 48_000),
        ("webm", "libopus", 48_000),
        ("mp4", "aac", 48_000),
    ],
)
def test_any_common_format_is_understood(
    service: Service, container: str, codec: str, rate: int
) -> None:
    answer = post(service, converted(container, codec, rate), f"a.{container}")
    assert answer.json()["text"] == "thank you", answer.text


def test_stereo_is_understood(service: Service) -> None:
    both = np.repeat(spoken("thank you", 48_000), 2)
    assert post(service, wav(both, 48_000, channels=2)).json()["text"] == "thank you"


def test_a_recording_that_breaks_off_is_understood_as_far_as_it_goes(service: Service) -> None:
    whole = SAMPLE.read_bytes()
    assert post(service, whole[: len(whole) // 2]).json()["text"].startswith(" ".join(PHRASES[:2]))


@pytest.mark.parametrize(("container", "codec"), [("mp3", "libmp3lame"), ("adts", "aac")])
def test_a_damaged_spot_costs_no_more_than_what_was_said_there(
    service: Service, container: str, codec: str
) -> None:
    whole = converted(container, codec, 48_000, *PHRASES)
    assert post(service, whole).json()["text"] == WORDS
    for damage in (bytes(200), b"\xff" * 200, np.random.default_rng(1).bytes(200)):
        begin = len(whole) // 3  # in the middle of the second phrase
        spoiled = whole[:begin] + damage + whole[begin + 200 :]
        text = post(service, spoiled).json()["text"]
        assert text.startswith(PHRASES[0]) and text.endswith(" ".join(PHRASES[2:])), text


def test_a_recording_may_become_stereo_on_the_way(service: Service) -> None:
    first = converted("mp3", "libmp3lame", 48_000, "hello world")
    second = converted("mp3", "libmp3lame", 48_000, "thank you", layout="stereo")
    third = converted("mp3", "libmp3lame", 44_100, "goodbye")
    assert post(service, first + second + third).json()["text"] == "hello world thank you goodbye"


def test_silence_has_no_text(service: Service) -> None:
    assert post(service, wav(silence(3), 16_000)).json()["text"] == ""


@pytest.mark.parametrize(
    "nonsense",
    [b"", b"hello, I am a text", b"RIFF\x00\x00\x00\x00WAVE", wav(silence(0), 16_000), bytes(5000)],
)
def test_what_is_no_audio_is_a_clear_error(service: Service, nonsense: bytes) -> None:
    answer = post(service, nonsense)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert "no audio" in error["message"]


def test_a_wrong_or_missing_field_is_named(service: Service) -> None:
    answer = post(service, SAMPLE.read_bytes(), response_format="poem")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "response_format"
    answer = post(service, SAMPLE.read_bytes(), language="klingon")
    assert answer.status_code == 400 and "klingon" in answer.json()["error"]["message"]
    url = f"{service.http_url}/v1/audio/transcriptions"
    answer = requests.post(url, data={"model": "any"}, timeout=30)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "file"
    assert requests.get(f"{service.http_url}/nowhere", timeout=30).json()["error"]["message"]


@pytest.mark.parametrize("is_announced", [True, False])
def test_more_than_25_mb_is_refused(service: Service, tmp_path: Path, is_announced: bool) -> None:
    url = f"{service.http_url}/v1/audio/transcriptions"
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    parts = [head, *[bytes(2**20)] * 26, b"\r\n--x--\r\n"]
    body = b"".join(parts) if is_announced else iter(parts)
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        answer = requests.post(url, data=body, headers=headers, timeout=60)
    except requests.ConnectionError:  # it hung up while we were still sending: also a refusal
        return
    assert answer.status_code == 413
    assert "25 MB" in answer.json()["error"]["message"]


def test_a_small_file_that_unpacks_to_hours_is_refused(service: Service) -> None:
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 0, b"WAVE", b"fmt ", 16, 1, 1, 1000, 1000, 1, 8, b"data", 5_000_000),
    )
    answer = post(service, header + b"\x80" * 5_000_000)  # 1000 samples/s: 83 minutes
    assert answer.status_code == 400 and "3600 seconds" in answer.json()["error"]["message"]


def test_health_and_models_tell_what_runs(service: Service) -> None:
    health = service.health()
    assert health["status"] == "ok" and health["engine"] == "Faster Whisper"
    assert (health["model"], health["device"]) == ("micro_whisper", "cpu")
    models = requests.get(f"{service.http_url}/v1/models", timeout=30).json()
    assert models["object"] == "list" and [m["id"] for m in models["data"]] == ["micro_whisper"]
    assert requests.get(f"{service.http_url}/docs", timeout=30).ok


def test_the_sample_is_what_its_text_says() -> None:
    with wave.open(str(SAMPLE)) as sample:
        assert sample.getparams()[:3] == (1, 2, 16_000)
