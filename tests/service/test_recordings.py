"""Recordings as people really have them: every kind is heard, at its true time, or named."""

import io
import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import requests
from running_lessons import ROOT
from running_service import Service
from speech import Audio, silence, spoken

RECORDINGS = ROOT / "tests/rig/recordings"
THREE = ["hello world", "set a timer for nine minutes", "goodbye"]
SLACK = 0.35  # s

# file: what it is, what is said in it, and when (None: any time will do)
FILES: dict[str, tuple[str, list[str], list[float] | None]] = {
    "silent_track_first.mp4": ("two tracks, as screen recorders write", THREE, [0.5, 2.5, 5.3]),
    "unknown_codec_first.mov": ("a track that FFmpeg can't decode comes first", THREE, None),
    "antiphase_stereo.mp3": ("left is minus right", ["hello world"], None),
    "eight_inputs_voice_on_4.wav": ("8 inputs, no speaker mask", ["hello world"], None),
    "stereo_mask_side.wav": ("stereo with the speaker mask 0x600", ["hello world"], None),
    "mono_mask_front_left.wav": ("mono with a speaker mask", ["hello world"], None),
    "ext24_right_only.wav": ("24 bits, the voice on the right only", ["hello world"], None),
    "audio_starts_at_5s.mp4": ("the sound begins after 5 s", THREE, [5.5, 7.5, 10.3]),
    "gap_of_10s.webm": ("10 s without packets", THREE, [0.5, 12.5, 15.3]),
    "hello_tight.wav": ("no silence around the words", ["hello world"], [0]),
    "chained_mono_then_stereo.opus": ("two Ogg files joined with cat", THREE[:2], None),
    "talk.ts": ("MPEG-TS", THREE, [0.5, 2.5, 5.3]),
    "talk.au": ("Sun .au", THREE, [0.5, 2.5, 5.3]),
    "whatsapp.ogg": ("Opus as phones write it", THREE, [0.5, 2.5, 5.3]),
    "size_0.wav": ("data size 0, as streaming writers leave it", ["hello world"], None),
}


def post(service: Service, data: bytes, name: str = "a.wav") -> requests.Response:
    form = {"response_format": "verbose_json"}
    address = f"{service.http_url}/v1/audio/transcriptions"
    return requests.post(address, data=form, files={"file": (name, data)}, timeout=120)


def heard(service: Service, data: bytes) -> dict[str, Any]:
    answer = post(service, data)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


@pytest.mark.parametrize("name", FILES)
def test_what_is_said_is_heard_at_its_true_time(service: Service, name: str) -> None:
    _, texts, starts = FILES[name]
    result = heard(service, (RECORDINGS / name).read_bytes())
    assert [segment["text"] for segment in result["segments"]] == texts
    if starts:
        found = [segment["start"] for segment in result["segments"]]
        assert found == pytest.approx(starts, abs=SLACK)
    for this, following in pairwise(result["segments"]):
        assert this["start"] < this["end"] <= following["start"]
    assert result["segments"][-1]["end"] <= result["duration"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("no_audio.mp4", "has no audio track"), ("zero_samples.wav", "holds no audio")],
)
def test_a_file_without_sound_gets_a_sentence(service: Service, name: str, sentence: str) -> None:
    answer = post(service, (RECORDINGS / name).read_bytes())
    assert answer.status_code == 400 and sentence in answer.json()["error"]["message"]


def test_every_file_of_the_collection_is_tried() -> None:
    there = {path.name for path in RECORDINGS.iterdir()} - {"README.md"}
    assert there == {*FILES, "no_audio.mp4", "zero_samples.wav"}


# --- their siblings, made here ---


