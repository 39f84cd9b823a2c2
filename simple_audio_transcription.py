#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "av>=18,<19",
#     "numpy>=2,<3",
#     "pyaudio>=0.2.14",
#     "websockets>=15,<18",
# ]
# ///
"""Lesson 7: live transcription, words that appear while you speak

What you learn
    How audio gets from a microphone's own thread into a program that also listens to a
    service, how both directions of one WebSocket are used at once, and how not a word
    is lost when the service goes away in the middle of a sentence.
Before you start
    A service in a first terminal: docker compose up faster-whisper
    Once: python -m pip install -r requirements.txt (README.md: what PyAudio needs first)
Run it
    In a second terminal:   python simple_audio_transcription.py
    Without a microphone:   python simple_audio_transcription.py --file samples/speech.wav
    To watch the wire:      TRACE=1 python simple_audio_transcription.py
    With lesson 5:          put  ws://127.0.0.1:8000/v1/realtime?intent=transcription  into
                            the environment variable WEBSOCKET_URL (README.md shows how)
    With OpenAI:            the same with wss://api.openai.com, and your key in OPENAI_API_KEY
    It asks which microphone and how long; Enter takes what stands in [ ]. Ctrl-C ends the
    recording and waits for the last words.
You should see
    [0:00] hello world
    [0:02] set a timer for three minutes
    0:06 ███░░░░░ go forward ten             this line changes while you speak
    and at the end:
    5 phrases, 17 words, 0:11 of audio.
Try next
    In write_finished_turns(), write turn.text.upper(). Then translate it, or draw it: one
    line is the place where spoken words enter your own work.
"""

import argparse
import asyncio
import base64
import json
import logging
import math
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import sys
import time
import wave
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unicodedata import east_asian_width

import av
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
from websockets.frames import Frame

URL = os.environ.get("WEBSOCKET_URL") or "ws://127.0.0.1:10300/v1/realtime?intent=transcription"
IS_LOCAL = URL.startswith(("ws://127.0.0.1:", "ws://localhost:"))
IS_OPENAI = URL.startswith("wss://api.openai.com/")  # nobody else is to see the key for it
API_KEY = os.environ.get("OPENAI_API_KEY" if IS_OPENAI else "API_KEY", "").strip()
MODEL = os.environ.get("TRANSCRIPTION_MODEL", "gpt-live-transcribe")  # at home there is only one
LANGUAGE = os.environ.get("TRANSCRIPTION_LANGUAGE", "en")  # empty: the service finds out
SAMPLE_RATE = int(os.environ.get("SAMPLE_RATE", "24000"))  # Hz, what OpenAI wants

CHUNK_MS = 40  # what a microphone hands over at a time; longer means that the text comes later
SILENCE_MS = 500  # a pause this long ends a turn
MAX_TURN_MS = 30_000  # and so does this much speech without a pause
QUIET = 0.02  # of full scale: softer than a voice (used where the service does not find pauses)
RETRY_S = 60  # a service that went away may take so long to come back
KEEP_S = 120  # audio kept to be sent again: a turn of 30 s, an outage of 60 s, and some more
ANSWER_S = 30  # the service may take so long to answer
PING_S = 10  # so often a ping asks whether the line still works; no pong for as long: it does not
PATIENCE_S = 3  # then a microphone that hears nothing is mentioned
BYTES_PER_MS = 2 * SAMPLE_RATE // 1000  # PCM16, mono: two bytes a sample

INSTALL_PYAUDIO = {  # by sys.platform
    "linux": "sudo apt install portaudio19-dev python3-dev gcc && pip install pyaudio",
    "darwin": "brew install portaudio && pip install --force-reinstall --no-cache-dir pyaudio",
    "win32": "pip install pyaudio   (with Python 3.13 or older: there is none for newer ones yet)",
}
ALLOW_MICROPHONE = {
    "linux": "pavucontrol, tab 'Input Devices', shows whether it is muted.",
    "darwin": "System Settings > Privacy & Security > Microphone: allow your terminal.",
    "win32": "Settings > Privacy & security > Microphone: let desktop apps use it.",
}
WITHOUT_MICROPHONE = "Without a microphone, --file samples/speech.wav works."

