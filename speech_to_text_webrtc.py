#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "aiortc>=1.16,<2",
#     "av>=18,<19",
#     "numpy>=2,<3",
#     "streamlit>=1.66,<2",
#     "streamlit-webrtc>=0.79,<1",
#     "websockets>=15,<18",
# ]
# ///
"""Lesson 8: speech to text in the browser, words that stand on the page as they are spoken

What you learn
    How a web page gets at a microphone (WebRTC), how its sound becomes what a speech model
    wants (16 kHz, mono, PCM16), and how a page shows what happens elsewhere, to each of
    its visitors their own.
Before you start
    A service in a first terminal: docker compose up faster-whisper
    or, without Docker:            python fastapi_example.py
    Once: python -m pip install -r requirements.txt
Run it
    In a second terminal:   python speech_to_text_webrtc.py
    Or, which is the same:  streamlit run speech_to_text_webrtc.py
    To watch the wire:      TRACE=1 python speech_to_text_webrtc.py
    Then open http://localhost:8501 in a browser (127.0.0.1:8501, as it says, is the same).
    Browsers give their microphone only to https pages and to localhost. Choose the service
    on the left of the page.
You should see
    Press START, allow the microphone, speak: your words appear while you speak, then join
    the list below them, each phrase with its time. STOP ends it. What was said can be
    downloaded as text or as subtitles.
Try next
    In phrase_as_html(), show phrase.text.upper(). Then let the length of a phrase choose
    its size or its colour: here spoken words become something to look at.
"""

import asyncio
import base64
import json
import logging
import math
import os
import re
import ssl
import sys
import time
from bisect import insort
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from typing import Any, cast

import av
import numpy as np
import streamlit as st
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from streamlit.web.cli import main as run_streamlit
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.frames import Frame

SERVERS = {
    "Docker": "ws://127.0.0.1:10300/v1/realtime?intent=transcription",
    "Lesson 5": "ws://127.0.0.1:8000/v1/realtime?intent=transcription",
    "OpenAI": "wss://api.openai.com/v1/realtime?intent=transcription",
    "Another": os.environ.get("WEBSOCKET_URL", ""),  # if there is one, it is the first choice
}
API_KEY = os.environ.get("API_KEY", "").strip()  # can be typed into the page instead
OPENAI_KEY = os.environ.get("OPENAI_API_KEY", "").strip() or API_KEY
MODEL = os.environ.get("TRANSCRIPTION_MODEL", "gpt-live-transcribe")  # at home there is only one
LANGUAGE = os.environ.get("TRANSCRIPTION_LANGUAGE", "en")  # empty: the service finds out
SAMPLE_RATE = int(os.environ.get("SAMPLE_RATE", "0"))  # Hz; 0: 16000 at home, 24000 elsewhere

# Where two computers cannot see each other, STUN and TURN servers show them a way. Browser and
# program are on one computer here: asking would only take time, and fail without internet.
# An example: ICE_SERVERS='[{"urls": "stun:stun.example.org:3478"}]'
ICE_SERVERS = json.loads(os.environ.get("ICE_SERVERS", "[]"))

# What browsers do to make telephone calls pleasant spoils the sound for a speech model.
MICROPHONE = {"echoCancellation": False, "noiseSuppression": False, "autoGainControl": False}

SILENCE_MS = 500  # a pause this long ends a turn
MAX_TURN_MS = 30_000  # and so does this much speech without a pause
QUIET = 0.02  # of full scale: softer than a voice
KEEP_S = 120  # audio kept to be sent again: a turn of 30 s, an outage of 60 s, and some more
RETRY_S = 60  # once the microphone is off, a service that went away may take so long to come back
ANSWER_S = 30  # the service may take so long to answer
PING_S = 10  # so often a ping asks whether the line still works; no pong for as long: it does not
GAP_S = 5  # if nothing comes from the browser for so long, it counts as silence: a turn may end
VANISHED_S = 20  # a browser that sends nothing for so long has gone
PATIENCE_S = 5  # then a microphone that hears nothing is mentioned
REFRESH_S = 0.15  # so often the page is drawn
LOCAL_SERVICES = {  # port: its name on the page, and what starts it
    10300: ("Docker", "docker compose up faster-whisper"),
    8000: ("Lesson 5", "python fastapi_example.py"),
}
LANGUAGES = {"en": "English", "de": "German", "es": "Spanish", "fr": "French", "it": "Italian"}
LANGUAGES |= {"ja": "Japanese", "ko": "Korean", "zh": "Chinese", "": "any"}
LANGUAGES.setdefault(LANGUAGE, LANGUAGE)  # whatever is set can be chosen, too