class Muxer:
    """Writes tracks into a container, each frame at the time that it is given."""

    def __init__(self, container: str) -> None:
        self.file = io.BytesIO()
        self.output = av.open(self.file, "w", format=container)

    def track(self, codec: str, layout: str = "mono", rate: int = 48_000) -> Any:
        stream: Any = self.output.add_stream(codec, rate=rate, layout=layout)
        return stream

    def write(self, stream: Any, channels: np.ndarray, at: float = 0) -> None:
        """Write int16 sound (channels, samples) at 16 kHz, beginning at so many seconds."""
        frame = av.AudioFrame.from_ndarray(channels.T.reshape(1, -1), "s16", stream.layout.name)
        frame.sample_rate = 16_000
        resampler = av.AudioResampler(
            stream.format, stream.layout, stream.rate, stream.frame_size or 1024
        )
        position = round(at * stream.rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            part.pts, part.time_base = position, Fraction(1, stream.rate)
            position += part.samples
            self.output.mux(stream.encode(part))

    def finish(self) -> bytes:
        for stream in self.output.streams:
            self.output.mux(stream.encode(None))  # type: ignore[attr-defined]
        self.output.close()
        return self.file.getvalue()


def said(text: str) -> Audio:
    return np.concatenate([silence(0.3), spoken(text), silence(1)])


def on_channel(number: int, count: int, sound: Audio) -> np.ndarray:
    channels = np.zeros((count, len(sound)), np.int16)
    channels[number] = sound
    return channels


@pytest.mark.parametrize("speaking", [0, 1, 2])
@pytest.mark.parametrize(("container", "codec"), [("matroska", "libopus"), ("mov", "aac")])
def test_of_three_tracks_the_one_with_speech_is_heard(
    service: Service, container: str, codec: str, speaking: int
) -> None:
    muxer, sound = Muxer(container), said("goodbye")
    tracks = [muxer.track(codec) for _ in range(3)]
    for number, track in enumerate(tracks):
        muxer.write(track, (sound if number == speaking else sound * 0)[None])
    assert heard(service, muxer.finish())["text"] == "goodbye"


@pytest.mark.parametrize(
    ("layout", "count", "channel"),
    [("stereo", 2, 1), ("2.1", 3, 2), ("5.1", 6, 3), ("5.1", 6, 5), ("7.1", 8, 7)],
)
@pytest.mark.parametrize("codec", ["flac", "pcm_s24le", "pcm_f32le", "pcm_u8"])
def test_a_voice_on_any_channel_is_heard(
    service: Service, codec: str, layout: str, count: int, channel: int
) -> None:
    muxer = Muxer("flac" if codec == "flac" else "wav")
    muxer.write(muxer.track(codec, layout), on_channel(channel, count, said("goodbye")))
    assert heard(service, muxer.finish())["text"] == "goodbye"


@pytest.mark.parametrize("signs", [(1, -1), (-1, 1, 1, -1)])
def test_channels_that_cancel_each_other_are_heard(
    service: Service, signs: tuple[int, ...]
) -> None:
    muxer = Muxer("wav")
    track = muxer.track("pcm_s16le", "stereo" if len(signs) == 2 else "quad", 16_000)
    muxer.write(track, np.array([sign * said("goodbye") for sign in signs], np.int16))
    assert heard(service, muxer.finish())["text"] == "goodbye"


@pytest.mark.parametrize("container", ["matroska", "mp4"])
def test_a_recording_whose_clock_begins_at_one_hour_begins_at_0(
    service: Service, container: str
) -> None:
    muxer = Muxer(container)
    muxer.write(muxer.track("aac"), said("goodbye")[None], at=3600)
    (segment,) = heard(service, muxer.finish())["segments"]
    assert segment["start"] == pytest.approx(0.3, abs=SLACK)


def test_a_pause_without_packets_counts(service: Service) -> None:
    muxer = Muxer("matroska")
    track = muxer.track("libopus")
    muxer.write(track, said("hello world")[None])
    muxer.write(track, said("goodbye")[None], at=600)
    result = heard(service, muxer.finish())
    assert [segment["text"] for segment in result["segments"]] == ["hello world", "goodbye"]
    assert result["segments"][1]["start"] == pytest.approx(600.3, abs=SLACK)
    assert result["duration"] == pytest.approx(602, abs=1)


def test_a_forged_pause_of_days_costs_no_memory(service: Service) -> None:
    muxer = Muxer("matroska")
    track = muxer.track("libopus")
    muxer.write(track, said("hello world")[None])
    muxer.write(track, said("goodbye")[None], at=10 * 86_400)
    data = muxer.finish()
    before = service.memory()
    answer = post(service, data)
    assert answer.status_code == 400 and "longer than 3600" in answer.json()["error"]["message"]
    assert service.memory() < before + 20e6


def test_ogg_files_that_are_joined_are_heard_to_the_end(service: Service) -> None:
    links = []
    for text, layout, count in (
        ("hello world", "stereo", 2),
        ("thank you", "mono", 1),
        ("goodbye", "stereo", 2),
    ):
        muxer = Muxer("ogg")
        muxer.write(muxer.track("libopus", layout), np.tile(said(text), (count, 1)))
        links.append(muxer.finish())
    result = heard(service, b"".join(links))
    assert result["text"] == "hello world thank you goodbye"
    lengths = [len(said(text)) / 16_000 for text in ("hello world", "thank you")]
    expected = [0.3, lengths[0] + 0.3, sum(lengths) + 0.3]
    found = [segment["start"] for segment in result["segments"]]
    assert found == pytest.approx(expected, abs=SLACK)


def test_a_format_that_is_not_known_is_answered_with_those_that_are(service: Service) -> None:
    for data in (b"#!AMR-NO" + bytes(100), Path(os.__file__).read_bytes()):
        answer = post(service, data)
        assert answer.status_code == 400 and "mp3, mpeg" in answer.json()["error"]["message"]