# ---------------------------------------------------------------------------- what is spoken


class Speech:
    """Audio (PCM16, mono, SAMPLE_RATE) that has no text yet, and the text of all before it.

    A position is a number of bytes since the beginning. Only the event loop may use this.
    """

    def __init__(self) -> None:
        self.resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        self.audio = bytearray()
        self.start = 0  # position of the first byte that is kept
        self.level = 0.0  # of the last chunk; 1 is as loud as it gets
        self.added_at = self.heard_at = time.monotonic()  # the last chunk, the last sound
        self.has_ended = asyncio.Event()
        self.news = asyncio.Event()  # there is more to read, or nothing ever again
        self.copy: wave.Wave_write | None = None  # for --save
        self.problem = ""  # why it ended too early
        self.partial = ""  # words that may still change
        self.phrases: list[str] = []

    @property
    def end(self) -> int:
        return self.start + len(self.audio)

    def add(self, frame: av.AudioFrame) -> None:
        """Take in audio of any sample rate and number of channels."""
        try:
            parts = self.resampler.resample(frame)
        except ValueError:  # a recording may become stereo on the way: begin anew
            self.resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            parts = self.resampler.resample(frame)
        for part in parts:
            pcm = part.to_ndarray().tobytes()
            self.audio += pcm
            if self.copy:
                self.copy.writeframes(pcm)
            self.level = loudness(pcm)
        self.added_at = time.monotonic()
        if self.level:
            self.heard_at = self.added_at
        self.forget(self.end - KEEP_S * 1000 * BYTES_PER_MS)
        self.news.set()

    def forget(self, position: int) -> None:
        """Drop the audio before a position: its text is there, or it was only silence."""
        if position > self.start:
            del self.audio[: position - self.start]
            self.start = position

    def finish(self) -> None:
        """End the recording. What was spoken is still written down."""
        self.has_ended.set()
        self.news.set()

    async def read(self, position: int) -> bytes:
        """Wait for audio at a position; return 100 ms of it at most, or b"" at the end."""
        while position >= self.end and not self.has_ended.is_set():
            self.news.clear()
            await self.news.wait()
        begin = max(0, position - self.start)  # what is no longer there is passed over
        return bytes(self.audio[begin : begin + 100 * BYTES_PER_MS])


def loudness(pcm: bytes) -> float:
    """Return the loudest sample of PCM16 audio, from 0 to 1."""
    return float(np.abs(np.frombuffer(pcm, "<i2").astype(int)).max(initial=0) / 32768)