# ----------------------------------------------------------------------------- what was said


@dataclass
class Phrase:
    """What was said in one go; start and end in seconds since the first START."""

    start: float
    end: float
    text: str


def clock(seconds: float) -> str:
    """Return 65.25 as 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def as_text(phrases: list[Phrase]) -> str:
    """Return the phrases, each in a line with its time."""
    return "".join(f"[{clock(phrase.start)}] {phrase.text}\n" for phrase in phrases)


def as_subtitles(phrases: list[Phrase]) -> str:
    """Return the phrases as SubRip (srt), which every video player reads."""

    def exact_clock(seconds: float) -> str:  # 65.25 is 00:01:05,250
        minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
        text = f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds / 1000:06.3f}"
        return text.replace(".", ",")

    return "\n".join(
        f"{number}\n{exact_clock(phrase.start)} --> {exact_clock(phrase.end)}\n{phrase.text}\n"
        for number, phrase in enumerate(phrases, start=1)
    )


# --------------------------------------------------------------------------- what is spoken


@dataclass(frozen=True)
class Service:
    """Where speech becomes text."""

    url: str
    key: str
    language: str

    @property
    def is_local(self) -> bool:
        return self.url.startswith(("ws://127.0.0.1:", "ws://localhost:"))

    @property
    def rate(self) -> int:
        """Samples per second. OpenAI takes 24000 only; speech models hear at 16000."""
        return SAMPLE_RATE or (16_000 if self.is_local else 24_000)


class Speech:
    """What one visitor says between START and STOP: the audio that has no text yet.

    The audio is PCM16, mono. A position in it is a number of bytes since the beginning.
    All this happens on the event loop, which Streamlit and WebRTC share, so nothing here may
    block. The page is drawn by other threads: they may read what is here, but change nothing.
    """

    def __init__(self, service: Service, phrases: list[Phrase], offset: float) -> None:
        self.service = service
        self.phrases = phrases  # goes on over many STARTs
        self.offset = offset  # seconds that the microphone was on before
        self.bytes_per_ms = 2 * service.rate // 1000
        self.audio = bytearray()
        self.start = 0  # position of the first byte of audio
        self.level = 0.0  # of the loudest sample lately; 1 is as loud as it gets
        self.heard_at = 0  # position of the last sound
        self.lost = 0  # bytes
        self.has_ended = False
        self.news = asyncio.Event()
        self.transcribing: asyncio.Task[None] | None = None
        self.talk: Conversation | None = None  # what it knows
        self.problem = ""  # a sentence for the page

    @property
    def end(self) -> int:
        return self.start + len(self.audio)

    def seconds_at(self, position: int) -> float:
        """Return a position as seconds since the first START."""
        return self.offset + position / self.bytes_per_ms / 1000

    @property
    def is_busy(self) -> bool:
        return self.transcribing is not None and not self.transcribing.done()

    def add(self, pcm: bytes) -> None:
        """Take in PCM16 audio of the service's sample rate."""
        if self.has_ended:
            return
        self.audio += pcm
        loud = loudness(pcm)
        self.level = max(loud, 0.9 * self.level)  # falls slowly, for the eye
        if loud > QUIET:
            self.heard_at = self.end
        too_much = len(self.audio) - KEEP_S * 1000 * self.bytes_per_ms
        if too_much > 0 and not self.talk and self.heard_at > self.start:  # not only silence
            self.lost += too_much
        self.forget(self.start + too_much)
        self.news.set()

    def forget(self, position: int) -> None:
        """Drop the audio before a position: its text is there, or it was only silence."""
        if position > self.start:
            del self.audio[: position - self.start]
            self.start = position

    def finish(self) -> None:
        """End the recording. What was spoken is still written down."""
        self.has_ended, self.level = True, 0
        self.news.set()

    async def read(self, position: int) -> bytes:
        """Wait for audio at a position; return 100 ms of it at most, or b"" at the end."""
        while position >= self.end and not self.has_ended:
            self.news.clear()
            await self.news.wait()
        begin = max(0, position - self.start)  # what is no longer there is passed over
        return bytes(self.audio[begin : begin + 100 * self.bytes_per_ms])


