"""People who speak to the service, or to a peer, all at once and as fast as people do."""

import asyncio
import json
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from running_service import TRANSCRIPTION, Client, client
from speech import Audio, silence, spoken

RATE = 24_000  # Hz, what OpenAI takes, and what costs the service a resampling
PIECE_MS = 20  # how much is sent at a time, as by a browser; lessons 7 and 8 send twice as much
PATIENCE_S = 100  # for the last text: a service that can't keep up is late, but loses nothing
PAUSE_S = 1.0  # between two phrases
SOUND = 0.02 * 32768  # anything softer is not a voice; flite sometimes begins with a click
PHRASES = [  # of 2 to 3 s, made of the micro Whisper's 48 words, heard exactly by it
    "set a timer for three minutes goodbye",
    "go forward ten meters thank you",
    "set a timer for five minutes thank you",
    "hello world go forward ten meters",
    "what time is it go forward ten meters",
    "set a timer for nine minutes",
    "go forward ten meters goodbye",
    "set a timer for three minutes",
    "what time is it thank you goodbye",
    "set a timer for five minutes",
]


@dataclass
class Turn:
    """A phrase, and when what happened to it; in seconds of time.monotonic()."""

    said: str
    starts: float  # when its first sound was spoken
    ends: float  # when its last sound was spoken
    heard: str | None = None
    noticed: float = math.nan  # speech_started came
    first_words: float = math.nan  # the first delta came
    stopped: float = math.nan  # speech_stopped came
    written: float = math.nan  # completed came

    @property
    def latency_ms(self) -> float:
        return 1000 * (self.written - self.ends)


async def pronounce(
    phrase: str, pause_s: float, send: Callable[[Audio], Awaitable[None]], begin: float
) -> Turn:
    """Speak a phrase and a pause, from the moment begin on, and return when it was to be heard."""
    samples = np.concatenate([spoken(phrase, RATE), silence(pause_s, RATE)])
    sounds = np.flatnonzero(np.abs(samples.astype(int)) > SOUND)
    size = RATE * PIECE_MS // 1000
    for start in range(0, len(samples), size):
        piece = samples[start : start + size]
        spoken_at = begin + (start + len(piece)) / RATE  # no microphone hands it over before
        await asyncio.sleep(spoken_at - time.monotonic())
        await send(piece)
    return Turn(phrase, begin + sounds[0] / RATE, begin + sounds[-1] / RATE)


def length_s(phrase: str, pause_s: float) -> float:
    return (len(spoken(phrase, RATE)) + len(silence(pause_s, RATE))) / RATE


async def speak(
    url: str, phrases: Sequence[str], delay_s: float = 0, pause_s: float = PAUSE_S
) -> list[Turn]:
    """Say phrases to the service, one after the other; return what became of them."""
    async with client(url) as student:
        await student.configure()
        begin = time.monotonic() + delay_s
        turns = []
        for phrase in phrases:
            turns.append(await pronounce(phrase, pause_s, student.append, begin))
            begin += length_s(phrase, pause_s)
        with suppress(TimeoutError):  # a phrase without text counts as not heard
            await student.event(f"{TRANSCRIPTION}.completed", len(phrases), PATIENCE_S)
        note_events(student, turns)
        if any(math.isnan(turn.written) for turn in turns):
            print(f"      a text is missing; close code {student.websocket.close_code}")
        return turns


def note_events(student: Client, turns: list[Turn]) -> None:
    """Write down when the events of each turn came. Turns that were lost stay without text."""
    at: dict[str, dict[str, float]] = {}
    texts: dict[str, str] = {}
    for event, when in zip(student.events, student.times, strict=True):
        if item_id := event.get("item_id"):
            at.setdefault(item_id, {}).setdefault(event["type"], when)
            texts[item_id] = event.get("transcript", texts.get(item_id, ""))
    for turn, (item_id, times) in zip(turns, at.items(), strict=False):
        turn.heard = texts[item_id]
        turn.noticed = times.get("input_audio_buffer.speech_started", math.nan)
        turn.first_words = times.get(f"{TRANSCRIPTION}.delta", math.nan)
        turn.stopped = times.get("input_audio_buffer.speech_stopped", math.nan)
        turn.written = times.get(f"{TRANSCRIPTION}.completed", math.nan)


