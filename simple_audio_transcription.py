#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "av>=14",
#     "numpy>=2",
#     "pyaudio>=0.2.14",
#     "websockets>=15,<18",
# ]
# ///
"""Lesson 7: live transcription. The words appear while you speak.

What you learn
    How audio gets from a microphone's own thread into a program that also listens to a
    server, how both directions of one WebSocket are used at once, and how not a word
    is lost when the server goes away in the middle of a sentence.

Before you start
    pip install -r requirements.txt         (see README.md for what PyAudio needs first)
    docker compose up faster-whisper        (the service, in another terminal)

Run it (in a terminal)
    python simple_audio_transcription.py                               asks what it needs
    python simple_audio_transcription.py --file samples/speech.wav     without a microphone

    Other services: WEBSOCKET_URL=ws://127.0.0.1:8000/v1/realtime?intent=transcription is
    fastapi_example.py; the same with wss://api.openai.com is OpenAI, which wants your
    key in OPENAI_API_KEY. Ctrl-C ends the recording and waits for the last words.

You should see
    [0:00] hello world
    [0:02] set a timer for three minutes
    0:06 ███░░░░░ go forward ten             this line changes while you speak
    ...
    5 phrases, 13 words, 0:11 of audio.

Try next
    In write_line(), print text.upper(). Then translate it, or draw it: one line is the
    place where spoken words enter your own work.
"""

import argparse
import asyncio
import base64
import json
import math
import os
import shutil
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import av
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException

URL = os.environ.get("WEBSOCKET_URL", "ws://127.0.0.1:10300/v1/realtime?intent=transcription")
API_KEY = os.environ.get("API_KEY") or os.environ.get("OPENAI_API_KEY", "")
MODEL = os.environ.get("TRANSCRIPTION_MODEL", "gpt-live-transcribe")  # at home there is only one
LANGUAGE = os.environ.get("LANGUAGE", "en")  # two letters; empty: the service finds out
SAMPLE_RATE = int(os.environ.get("SAMPLE_RATE", "24000"))  # Hz, as OpenAI wants it

CHUNK_MS = 40  # audio per message: shorter means more messages, longer means a later text
SILENCE_MS = 500  # a pause this long ends a phrase
QUIET = 0.02  # of full scale; softer sounds count as a pause where the service has no VAD
DEFAULT_SECONDS = 30
KEEP_S = 120  # how much speech without a text is kept, to be sent again after a failure
KEEP_SILENCE_S = 10  # how much of a silence is kept, since a voice is noticed a little late
RETRY_S = 60  # so long a lost service may take to come back
ANSWER_S = 20  # so long it may take to write down the last words
PATIENCE_S = 3  # a microphone that says nothing for so long gets a remark
BYTES_PER_S = 2 * SAMPLE_RATE  # PCM16, mono
LOCAL_PORTS = (10300, 8000)  # of the service in Docker and of fastapi_example.py

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


# ---------------------------------------------------------------------------- what is spoken