def loudness(pcm: bytes) -> float:
    """Return the loudest sample of PCM16 audio, from 0 to 1."""
    return float(np.abs(np.frombuffer(pcm, "<i2").astype(int)).max(initial=0) / 32768)


class Microphone:
    """Where a visitor's sound comes in: what streamlit-webrtc calls a media sink.

    The four public methods are what it asks for.
    """

    def __init__(self, speech: Speech) -> None:
        self.speech = speech
        rate = speech.service.rate
        self.resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)

    def addTrack(self, track: MediaStreamTrack) -> None:  # noqa: N802
        self.track = track

    def hasTrack(self) -> bool:  # noqa: N802
        return hasattr(self, "track")

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.listening = asyncio.create_task(self.listen())
        self.speech.transcribing = asyncio.create_task(transcribe(self.speech))

    def stop(self) -> None:
        """End the listening. This alone is called from other threads."""
        if self.hasTrack():
            with suppress(RuntimeError):  # the program ends, and its event loop has ended
                self.loop.call_soon_threadsafe(self.listening.cancel)

    async def listen(self) -> None:
        """Take in what the browser sends: 48 kHz stereo, a frame every 20 ms."""
        missing_s = 0
        with suppress(MediaStreamError):  # STOP was pressed, the page was closed
            try:
                while missing_s < VANISHED_S:
                    try:
                        async with asyncio.timeout(GAP_S):
                            frame = await self.track.recv()
                    except TimeoutError:  # a gap on the way, or a computer that sleeps
                        if self.speech.end:  # the first sound may take its time
                            missing_s += GAP_S
                            self.speech.add(bytes(1000 * GAP_S * self.speech.bytes_per_ms))
                        continue
                    missing_s = 0
                    for part in self.resampler.resample(cast(av.AudioFrame, frame)):
                        self.speech.add(part.to_ndarray().tobytes())
            finally:
                self.track.stop()  # or all that still comes would be kept, and nobody takes it
                self.speech.finish()


# ------------------------------------------------------------------------------- the service


@dataclass
class Turn:
    """What is said in one go: its first and last position, and its text once that is there."""

    start: int
    end: int = 0
    partial: str = ""
    text: str | None = None


@dataclass
class Conversation:
    """What is known about one connection. After a failure the next one begins anew."""

    zero: int  # position at which the service's clock shows 0 ms
    sent: int  # position up to which everything is sent
    has_vad: bool  # True: the service finds the pauses; False: we do, and commit there
    turns: dict[str, Turn] = field(default_factory=dict)  # by item_id, in the order of speaking
    commits: deque[tuple[int, int]] = field(default_factory=deque)  # from where to where
    voice_at: int | None = None  # without VAD: where a voice began that is not committed
    is_complete: bool = False  # the service has heard everything
    news: asyncio.Event = field(default_factory=asyncio.Event)  # the service has said something

    @property
    def is_speaking(self) -> bool:
        # list(): the page asks, and meanwhile the event loop may have news of another turn.
        return self.voice_at is not None or any(not turn.end for turn in list(self.turns.values()))


class RefusedError(Exception):
    """The service is there, but does not want to do what we ask for."""

    def __init__(self, error: dict[str, str | None]) -> None:
        super().__init__(error["message"])
        self.code, self.param = error.get("code"), error.get("param")


async def send(websocket: ClientConnection, kind: str, **fields: object) -> None:
    """Send an event: a JSON object with a type and the fields that go with it."""
    await websocket.send(json.dumps({"type": kind, **fields}))


def as_event(message: str | bytes) -> dict[str, Any]:
    """Return an event of the service's. Raises ValueError or LookupError if it is none."""
    event = json.loads(message)
    if isinstance(event, dict) and (event["type"] != "error" or isinstance(event["error"], dict)):
        return event
    raise LookupError(f"no event: {message[:60]!r}")


async def wait_for(websocket: ClientConnection, kind: str) -> None:
    """Wait for an event of a kind; raise RefusedError if an error comes instead."""
    while True:
        event = as_event(await asyncio.wait_for(websocket.recv(), ANSWER_S))
        if event["type"] == "error":
            raise RefusedError(event["error"])
        if event["type"] == kind:
            return


