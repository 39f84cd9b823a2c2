"""Human voices, heard by models that people really use: Moonshine and Whisper tiny.en."""

from pathlib import Path

import numpy as np
import pytest
import requests
from human_speech import RATE, Recording, as_audio, in_a_room, recordings, word_errors, words_of
from real_weights import tiny_en
from running_service import TRANSCRIPTION, Service, client
from speech import Audio, silence, write_wav

PAUSE_S = 1.2
# On a busy machine; on one that has nothing else to do they take a minute together.
pytestmark = pytest.mark.timeout(600)


def some_recordings() -> list[Recording]:
    """Return two readers and a third of the prompts: more than 200 words."""
    return [part for n, part in enumerate(recordings()) if n < 2 or n % 3 == 0]


def one_after_another(parts: list[Audio]) -> Audio:
    """Return sounds with a pause before each of them, and one at the end."""
    pause = silence(PAUSE_S)
    return np.concatenate([piece for part in parts for piece in (pause, part)] + [pause])


async def heard_live(service: Service, samples: Audio) -> list[str]:
    """Return the text of each turn, sent through the WebSocket as fast as it goes."""
    async with client(service.url) as speaker:
        await speaker.configure(format={"type": "audio/pcm", "rate": RATE})
        await speaker.say(samples, rate=RATE)
        await speaker.configure()
        await speaker.event("session.updated", 2, seconds=300)  # by now it has taken in everything
        committed = len(speaker.all("input_audio_buffer.committed"))
        await speaker.event(f"{TRANSCRIPTION}.completed", committed, seconds=300)
        return await speaker.transcripts(committed)


async def error_rate(service: Service, parts: list[Recording], sounds: list[Audio]) -> float:
    texts = await heard_live(service, one_after_another(sounds))
    wrong, words = word_errors([" ".join(part.text for part in parts)], [" ".join(texts)])
    return wrong / words


async def test_a_clear_voice_is_understood(real_service: Service) -> None:
    parts = some_recordings()
    assert await error_rate(real_service, parts, [part.samples for part in parts]) <= 0.07


async def test_a_voice_in_a_room_is_understood(real_service: Service) -> None:
    parts = some_recordings()
    sounds = [in_a_room(part.samples, seed) for seed, part in enumerate(parts)]
    assert await error_rate(real_service, parts, sounds) <= 0.2


def quiet(samples: Audio) -> Audio:
    return as_audio(samples / np.abs(samples).max() * 327.68)  # the loudest moment at -40 dB


def clipped(samples: Audio) -> Audio:
    return as_audio(samples.astype(float) * 16)  # 24 dB too loud


@pytest.mark.parametrize(("change", "most"), [(quiet, 0.1), (clipped, 0.3)])
async def test_a_microphone_that_is_set_wrong_still_works(
    real_service: Service, change: object, most: float
) -> None:
    parts = [part for part in recordings() if len(part.text.split()) in range(6, 12)]
    assert callable(change)
    assert await error_rate(real_service, parts, [change(part.samples) for part in parts]) <= most


def sounds_without_words() -> dict[str, Audio]:
    """Return ten seconds of each sound that a microphone hears while nobody speaks."""
    random = np.random.default_rng(7)
    seconds = np.arange(10 * RATE) / RATE
    white = random.standard_normal(len(seconds))
    fan = np.convolve(np.cumsum(white) - np.cumsum(white).mean(), np.ones(8) / 8, "same")
    clicks = np.zeros(len(seconds))
    for begin in random.integers(0, len(seconds) - 800, 50):  # keys, five a second
        clicks[begin : begin + 800] += random.standard_normal(800) * np.exp(-np.arange(800) / 90)
    breath = np.convolve(white, np.ones(6) / 6, "same") * np.sin(np.pi * seconds / 2) ** 4
    hum = sum(np.sin(2 * np.pi * 50 * n * seconds) / n for n in (1, 2, 3, 5))
    notes = 220 * 2 ** (random.integers(0, 24, 40) / 12)
    melody = np.repeat(notes, len(seconds) // len(notes))
    phase = 2 * np.pi * np.cumsum(melody) / RATE
    fading = np.exp(-3 * (seconds % 0.25))
    music = sum(np.sin(phase * n) / n for n in range(1, 6)) * fading
    raw = {"white noise": white, "fan": fan, "keyboard": clicks, "breathing": breath}
    raw |= {"hum": np.asarray(hum), "music": np.asarray(music)}
    sounds = {name: as_audio(sound / np.abs(sound).max() * 6_000) for name, sound in raw.items()}
    return {"silence": silence(10)} | sounds


async def test_no_word_is_made_up_where_nobody_speaks(real_service: Service) -> None:
    (first,) = (part for part in recordings() if part.name == "conf-locked")
    sounds = [first.samples, *sounds_without_words().values()]
    texts = await heard_live(real_service, one_after_another(sounds))
    assert [words_of(text) for text in texts if text] == [words_of(first.text)]


def voice_limits(samples: Audio) -> tuple[float, float]:
    """Return when the voice of a clean recording begins and ends, in seconds."""
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max() / 50)
    return loud[0] / RATE, loud[-1] / RATE


def test_times_are_those_of_the_voice(real_service: Service, tmp_path: Path) -> None:
    parts = [part for part in recordings() if len(part.text.split()) in range(6, 12)]
    file = write_wav(tmp_path / "a.wav", one_after_another([part.samples for part in parts]))
    url = f"{real_service.http_url}/v1/audio/transcriptions"
    form = {"response_format": "verbose_json"}
    answer = requests.post(url, data=form, files={"file": file.read_bytes()}, timeout=120).json()
    segments, offset = answer["segments"], 0.0
    for part in parts:
        begin, end = (offset + PAUSE_S + limit for limit in voice_limits(part.samples))
        offset += PAUSE_S + len(part.samples) / RATE
        mine = [one for one in segments if begin - 0.6 < one["start"] < end]
        assert mine, part.name
        assert mine[0]["start"] == pytest.approx(begin, abs=0.3), part.name
        assert end - 0.5 < mine[-1]["end"] < end + 0.3, part.name


def test_a_loop_is_caught_and_heard_again_in_full() -> None:
    """With too short a window Whisper says "Added. Added. Added. Added." """
    from service.engines import WhisperEngine

    engine = WhisperEngine(f"{tiny_en()}-int8")
    engine.for_texts = engine.whisper.with_window(4, 0)
    short = [part for part in recordings() if len(part.text.split()) < 3]
    heard = [engine.transcribe(part.samples.tobytes(), "en") for part in short]
    texts = [" ".join(segment.text for segment in segments) for segments in heard]
    assert engine.loops > 0, "nothing to catch: the test proves nothing"
    assert max(len(words_of(text)) for text in texts) <= 4, texts
    wrong, words = word_errors([part.text for part in short], texts)
    assert wrong / words < 0.4, texts