async def speak_and_commit(url: str, phrases: Sequence[str], _: float = 0) -> list[Turn]:
    """The same without turn detection: the client knows where a phrase ends, and commits there."""
    async with client(url) as student:
        await student.configure(turn_detection=None)
        turns = []
        for number, phrase in enumerate(phrases, start=1):
            turn = await pronounce(phrase, 0, student.append, time.monotonic())
            committed_at = time.monotonic()
            await student.send("input_audio_buffer.commit")
            turn.heard = (await student.transcripts(number))[-1]
            turn.ends, turn.written = committed_at, time.monotonic()
            turns.append(turn)
        return turns


async def speak_to_wyoming(
    port: int, phrases: Sequence[str], delay_s: float = 0, has_vad: bool = True
) -> list[Turn]:
    """Speak to wyoming-faster-whisper, whose protocol is lines of JSON and bytes over TCP.

    One connection for each phrase, as its own clients do. Without VAD the client says where the
    phrase ends.
    """
    await asyncio.sleep(delay_s)
    begin = time.monotonic()
    turns = []
    for phrase in phrases:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def send(kind: str, payload: bytes = b"", to: asyncio.StreamWriter = writer) -> None:
            audio = {"rate": RATE, "width": 2, "channels": 1}
            header = {"type": kind, "data": audio, "payload_length": len(payload)}
            to.write(json.dumps(header).encode() + b"\n" + payload)
            await to.drain()

        await send("audio-start")
        answer = asyncio.create_task(read_transcript(reader))

        async def append(piece: Audio, send: Callable[..., Awaitable[None]] = send) -> None:
            await send("audio-chunk", piece.astype("<i2").tobytes())

        turn = await pronounce(phrase, PAUSE_S if has_vad else 0, append, begin)
        if not has_vad:
            turn.ends = time.monotonic()
            await send("audio-stop")
        turn.heard, turn.written = await asyncio.wait_for(answer, 60)
        writer.close()
        turns.append(turn)
        begin = max(begin + length_s(phrase, PAUSE_S), time.monotonic())
        await asyncio.sleep(begin - time.monotonic())
    return turns


async def read_transcript(reader: asyncio.StreamReader) -> tuple[str, float]:
    """Return the text, and when it came."""
    while line := await reader.readline():
        event = json.loads(line)
        data = event.get("data", {})
        if size := event.get("data_length"):
            data |= json.loads(await reader.readexactly(size))
        if event["type"] == "transcript":
            return str(data["text"]).strip(), time.monotonic()
    raise ConnectionResetError("no transcript came")


async def all_at_once(
    speaker: Callable[[Sequence[str], float], Awaitable[list[Turn]]], count: int, phrases: int
) -> list[Turn]:
    """Let so many people speak at once, each saying something else, none beginning together."""
    speakers = []
    for number in range(count):
        said = [PHRASES[(number + n) % len(PHRASES)] for n in range(phrases)]
        speakers.append(speaker(said, number * 0.37 % 3.0))
    return [turn for turns in await asyncio.gather(*speakers) for turn in turns]


def percentile(figures: Sequence[float], percent: float) -> float:
    """Leave out what never came."""
    came = [figure for figure in figures if not math.isnan(figure)]
    return float(np.percentile(came, percent)) if came else math.nan


def exactness(turns: Sequence[Turn]) -> float:
    """Return how many percent of the phrases were heard word by word."""
    return 100 * statistics.mean(turn.heard == turn.said for turn in turns)