async def configure(websocket: ClientConnection, service: Service) -> bool:
    """Tell the service what will come; return whether it finds the pauses itself.

    All that may be asked for: https://developers.openai.com/api/docs/guides/realtime-transcription
    Raises RefusedError if the service refuses the key or a setting.
    """
    await wait_for(websocket, "session.created")
    language = {"languages": [service.language]} if service.language else {}
    vad: dict[str, object] | None = {"type": "server_vad", "silence_duration_ms": SILENCE_MS}
    while True:
        sound = {
            "format": {"type": "audio/pcm", "rate": service.rate},
            "transcription": {"model": MODEL, **language},
            "turn_detection": vad,
        }
        session = {"type": "transcription", "audio": {"input": sound}}
        await send(websocket, "session.update", session=session)
        try:
            await wait_for(websocket, "session.updated")
            return vad is not None
        except RefusedError as error:
            if not vad or error.param != "session.audio.input.turn_detection":
                raise
            vad = None  # OpenAI's live models leave the pauses to us


async def send_audio(websocket: ClientConnection, speech: Speech, talk: Conversation) -> None:
    """Send all that is spoken, then ask for the text of what is left."""
    quiet_ms = 0
    pcm = await speech.read(talk.sent)
    while pcm:
        audio = base64.b64encode(pcm).decode()
        await send(websocket, "input_audio_buffer.append", audio=audio)
        if loudness(pcm) < QUIET:
            quiet_ms += len(pcm) // speech.bytes_per_ms
        else:
            quiet_ms = 0
            if talk.voice_at is None and not talk.has_vad:
                talk.voice_at = talk.sent
        talk.sent += len(pcm)
        if talk.voice_at is not None:
            spoken_ms = (talk.sent - talk.voice_at) // speech.bytes_per_ms
            if quiet_ms >= SILENCE_MS or spoken_ms >= MAX_TURN_MS:
                await commit(websocket, talk)
        if talk.sent < speech.start:  # the line or the service is too slow
            speech.lost += speech.start - talk.sent
            return await websocket.close()  # and begin anew, or the clocks would disagree
        pcm = await speech.read(talk.sent)
    await commit(websocket, talk)
    # Now there is nothing left to commit, so the next one is refused. As events are answered in
    # order, its refusal tells that the service has heard everything before it.
    await send(websocket, "input_audio_buffer.commit", event_id="the-end")
    with suppress(TimeoutError):
        while True:  # as long as answers come; where many wait for their text, that takes time
            talk.news.clear()
            async with asyncio.timeout(ANSWER_S):
                await talk.news.wait()
    await websocket.close()


async def commit(websocket: ClientConnection, talk: Conversation) -> None:
    """Ask for the text of everything since the last commit."""
    start = talk.sent if talk.voice_at is None else talk.voice_at
    talk.commits.append((start, talk.sent))
    talk.voice_at = None
    await send(websocket, "input_audio_buffer.commit")


async def receive_text(websocket: ClientConnection, speech: Speech, talk: Conversation) -> None:
    """Write what the service understands, until it has understood everything."""
    async for message in websocket:
        event = as_event(message)
        talk.news.set()
        if "item_id" in event:
            update_turn(event, speech, talk)
            write_finished_turns(speech, talk)
        elif event["type"] == "error":
            error = event["error"]
            if error.get("event_id") == "the-end":
                talk.is_complete = True
            elif error.get("code") != "input_audio_buffer_commit_empty":
                speech.problem = f"The service says: {error['message']}"
        if talk.is_complete and not talk.turns:
            return
    raise ConnectionResetError("the service closed the connection")


def update_turn(event: dict[str, Any], speech: Speech, talk: Conversation) -> None:
    """Note what the service tells about a turn."""
    turn = talk.turns.get(event["item_id"]) or Turn(talk.sent)
    match event["type"]:
        case "input_audio_buffer.speech_started":
            turn.start = talk.zero + event["audio_start_ms"] * speech.bytes_per_ms
        case "input_audio_buffer.speech_stopped":
            turn.end = talk.zero + event["audio_end_ms"] * speech.bytes_per_ms
        case "input_audio_buffer.committed":
            if talk.commits and not turn.end:  # it was our commit that ended the turn
                start, turn.end = talk.commits.popleft()
                turn.start = min(turn.start, start)
        case "conversation.item.input_audio_transcription.delta":
            turn.partial += event["delta"]
        case "conversation.item.input_audio_transcription.completed":
            turn.text = event["transcript"].strip()
        case "conversation.item.input_audio_transcription.failed":
            at = clock(speech.seconds_at(turn.start))
            speech.problem = (
                f"There is no text for what was said at {at}: {event['error']['message']}"
            )
            turn.text = ""
        case _:
            return  # OpenAI has events of which we need nothing
    talk.turns[event["item_id"]] = turn