class Speech:
    """Audio that has no text yet, and the text of what came before it.

    The audio is PCM16, mono, at SAMPLE_RATE. A position in it is a number of bytes since the
    beginning. Nothing here is safe to call from another thread.
    """

    def __init__(self) -> None:
        self.audio = bytearray()
        self.start = 0  # position of the first byte of audio
        self.level = 0.0  # of the last chunk; 1 is as loud as it gets
        self.heard_at = self.added_at = time.monotonic()  # last sound, last chunk
        self.has_ended = asyncio.Event()
        self.news = asyncio.Event()
        self.lost = 0  # bytes
        self.partial = ""  # what is being said just now
        self.phrases: list[str] = []

    @property
    def end(self) -> int:
        return self.start + len(self.audio)

    def add(self, pcm: bytes) -> None:
        if self.has_ended.is_set():
            return
        self.audio += pcm
        self.level = loudness(pcm)
        self.added_at = time.monotonic()
        if self.level:
            self.heard_at = self.added_at
        too_much = len(self.audio) - KEEP_S * BYTES_PER_S
        if too_much > 0:
            self.lost += too_much
            self.forget(self.start + too_much)
        self.news.set()

    def forget(self, position: int) -> None:
        """Drop the audio before a position, because its text is there."""
        if position > self.start:
            del self.audio[: position - self.start]
            self.start = position

    def finish(self) -> None:
        """Take in nothing more. What is there is still sent and written down."""
        self.has_ended.set()
        self.news.set()

    async def read(self, position: int) -> bytes:
        """Wait for audio at a position and return at most 100 ms of it, or b"" at the end."""
        while position >= self.end and not self.has_ended.is_set():
            self.news.clear()
            await self.news.wait()
        begin = max(0, position - self.start)
        return bytes(self.audio[begin : begin + BYTES_PER_S // 10])


def loudness(pcm: bytes) -> float:
    """Return the loudest sample of PCM16 audio, from 0 to 1."""
    return float(np.abs(np.frombuffer(pcm, "<i2").astype(int)).max(initial=0) / 32768)


def new_resampler() -> av.AudioResampler:
    """Return what makes PCM16 mono at SAMPLE_RATE of anything: one for each source."""
    return av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)


async def play_file(path: Path, speech: Speech) -> None:
    """Speak a recording of any format and sample rate, at the speed at which it was spoken."""
    resampler = new_resampler()
    begin, seconds = time.monotonic(), 0.0
    with av.open(str(path), metadata_errors="ignore") as container:
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                speech.add(part.to_ndarray().tobytes())
                seconds += part.samples / SAMPLE_RATE
                await asyncio.sleep(begin + seconds - time.monotonic())
    speech.finish()


@contextmanager
def microphone(device: int | None, speech: Speech) -> Iterator[str]:
    """Let a microphone speak, as long as the block lasts; yield its name."""
    pyaudio = import_pyaudio()
    loop, resampler = asyncio.get_running_loop(), new_resampler()

    def add(data: bytes) -> None:
        frame = av.AudioFrame.from_ndarray(np.frombuffer(data, "<i2")[None], "s16", "mono")
        frame.sample_rate = rate
        for part in resampler.resample(frame):
            speech.add(part.to_ndarray().tobytes())

    def callback(data: bytes, frames: int, times: object, status: int) -> tuple[None, int]:
        """PyAudio calls this in a thread of its own. It must be quick, and may touch nothing:

        call_soon_threadsafe hands the audio over to the event loop, and wakes it up.
        """
        loop.call_soon_threadsafe(add, data)
        return None, pyaudio.paContinue

    with silent_stderr():
        audio = pyaudio.PyAudio()
    try:
        if device is None:
            info = audio.get_default_input_device_info()
        else:
            info = audio.get_device_info_by_index(device)
        rate = int(info["defaultSampleRate"])  # any other might be refused; we resample
        with silent_stderr():
            stream = audio.open(
                format=pyaudio.paInt16,
                channels=1,
                rate=rate,
                input=True,
                input_device_index=device,
                frames_per_buffer=rate * CHUNK_MS // 1000,
                stream_callback=callback,
            )
        yield f"{info['name']}, {rate} Hz"
        stream.close()
    except OSError as error:
        raise SystemExit(
            f"Cannot record: {error}\n{ALLOW_MICROPHONE[sys.platform]}\n"
            "--list-devices shows what there is, --device NUMBER chooses."
        ) from None
    finally:
        audio.terminate()


# ------------------------------------------------------------------------------ the terminal


def clock(position: int) -> str:
    return f"{position // BYTES_PER_S // 60}:{position // BYTES_PER_S % 60:02}"


def write_line(text: str) -> None:
    """Print a line in place of the one that changes."""
    width = shutil.get_terminal_size().columns - 1
    print("\r" + " " * width + "\r" + text if sys.stdout.isatty() else text, flush=True)


def write_status(start: str, words: str) -> None:
    """Overwrite the last line. Where it is too long, the newest words are what matters."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r" + (start + words[len(start) - width :]).ljust(width), end="", flush=True)


async def watch(speech: Speech, is_live: bool) -> None:
    """Keep the last line up to date, and notice a microphone that hears nothing."""
    while True:
        bar = "█" * round(speech.level**0.5 * 8)  # the square root, because ears work like that
        write_status(f"{clock(speech.end)} {bar:░<8} ", speech.partial)
        now = time.monotonic()
        if is_live and speech.end and not speech.has_ended.is_set():
            if now - speech.added_at > PATIENCE_S:
                write_line("The microphone has stopped. Was it unplugged?")
                speech.finish()
            elif now - speech.heard_at > PATIENCE_S:
                write_line(f"The microphone is silent. {ALLOW_MICROPHONE[sys.platform]}")
                speech.heard_at = math.inf  # say it once
        await asyncio.sleep(0.1)


# ------------------------------------------------------------------------------- the service


@dataclass
class Turn:
    """A phrase at the service: where it starts and ends, and its text once that is there."""

    start: int
    end: int = 0
    partial: str = ""
    text: str | None = None


@dataclass
class Conversation:
    """What is known about one connection. After a failure the next one begins anew."""

    zero: int  # position at which the service's clock stood at 0 ms
    sent: int  # position up to which everything is sent
    has_vad: bool  # True: the service finds the pauses; False: we do, and commit
    turns: dict[str, Turn] = field(default_factory=dict)  # by item_id, in the order of speaking
    commits: deque[tuple[int, int]] = field(default_factory=deque)  # from where to where
    voice_at: int | None = None  # without VAD: where somebody began to speak
    is_complete: bool = False  # the service has heard all there is


class RefusedError(Exception):
    """The service answers, but will not work for us."""


async def send(websocket: ClientConnection, kind: str, **fields: object) -> None:
    await websocket.send(json.dumps({"type": kind, **fields}))


async def configure(websocket: ClientConnection) -> bool:
    """Tell the service what we will send; return whether it finds the pauses itself."""
    transcription = {"model": MODEL} | ({"languages": [LANGUAGE]} if LANGUAGE else {})
    vad: dict[str, object] | None = {"type": "server_vad", "silence_duration_ms": SILENCE_MS}
    while True:
        sound = {
            "format": {"type": "audio/pcm", "rate": SAMPLE_RATE},
            "transcription": transcription,
            "turn_detection": vad,
        }
        session = {"type": "transcription", "audio": {"input": sound}}
        await send(websocket, "session.update", session=session)
        event = json.loads(await asyncio.wait_for(websocket.recv(), ANSWER_S))
        while event["type"] not in ("session.updated", "error"):
            event = json.loads(await asyncio.wait_for(websocket.recv(), ANSWER_S))
        if event["type"] == "session.updated":
            return vad is not None
        error = event["error"]
        if not vad or error.get("param") != "session.audio.input.turn_detection":
            raise RefusedError(error["message"])
        vad = None  # OpenAI's live models leave the pauses to us


async def send_audio(websocket: ClientConnection, speech: Speech, talk: Conversation) -> None:
    """Send all that is spoken, then ask for the text of what is left."""
    pause = 0  # bytes
    sent_at: deque[tuple[float, int]] = deque()  # when which position was sent
    while pcm := await speech.read(talk.sent):
        if speech.start > talk.sent:  # too far behind: the oldest audio is gone
            talk.zero += speech.start - talk.sent
            talk.sent = speech.start
        await send(websocket, "input_audio_buffer.append", audio=base64.b64encode(pcm).decode())
        talk.sent += len(pcm)

        if not talk.has_vad:
            is_quiet = loudness(pcm) < QUIET
            pause = pause + len(pcm) if is_quiet else 0
            if not is_quiet and talk.voice_at is None:
                talk.voice_at = talk.sent - len(pcm)
            elif talk.voice_at is not None and pause >= SILENCE_MS * BYTES_PER_S // 1000:
                await commit(websocket, talk)

        now = time.monotonic()
        sent_at.append((now, talk.sent))
        while sent_at[0][0] < now - KEEP_SILENCE_S:
            _, position = sent_at.popleft()
            if not talk.turns and talk.voice_at is None:  # by now we would know of a voice
                speech.forget(position)

    await commit(websocket, talk)
    # There is nothing left to commit now, so this is refused. Events are answered in order:
    # the refusal tells that the service has heard everything.
    await send(websocket, "input_audio_buffer.commit", event_id="the-end")
    await asyncio.sleep(ANSWER_S)
    raise SystemExit("The service does not answer any more.")


async def commit(websocket: ClientConnection, talk: Conversation) -> None:
    """Ask for the text of all that was sent since the last commit."""
    start = talk.sent if talk.voice_at is None else talk.voice_at
    talk.commits.append((start, talk.sent))
    talk.voice_at = None
    await send(websocket, "input_audio_buffer.commit")


async def receive_text(websocket: ClientConnection, speech: Speech, talk: Conversation) -> None:
    """Show what the service understands, until it has understood everything."""
    async for message in websocket:
        event = json.loads(message)
        item_id = event.get("item_id", "")
        turn = talk.turns.get(item_id) or Turn(
            talk.sent if talk.voice_at is None else talk.voice_at
        )
        if item_id:
            talk.turns[item_id] = turn
        match event["type"]:
            case "input_audio_buffer.speech_started":
                turn.start = talk.zero + event["audio_start_ms"] * BYTES_PER_S // 1000
            case "input_audio_buffer.speech_stopped":
                turn.end = talk.zero + event["audio_end_ms"] * BYTES_PER_S // 1000
            case "input_audio_buffer.committed" if not turn.end and talk.commits:
                turn.start, turn.end = talk.commits.popleft()
            case "conversation.item.input_audio_transcription.delta":
                turn.partial += event["delta"]
            case "conversation.item.input_audio_transcription.completed":
                turn.text = event["transcript"].strip()
            case "conversation.item.input_audio_transcription.failed":
                turn.text = f"(no text: {event['error']['message']})"
            case "error" if event["error"].get("event_id") == "the-end":
                talk.is_complete = True
            case "error" if event["error"].get("code") != "input_audio_buffer_commit_empty":
                write_line(f"The service says: {event['error']['message']}")
        write_finished_turns(speech, talk)
        if talk.is_complete and not talk.turns:
            return
    raise ConnectionResetError("the service closed the connection")


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
    """Start to speak once the service is there, and find it again each time it goes away."""
    speaking: asyncio.Task[None] | None = None
    headers = {"Authorization": f"Bearer {API_KEY}"} if API_KEY else {}
    give_up_at, pause = 0.0, 0.5  # s
    while True:
        try:
            async with connect(URL, additional_headers=headers, compression=None) as websocket:
                talk = Conversation(speech.start, speech.start, await configure(websocket))
                if speaking:
                    write_line("The service is back. It gets what it has missed.")
                speaking = speaking or asyncio.create_task(speak(speech, arguments))
                give_up_at, pause = 0.0, 0.5
                sending = asyncio.create_task(send_audio(websocket, speech, talk))
                try:
                    return await receive_text(websocket, speech, talk)
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
        except (OSError, WebSocketException, RefusedError, ValueError, KeyError) as error:
            speech.partial = ""
            if not speaking:
                raise SystemExit(explain(error)) from None
            if not give_up_at:
                write_line("The service is gone. Go on speaking: nothing is lost for a while.")
                give_up_at = time.monotonic() + RETRY_S
            elif time.monotonic() > give_up_at:
                raise SystemExit(explain(error)) from None
        await asyncio.sleep(pause)
        pause = min(5, 2 * pause)


def explain(error: Exception) -> str:
    """Return what is the matter with the service, and what to do about it."""
    match error:
        case RefusedError():
            return f"The service refuses: {error}\nA key belongs into API_KEY or OPENAI_API_KEY."
        case InvalidURI():
            return f"{URL} is no WebSocket address. Those begin with ws:// or wss://."
        case InvalidStatus():
            status = error.response.status_code
            return f"{URL} answers with HTTP status {status}. Is all of WEBSOCKET_URL right?"
        case OSError() if not isinstance(error, TimeoutError):
            pass
        case _:
            return f"What answers at {URL} is no transcription service ({error!r})."
    for port in LOCAL_PORTS:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            url = f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription"
            setting = (
                f'$env:WEBSOCKET_URL="{url}";' if os.name == "nt" else f'WEBSOCKET_URL="{url}"'
            )
            remedy = f"{setting} python simple_audio_transcription.py"
            return f"Nothing answers at {URL}, but at port {port} there is a service:\n    {remedy}"
    return (
        f"Nothing answers at {URL}.\nStart the service in another terminal:\n"
        "    docker compose up faster-whisper     or, without Docker,     python fastapi_example.py"
    )


# ---------------------------------------------------------------------------------- the start


def import_pyaudio() -> ModuleType:
    """Import PyAudio only where there is something to record: --file works without it."""
    try:
        import pyaudio
    except ImportError as error:
        install = INSTALL_PYAUDIO[sys.platform]
        raise SystemExit(f"PyAudio does not work: {error}\n{install}") from None
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


def find_devices() -> dict[int, str]:
    """Return the number and name of every microphone."""
    pyaudio = import_pyaudio()
    with silent_stderr():
        audio = pyaudio.PyAudio()
    devices = [audio.get_device_info_by_index(i) for i in range(audio.get_device_count())]
    audio.terminate()
    return {int(d["index"]): str(d["name"]) for d in devices if int(d["maxInputChannels"]) > 0}


def ask(question: str, default: str, is_valid: Callable[[str], bool]) -> str:
    """Ask until the answer makes sense. Enter alone means the default."""
    while True:
        answer = input(f"{question} [{default}] ").strip() or default
        if answer == default or is_valid(answer):
            return answer
        print(f"  {answer!r} is not possible.")


def is_duration(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal() and float(text) > 0


async def speak(speech: Speech, arguments: argparse.Namespace) -> None:
    """Let the file or the microphone speak, until it is over or somebody presses Ctrl-C."""
    if arguments.file:
        await play_file(arguments.file, speech)
    else:
        with microphone(arguments.device, speech) as name:
            write_line(f"{name}. Speak! {arguments.seconds:g} s, or until you press Ctrl-C.")
            with suppress(TimeoutError):
                await asyncio.wait_for(speech.has_ended.wait(), arguments.seconds)
    speech.finish()


async def run(arguments: argparse.Namespace) -> None:
    """Transcribe, and tell at the end what came of it."""
    speech, loop = Speech(), asyncio.get_running_loop()

    def stop(*_: object) -> None:
        loop.call_soon_threadsafe(speech.finish)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C means: now

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    watching = asyncio.create_task(watch(speech, is_live=not arguments.file))
    try:
        await transcribe(speech, arguments)
    finally:
        watching.cancel()
        words = sum(len(phrase.split()) for phrase in speech.phrases)
        write_line(f"{len(speech.phrases)} phrases, {words} words, {clock(speech.end)} of audio.")
        if speech.lost:
            write_line(
                f"{speech.lost / BYTES_PER_S:.0f} s were lost: the service was away too long."
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", type=int, help="number of the microphone")
    parser.add_argument("--seconds", type=float, help=f"how long to listen ({DEFAULT_SECONDS})")
    parser.add_argument("--file", type=Path, help="a recording to play instead")
    parser.add_argument("--save", type=Path, help="keep what was said in this WAV file")
    parser.add_argument("--list-devices", action="store_true", help="list the microphones")
    arguments = parser.parse_args()
    is_asking = sys.stdin.isatty() and not arguments.file
    if arguments.list_devices or (is_asking and arguments.device is None):
        devices = find_devices()
        for number, name in devices.items():
            print(f"{number:3}  {name}")
        if arguments.list_devices:
            return
        chosen = ask("Which microphone?", "default", lambda text: text in map(str, devices))
        arguments.device = None if chosen == "default" else int(chosen)
    if is_asking and arguments.seconds is None:
        arguments.seconds = float(ask("How many seconds?", str(DEFAULT_SECONDS), is_duration))
    arguments.seconds = arguments.seconds or DEFAULT_SECONDS
    asyncio.run(run(arguments))


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # where there is no █ there is a question mark
    try:
        main()
    except (KeyboardInterrupt, EOFError):
        print("\nStopped.")