def frames_in(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """Yield the sound of a recording; a damaged packet costs only what was said in it."""
    for packet in container.demux(audio=0):
        with suppress(av.FFmpegError):
            yield from packet.decode()


async def play_file(path: Path, speech: Speech) -> None:
    """Let a recording of any format speak, as fast as it was spoken. Raises OSError."""
    next_frame = time.monotonic()
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            for frame in frames_in(container):
                if speech.has_ended.is_set():
                    return
                speech.add(frame)
                next_frame += frame.samples / frame.sample_rate
                await asyncio.sleep(next_frame - time.monotonic())
    except (av.FFmpegError, IndexError) as error:
        if not speech.end:  # if it only breaks off, what came before was worth hearing
            raise OSError(f"{path} is no recording that can be read: {error}") from None


@contextmanager
def microphone(number: int | None, speech: Speech) -> Iterator[str]:
    """Let a microphone speak as long as the block lasts; yield its name. Raises OSError."""
    loop = asyncio.get_running_loop()

    def add(pcm: bytes) -> None:
        frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2")[None], layout="mono")
        frame.sample_rate = rate
        speech.add(frame)

    def callback(pcm: bytes, count: int, times: object, status: int) -> tuple[None, int]:
        """Hand a chunk over. PyAudio calls this in a thread of its own, so it must not wait.

        call_soon_threadsafe is the one thing of an event loop that another thread may touch.
        """
        loop.call_soon_threadsafe(add, pcm)
        return None, pyaudio.paContinue

    pyaudio = import_pyaudio()
    with silent_stderr():
        audio = pyaudio.PyAudio()
    try:
        if number is None:
            device = audio.get_default_input_device_info()
        else:
            device = audio.get_device_info_by_index(number)
        rate = int(device["defaultSampleRate"])  # any other might be refused
        with silent_stderr():
            stream = audio.open(
                format=pyaudio.paInt16,
                channels=1,
                rate=rate,
                input=True,
                input_device_index=number,
                frames_per_buffer=rate * CHUNK_MS // 1000,
                stream_callback=callback,
            )
        yield f"{device['name']}, {rate} Hz"
        stream.close()
    except OSError as error:
        raise OSError(
            f"Cannot record: {error}\n{ALLOW_MICROPHONE[sys.platform]}\n"
            "--list-devices shows which microphones there are, --device NUMBER chooses one.\n"
            f"{WITHOUT_MICROPHONE}"
        ) from None
    finally:
        audio.terminate()


# ------------------------------------------------------------------------------ the terminal


def count(things: list[str], name: str) -> str:
    """Return how many there are, as "1 word" or "2 words"."""
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def clock(position: int) -> str:
    """Return a position as minutes:seconds."""
    seconds = position // BYTES_PER_MS // 1000
    return f"{seconds // 60}:{seconds % 60:02}"


def write_line(text: str) -> None:
    """Print a line in place of the one that keeps changing."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r" + " " * width + "\r", end="")
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever read our lines has enough, as head has
        os._exit(0)


def last_columns(text: str, columns: int) -> str:
    """Return the end of a text, so that it fills columns. 字 takes two of them."""
    text = text[-columns:]
    while (width := sum(1 + (east_asian_width(letter) in "WF") for letter in text)) > columns:
        text = text[1:]
    return text + " " * (columns - width)


async def watch(speech: Speech, is_live: bool) -> None:
    """Keep the last line up to date, and mention a microphone that hears nothing."""
    while True:
        if sys.stdout.isatty():
            bar = "█" * round(8 * speech.level**0.5)  # the root, for ears work like that
            start = f"{clock(speech.end)} {bar:░<8} "
            room = shutil.get_terminal_size().columns - 1 - len(start)
            print(f"\r{start}{last_columns(speech.partial, room)}", end="", flush=True)
        now = time.monotonic()
        if is_live and speech.end and not speech.has_ended.is_set():
            if now - speech.added_at > PATIENCE_S:
                write_line("The microphone has stopped. Was it unplugged?")
                speech.finish()
            elif now - speech.heard_at > PATIENCE_S:
                write_line(f"The microphone is silent. {ALLOW_MICROPHONE[sys.platform]}")
                speech.heard_at = math.inf  # once is enough
        await asyncio.sleep(0.1)


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


async def configure(websocket: ClientConnection) -> bool:
    """Tell the service what will come; return whether it finds the pauses itself.

    All that may be asked for: https://developers.openai.com/api/docs/guides/realtime-transcription
    Raises RefusedError if the service refuses the key or a setting.
    """
    await wait_for(websocket, "session.created")
    language = {"languages": [LANGUAGE]} if LANGUAGE else {}
    vad: dict[str, object] | None = {"type": "server_vad", "silence_duration_ms": SILENCE_MS}
    while True:
        sound = {
            "format": {"type": "audio/pcm", "rate": SAMPLE_RATE},
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
            quiet_ms += len(pcm) // BYTES_PER_MS
        else:
            quiet_ms = 0
            if talk.voice_at is None and not talk.has_vad:
                talk.voice_at = talk.sent
        talk.sent += len(pcm)
        if talk.voice_at is not None:
            spoken_ms = (talk.sent - talk.voice_at) // BYTES_PER_MS
            if quiet_ms >= SILENCE_MS or spoken_ms >= MAX_TURN_MS:
                await commit(websocket, talk)
        if talk.sent < speech.start:
            lost_s = (speech.start - talk.sent) // BYTES_PER_MS // 1000
            write_line(f"The line or the service is too slow: {lost_s} s of sound are lost.")
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
    for turn in talk.turns.values():
        turn.text = turn.text or ""  # what is there is written, though something before it is not
    write_finished_turns(speech, talk)
    speech.problem = f"The service did not answer for {ANSWER_S} s: the last words are missing."
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
            update_turn(event, talk)
            write_finished_turns(speech, talk)
        elif event["type"] == "error":
            error = event["error"]
            if error.get("event_id") == "the-end":
                talk.is_complete = True
            elif error.get("code") != "input_audio_buffer_commit_empty":
                write_line(f"The service says: {error['message']}")
        if talk.is_complete and not talk.turns:
            return
    raise ConnectionResetError("the service closed the connection")


def update_turn(event: dict[str, Any], talk: Conversation) -> None:
    """Note what the service tells about a turn."""
    turn = talk.turns.get(event["item_id"]) or Turn(talk.sent)
    match event["type"]:
        case "input_audio_buffer.speech_started":
            turn.start = talk.zero + event["audio_start_ms"] * BYTES_PER_MS
        case "input_audio_buffer.speech_stopped":
            turn.end = talk.zero + event["audio_end_ms"] * BYTES_PER_MS
        case "input_audio_buffer.committed":
            if talk.commits and not turn.end:  # it was our commit that ended the turn
                start, turn.end = talk.commits.popleft()
                turn.start = min(turn.start, start)
        case "conversation.item.input_audio_transcription.delta":
            turn.partial += event["delta"]
        case "conversation.item.input_audio_transcription.completed":
            turn.text = event["transcript"].strip()
        case "conversation.item.input_audio_transcription.failed":
            write_line(f"[{clock(turn.start)}] No text: {event['error']['message']}")
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
            write_line(f"[{clock(turn.start)}] {turn.text}")
            speech.phrases.append(turn.text)
        speech.forget(turn.end)
        del talk.turns[item_id]
    speech.partial = " ".join(turn.partial for turn in talk.turns.values())


async def transcribe(speech: Speech, arguments: argparse.Namespace) -> None:
    """Begin to listen once the service is there, and find it again whenever it goes away."""
    listening: asyncio.Task[None] | None = None
    headers = {"Authorization": f"Bearer {API_KEY}"} if API_KEY else {}
    is_lost, give_up_at, pause_s = False, math.inf, 0.5
    while True:
        try:
            async with connect(
                URL,
                additional_headers=headers,
                compression=None,  # audio does not shrink, it only costs time
                ping_interval=PING_S,
                ping_timeout=PING_S,
                close_timeout=1,  # a service that has stalled must not hold us up
                # A proxy for web pages could not find a service on this computer.
                proxy=None if IS_LOCAL else True,
            ) as websocket:
                has_vad = await configure(websocket)
                talk = Conversation(speech.start, speech.start, has_vad)
                if listening:
                    write_line("The service is back. It now gets what it has missed.")
                else:
                    listening = asyncio.create_task(listen(speech, arguments))
                is_lost, back_at = False, time.monotonic()
                sending = asyncio.create_task(send_audio(websocket, speech, talk))
                try:
                    return await receive_text(websocket, speech, talk)
                finally:
                    sending.cancel()  # when one of two partners ends, so must the other
                    await asyncio.gather(sending, return_exceptions=True)
                    was_of_use = speech.start > talk.zero or time.monotonic() - back_at > RETRY_S
                    if was_of_use:
                        pause_s = 0.5
                    # After the end, one that only hangs up each time is as good as none.
                    if was_of_use or not speech.has_ended.is_set():
                        give_up_at = math.inf
        except TROUBLE as error:
            if speech.problem:
                return
            if not listening or time.monotonic() > give_up_at:
                raise SystemExit(explain(error)) from None
            give_up_at = min(give_up_at, time.monotonic() + RETRY_S)
            if not is_lost:
                is_lost = True
                write_line("The service is gone. Speak on: you will not be forgotten.")
        await asyncio.sleep(pause_s)
        pause_s = min(4, 2 * pause_s)


# ImportError: behind some proxies a package is needed that is not here.
TROUBLE = (OSError, WebSocketException, RefusedError, ValueError, LookupError, ImportError)
CORRECT_URL = "Is WEBSOCKET_URL right, to the end? It ends in /v1/realtime?intent=transcription."


def explain(error: Exception) -> str:
    """Return what is the matter with the service, and what to do about it."""
    if isinstance(error, RefusedError) and error.code == "invalid_api_key":
        remedy = "A key belongs into API_KEY, OpenAI's into OPENAI_API_KEY."
        return f"The service refuses the key: {error}\n{remedy}"
    if isinstance(error, RefusedError):
        return f"The service refuses: {error}"
    if isinstance(error, ImportError):
        return f"It does not work: {error}"
    if isinstance(error, json.JSONDecodeError | LookupError | TimeoutError):
        return f"What answers at {URL} is no transcription service ({error!r}). {CORRECT_URL}"
    if isinstance(error, ssl.SSLError):
        return (
            f"The certificate of {URL} cannot be trusted, or there is none.\n"
            "Name its file in SSL_CERT_FILE. Without one: ws:// in place of wss://."
        )
    if isinstance(error, InvalidURI | ValueError):
        return f"{URL} is no WebSocket address: those begin with ws:// or wss://. {CORRECT_URL}"
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        return f"{URL} answers with HTTP status {status}. {CORRECT_URL}"
    if isinstance(error, WebSocketException):
        return f"What answers at {URL} is no WebSocket server ({error!r}). {CORRECT_URL}"
    for port in (10300, 8000):  # Docker's and fastapi_example.py's
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            setting = f'WEBSOCKET_URL="ws://127.0.0.1:{port}/v1/realtime?intent=transcription"'
            setting = f"$env:{setting};" if sys.platform == "win32" else setting
            command = f"{setting} python {shlex.join(sys.argv)}"
            return f"Nothing answers at {URL}, but there is a service at port {port}:\n{command}"
    return (
        f"Nothing answers at {URL}. Start the service in another terminal:\n"
        "    docker compose up faster-whisper      or, without Docker:  python fastapi_example.py"
    )


# ---------------------------------------------------------------------------------- the start


def import_pyaudio() -> ModuleType:
    """Import PyAudio only where there is something to record: --file works without it."""
    try:
        import pyaudio
    except ImportError as error:
        remedy = INSTALL_PYAUDIO[sys.platform]
        raise SystemExit(f"PyAudio does not work: {error}\n{remedy}") from None
    return pyaudio


@contextmanager
def silent_stderr() -> Iterator[None]:
    """On Linux, starting PyAudio prints a page of ALSA warnings. They mean nothing: hide them."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def find_microphones() -> dict[int, str]:
    """Return the number and the name of each microphone."""
    with silent_stderr():
        audio = import_pyaudio().PyAudio()
    microphones = {}
    for number in range(audio.get_device_count()):
        device = audio.get_device_info_by_index(number)
        if device["maxInputChannels"] > 0:
            microphones[number] = str(device["name"])
    audio.terminate()
    return microphones


def ask(question: str, default: str, is_possible: Callable[[str], bool]) -> str:
    """Ask until the answer makes sense. Enter alone means the default."""
    while True:
        answer = input(f"{question} [{default}] ").strip() or default
        if answer == default or is_possible(answer):
            return answer
        print(f"  {answer} is not possible.")


def is_duration(text: str) -> bool:
    """Tell whether a text is a number of seconds above 0."""
    return text.replace(".", "", 1).isdecimal() and float(text) > 0


async def listen(speech: Speech, arguments: argparse.Namespace) -> None:
    """Take in a file or a microphone, until it is over or somebody presses Ctrl-C."""
    try:
        if arguments.file:
            await play_file(arguments.file, speech)
        else:
            with microphone(arguments.device, speech) as name:
                seconds = arguments.seconds
                write_line(f"{name}. Speak! {seconds:g} s, or until you press Ctrl-C.")
                with suppress(TimeoutError):
                    await asyncio.wait_for(speech.has_ended.wait(), seconds)
    except OSError as error:
        speech.problem = str(error)
    finally:
        speech.finish()


async def run(arguments: argparse.Namespace) -> None:
    """Transcribe, and tell at the end what came of it."""
    speech, loop = Speech(), asyncio.get_running_loop()

    def stop(*_: object) -> None:
        loop.call_soon_threadsafe(speech.finish)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C: at once

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    watching = asyncio.create_task(watch(speech, is_live=not arguments.file))
    if arguments.save:
        speech.copy = wave.open(str(arguments.save), "wb")  # noqa: SIM115 (closed below)
        speech.copy.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
    try:
        await transcribe(speech, arguments)
    finally:
        watching.cancel()
        if speech.copy:
            speech.copy.close()
    words = " ".join(speech.phrases).split()
    said = f"{count(speech.phrases, 'phrase')}, {count(words, 'word')}"
    write_line(f"{said}, {clock(speech.end)} of audio.")
    if speech.problem:
        raise SystemExit(speech.problem)


def trace(note: logging.LogRecord) -> bool:
    """Print what travels: > goes out, < comes in, = is the state. The library notes it all."""
    text = re.sub(r"^(. GET [^?]+\?)\S*", r"\1...", note.getMessage())
    text = re.sub(r'(?<="audio": ")[^"]+', "...", text)
    # An address, after its question mark, and most headers may hold a key: those stay unseen.
    has_key = re.match(r"(?i)[<>] (?!Upgrade|Connection|Sec-WebSocket-[KVA])\S+: ", text)
    if note.levelno == logging.DEBUG and text.isprintable() and not has_key:
        write_line(f"{note.relativeCreated:6.0f} ms {text}")
    return note.levelno > logging.INFO  # warnings and errors go their usual way


def main() -> None:
    """Read the command line, ask for what is not there, and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", type=int, help="number of the microphone")
    parser.add_argument("--seconds", type=float, help="how long to listen (30)")
    parser.add_argument("--file", type=Path, help="a recording that speaks instead")
    parser.add_argument("--save", type=Path, help="keep what was spoken, as a WAV file")
    parser.add_argument("--list-devices", action="store_true", help="list the microphones")
    arguments = parser.parse_args()
    if arguments.save and arguments.file and arguments.save.resolve() == arguments.file.resolve():
        parser.error("--save and --file are the same file")
    if arguments.save:
        try:
            arguments.save.open("ab").close()
        except OSError as error:
            parser.error(f"--save {arguments.save}: {error.strerror}")
    if arguments.seconds is not None and not arguments.seconds > 0:
        parser.error("--seconds: it must be a number above 0")
    if not (API_KEY.isascii() and API_KEY.isprintable()):
        raise SystemExit("Your key holds a letter that no key has. Copy it once more.")
    if not arguments.file:
        import_pyaudio()  # if it is missing, say so before anything else
    is_asking = sys.stdin.isatty() and not arguments.file
    if arguments.list_devices or (is_asking and arguments.device is None):
        microphones = find_microphones()
        for number, name in microphones.items():
            print(f"{number:3}  {name}")
        if not microphones:
            raise SystemExit(f"There is no microphone. {WITHOUT_MICROPHONE}")
        if arguments.list_devices:
            return
        numbers = [str(number) for number in microphones]
        answer = ask(
            "Which microphone? Its number, or Enter for", "default", lambda text: text in numbers
        )
        arguments.device = None if answer == "default" else int(answer)
    if is_asking and arguments.seconds is None:
        arguments.seconds = float(ask("How many seconds? Enter for", "30", is_duration))
    arguments.seconds = arguments.seconds or 30
    if os.environ.get("TRACE") == "1":
        Frame.MAX_LOG_SIZE = 300  # characters to show of a message
        logging.getLogger("websockets.client").setLevel(logging.DEBUG)
        logging.getLogger("websockets.client").addFilter(trace)
    asyncio.run(run(arguments))


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without █ shows a question mark
    try:
        main()
    except (KeyboardInterrupt, EOFError):
        print("\nStopped.")