def write_finished_turns(speech: Speech, talk: Conversation) -> None:
    """Write the turns that have their text, in the order of speaking, and forget their audio."""
    for item_id, turn in list(talk.turns.items()):
        if turn.text is None:
            break
        if turn.text:
            start, end = speech.seconds_at(turn.start), speech.seconds_at(turn.end)
            phrase = Phrase(start, end, turn.text)
            insort(speech.phrases, phrase, key=lambda phrase: phrase.start)
        speech.forget(turn.end)
        del talk.turns[item_id]


async def transcribe(speech: Speech) -> None:
    """Talk to the service until all is written down; find it again each time it goes away."""
    service = speech.service
    headers = {"Authorization": f"Bearer {service.key}"} if service.key else {}
    pause_s, give_up_at, was_there = 0.5, math.inf, False
    if not (service.key.isascii() and service.key.isprintable()):
        speech.problem = "Your key holds a letter that no key has. STOP, copy it once more, START."
        return speech.finish()
    while True:
        try:
            async with connect(
                service.url,
                additional_headers=headers,
                compression=None,  # audio does not shrink, it only costs time
                ping_interval=PING_S,
                ping_timeout=PING_S,
                close_timeout=1,  # a service that has stalled must not hold us up
                # A proxy for web pages could not find a service on this computer.
                proxy=None if service.is_local else True,
            ) as websocket:
                has_vad = await configure(websocket, service)
                speech.talk = talk = Conversation(speech.start, speech.start, has_vad)
                speech.problem, was_there = "", True
                sending = asyncio.create_task(send_audio(websocket, speech, talk))
                try:
                    return await receive_text(websocket, speech, talk)
                finally:
                    speech.talk = None
                    sending.cancel()  # when one of two partners ends, so must the other
                    await asyncio.gather(sending, return_exceptions=True)
                    if speech.start > talk.zero:  # it was of use
                        pause_s = 0.5
        except TROUBLE as error:
            speech.problem = await explain(error, service)
            if is_final(error, was_there):
                return speech.finish()
        if speech.has_ended:
            give_up_at = min(give_up_at, time.monotonic() + RETRY_S)
            if speech.heard_at <= speech.start:
                return None  # what is left is only silence
            if time.monotonic() > give_up_at:
                speech.problem = f"The last words are lost: the service was away for {RETRY_S} s."
                return None
        await asyncio.sleep(pause_s)
        pause_s = min(4, 2 * pause_s)


# ImportError: behind some proxies a package is needed that is not here.
TROUBLE = (OSError, WebSocketException, RefusedError, ValueError, LookupError, ImportError)


def is_final(error: Exception, was_there: bool) -> bool:
    """Tell whether trying again would not help. A service that was there may be full for now."""
    if isinstance(error, RefusedError) and error.code == "invalid_api_key":
        return True
    if isinstance(error, InvalidStatus) and error.response.status_code >= 500:
        return False  # that is a proxy, whose service is away
    is_refusal = isinstance(error, RefusedError | InvalidStatus) and not was_there
    return is_refusal or isinstance(error, InvalidURI | ImportError)


async def explain(error: Exception, service: Service) -> str:
    """Return what is the matter with the service, and what to do about it."""
    url = f"`{service.url}`"
    again = "Press STOP, correct it on the left, and START again."
    if isinstance(error, RefusedError) and error.code == "invalid_api_key":
        return (
            f"The service refuses the key: {error} Press STOP, type the right one on the left, "
            "START again. Or set `API_KEY` (for OpenAI `OPENAI_API_KEY`) in the terminal "
            "before you start this program."
        )
    if isinstance(error, RefusedError):
        return f"The service refuses: {error} {again}"
    if isinstance(error, ImportError):
        return f"It does not work: {error}"
    if isinstance(error, json.JSONDecodeError | LookupError | TimeoutError):
        return f"What answers at {url} is no transcription service ({error!r}). {KEPT}"
    if isinstance(error, ssl.SSLError):
        return (
            f"The certificate of {url} cannot be trusted, or there is none. Name its file in "
            "`SSL_CERT_FILE` before you start this program. Without one: `ws://` in place of "
            f"`wss://`. {KEPT}"
        )
    if isinstance(error, InvalidURI | ValueError):
        return f"{url} is no WebSocket address: those begin with `ws://` or `wss://`. {again}"
    if isinstance(error, InvalidStatus) and error.response.status_code >= 500:
        return f"The service behind {url} is away. {KEPT}"
    if isinstance(error, InvalidStatus):
        return (
            f"{url} answers with HTTP status {error.response.status_code}. The address of a "
            f"service ends in `/v1/realtime?intent=transcription`. {again}"
        )
    if isinstance(error, ConnectionResetError | ConnectionClosed):
        return f"The connection to {url} has broken. {KEPT}"
    if isinstance(error, WebSocketException):
        return f"What answers at {url} is no WebSocket server ({error!r}). {KEPT}"
    for port, (name, _) in LOCAL_SERVICES.items():
        with suppress(OSError):
            _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 1)
            writer.close()
            return (
                f"Nothing answers at {url}, but at port {port} there is a service. Press STOP, "
                f"choose *{name}* on the left, and START again."
            )
    remedies = " or ".join(f"`{command}` ({name})" for name, command in LOCAL_SERVICES.values())
    remedy = f"Start the service in another terminal: {remedies}." if service.is_local else again
    return f"Nothing answers at {url}. {remedy} {KEPT}"


# ---------------------------------------------------------------------------------- the page

CHECK_MICROPHONE = """
export default async function ({ data, setStateValue }) {
  let told = data
  const tell = (problem) => { if (problem !== told) setStateValue("problem", told = problem) }
  const devices = navigator.mediaDevices
  if (!devices) return tell("insecure")
  const permission = await navigator.permissions.query({ name: "microphone" })
  const look = async () => {
    const all = await devices.enumerateDevices()
    const isThere = all.some((device) => device.kind === "audioinput")
    tell(permission.state === "denied" ? "denied" : isThere ? "" : "missing")
  }
  permission.onchange = devices.ondevicechange = look
  look()
}
"""
KEPT = "Go on speaking: what you say is kept for a while, and written when the service is back."
NO_SOUND_ARRIVES = """The browser and this program do not find each other. A VPN or a firewall may
be in between: switch it off and try again. If they are on two computers, set `ICE_SERVERS`, which
is explained at the top of the program."""
SILENT_MICROPHONE = """The microphone is silent. Is it muted, or is it the wrong one? STOP, then
SELECT DEVICE, shows which one the browser uses."""
MICROPHONE_PROBLEMS = {
    "insecure": "The browser gives its microphone only to https pages and to localhost, and this "
    "page is neither. On the computer that runs the program, open http://localhost:8501. From "
    "another one, make a tunnel first: `ssh -L 8501:127.0.0.1:8501 NAME@THAT_COMPUTER`.",
    "denied": "The browser does not let this page use the microphone. Click the icon left of the "
    "address, allow the microphone, and reload the page. On a Mac also look into System Settings "
    "> Privacy & Security > Microphone.",
    "missing": "The browser finds no microphone. Plug one in: this message goes away by itself. "
    "If there is one, see in your system's sound settings whether it is switched on.",
}
STYLE = """
<style>
  .stMainBlockContainer { padding-top: 3.5rem; }
  .live { font-size: clamp(1.9rem, 5vw, 3rem); line-height: 1.2; min-height: 7.2rem; }
  .live.spoken { font-weight: 600; }
  .live.spoken::after { content: " ▍"; opacity: 0.3; }
  .live.quiet { opacity: 0.35; }
  .said { max-height: 22rem; overflow-y: auto; display: flex; flex-direction: column-reverse; }
  .said p { margin: 0; padding: 0.45rem 0; display: flex; gap: 1.25rem; font-size: 1.1rem;
            border-bottom: 1px solid color-mix(in srgb, currentColor 10%, transparent); }
  .said time { opacity: 0.5; font-variant-numeric: tabular-nums; min-width: 3rem; }
</style>
"""  # column-reverse keeps the newest phrase in sight when there are many


def show_page() -> None:
    """Draw the page. Streamlit runs the whole file again whenever its visitor does something."""
    from streamlit_webrtc import WebRtcMode, webrtc_streamer

    st.set_page_config("Speech to text", "🎙️")
    st.html(STYLE)
    st.title("Speech to text")
    state = st.session_state  # of this visitor alone
    microphone = state.get("microphone")  # what webrtc_streamer() returned the last time
    is_on = bool(microphone and (microphone.state.playing or microphone.state.signalling))
    service = choose_service(is_on)
    if "speech" not in state or (is_on and not state.was_on):  # START
        offset = state.speech.seconds_at(state.speech.end) if "speech" in state else 0
        state.speech = Speech(service, state.setdefault("phrases", []), offset)
        state.started_at = time.monotonic()
    state.was_on = is_on

    look = st.components.v2.component("check_microphone", js=CHECK_MICROPHONE)
    problem = state.get("check", {}).get("problem", "")
    look(key="check", data=problem, on_problem_change=lambda: None)
    if problem:
        st.error(MICROPHONE_PROBLEMS[problem], icon=":material/mic_off:")
    if microphone:
        # When two runs of this file follow each other quickly, streamlit-webrtc 0.79 may believe
        # that the visitor was on another page meanwhile, and hang up. There is no other page.
        microphone._last_rendered_run_count = None
    webrtc_streamer(
        key="microphone",
        mode=WebRtcMode.SENDONLY,
        rtc_configuration={"iceServers": ICE_SERVERS},
        media_stream_constraints={"audio": MICROPHONE, "video": False},
        sink_audio_track=Microphone(state.speech),
    )
    is_live = is_on or state.speech.is_busy
    st.fragment(show_speech, run_every=REFRESH_S if is_live else None)(is_on, is_live)


def choose_service(is_locked: bool) -> Service:
    """Let the visitor choose in the sidebar; while the microphone is on nothing can change."""
    with st.sidebar:
        st.header("Service")
        names = list(SERVERS)
        name = st.radio(
            "Where speech becomes text",
            names,
            index=names.index("Another" if SERVERS["Another"] else "Docker"),
            captions=["port 10300", "port 8000, `fastapi_example.py`", "with a key", "any address"],
            on_change=forget_key,
            disabled=is_locked,
        )
        url = SERVERS[name]
        if name == "Another":
            url = st.text_input("Address", url, placeholder="ws://…", disabled=is_locked)
        # The program's own key goes to the program's own addresses only, wherever visitors go.
        own_key = ""
        if name == "OpenAI":
            own_key = OPENAI_KEY
        elif url in SERVERS.values():
            own_key = API_KEY
        key = st.text_input(
            "Key, if the service wants one",
            key="typed_key",
            type="password",
            placeholder="from the environment" if own_key else "",
            disabled=is_locked,
        )
        language = st.selectbox(
            "Language",
            LANGUAGES,
            index=list(LANGUAGES).index(LANGUAGE),
            format_func=lambda code: LANGUAGES[code],
            disabled=is_locked,
        )
        if is_locked:
            st.caption("Press STOP to change these.")
    return Service(url.strip(), key.strip() or own_key, language)


def forget_key() -> None:
    """Empty the field for the key: it was typed for one service, and no other is to get it."""
    if st.session_state.get("typed_key"):
        st.session_state.typed_key = ""


def show_speech(is_on: bool, is_live: bool) -> None:
    """Draw what changes all the time. While somebody speaks, Streamlit calls only this."""
    speech: Speech = st.session_state.speech
    if is_live and not is_on and not speech.is_busy:
        st.rerun()  # the last words are written: draw the whole page once more, and rest
    show_state(speech, is_on)
    talk = speech.talk  # once: the event loop may lose the service while we draw
    turns = list(talk.turns.values()) if talk else []
    partial = " ".join(turn.partial for turn in turns)
    last = speech.phrases[-1].text if speech.phrases else "Your words will stand here."
    kind = "spoken" if partial else "quiet"
    st.html(f'<div class="live {kind}">{escape(partial or last)}</div>')

    if not speech.phrases:
        return
    st.subheader("What was said")
    st.html(f'<div class="said"><div>{"".join(map(phrase_as_html, speech.phrases))}</div></div>')
    with st.container(horizontal=True):
        st.button("Clear", icon=":material/delete:", on_click=speech.phrases.clear)
        for kind, convert in (("txt", as_text), ("srt", as_subtitles)):
            st.download_button(
                f"Download {kind}",
                convert(speech.phrases),
                f"speech.{kind}",
                on_click="ignore",  # which is: no need to draw the page again
                icon=":material/download:",
            )


def phrase_as_html(phrase: Phrase) -> str:
    """Return one line of the history. escape() keeps what was said from being taken for HTML."""
    return f"<p><time>{clock(phrase.start)}</time><span>{escape(phrase.text)}</span></p>"


def show_state(speech: Speech, is_on: bool) -> None:
    """Draw the badges and the level meter, and say what is wrong if something is."""
    is_hearing = is_on and speech.end > 0
    talk = speech.talk  # once: the event loop may lose the service while we draw
    with st.container(horizontal=True):
        if is_hearing:
            st.badge("microphone on", icon=":material/mic:", color="green")
        else:
            st.badge("microphone off", icon=":material/mic_off:", color="gray")
        if talk:
            st.badge("service on", icon=":material/cloud_done:", color="green")
        elif speech.problem or speech.is_busy:
            st.badge("service away", icon=":material/cloud_off:", color="red")
        else:
            st.badge("service off", icon=":material/cloud:", color="gray")
        if talk and talk.is_speaking:
            st.badge("speaking", icon=":material/graphic_eq:", color="violet")
        else:
            st.badge("quiet", icon=":material/graphic_eq:", color="gray")
    st.progress(min(1.0, speech.level**0.5))  # the square root, because ears work like that

    if speech.problem:
        st.error(speech.problem, icon=":material/cloud_off:")
    if is_on and speech.has_ended and not speech.problem:
        st.warning(f"Your browser has sent nothing for {VANISHED_S} s. STOP, then START.")
    if is_on and not speech.end and time.monotonic() - st.session_state.started_at > PATIENCE_S:
        st.warning(NO_SOUND_ARRIVES)
    elif is_on and not speech.heard_at and speech.end > PATIENCE_S * 1000 * speech.bytes_per_ms:
        st.warning(SILENT_MICROPHONE, icon=":material/mic_off:")
    if speech.lost:
        seconds = speech.lost / speech.bytes_per_ms / 1000
        st.warning(f"{seconds:.0f} s of sound were lost: the service was away for too long.")


def trace(note: logging.LogRecord) -> bool:
    """Print what travels: > goes out, < comes in, = is the state. The library notes it all."""
    text = re.sub(r"^(. GET [^?]+\?)\S*", r"\1...", note.getMessage())
    text = re.sub(r'(?<="audio": ")[^"]+', "...", text)
    # An address, after its question mark, and most headers may hold a key: those stay unseen.
    has_key = re.match(r"(?i)[<>] (?!Upgrade|Connection|Sec-WebSocket-[KVA])\S+: ", text)
    if note.levelno == logging.DEBUG and text.isprintable() and not has_key:
        print(f"{note.relativeCreated:6.0f} ms {text}")
    return note.levelno > logging.INFO  # warnings and errors go their usual way


def start_streamlit() -> None:
    """Do what `streamlit run speech_to_text_webrtc.py` does, for this computer only."""
    if os.environ.setdefault("STREAMLIT_SERVER_ADDRESS", "127.0.0.1") == "127.0.0.1":
        # Nor for pages that let a name of their own lead to it (DNS rebinding).
        os.environ.setdefault("STREAMLIT_SERVER_ALLOWED_HOSTS", "localhost 127.0.0.1")
    os.environ.setdefault("STREAMLIT_SERVER_SHOW_EMAIL_PROMPT", "false")
    os.environ.setdefault("STREAMLIT_BROWSER_GATHER_USAGE_STATS", "false")
    os.environ.setdefault("STREAMLIT_CLIENT_TOOLBAR_MODE", "viewer")  # no Deploy button
    # After each drawing Streamlit would search all memory for garbage. That took half a core.
    os.environ.setdefault("STREAMLIT_RUNNER_POST_SCRIPT_GC", "false")
    sys.argv[:1] = ["streamlit", "run", __file__]
    run_streamlit()


if st.runtime.exists():
    if os.environ.get("TRACE") == "1":
        Frame.MAX_LOG_SIZE = 300  # characters to show of a message
        logging.getLogger("websockets.client").setLevel(logging.DEBUG)
        logging.getLogger("websockets.client").filters = [trace]  # not one more for each run
    show_page()
elif __name__ == "__main__":
    start_streamlit()
