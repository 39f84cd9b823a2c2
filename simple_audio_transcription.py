#!/usr/bin/env -S uv run --script
# For uv: `uv run NAME.py` installs what this block lists.
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "av>=18,<19",
#     "numpy>=2,<3",
#     "pyaudio>=0.2.14",
#     "rich>=14,<16",
#     "websockets>=15,<18",
# ]
# ///
"""Lesson 7: live transcription, words that appear while you speak

What you learn
    How sound gets from a microphone's own thread into asyncio, how one WebSocket carries sound
    out and text back at the same time, and how nothing you say is lost when the service dies:
    microphone > callback() > Speech > send_audio() > service > receive_text() > use_phrase()
Before you start
    In a first terminal: docker compose up faster-whisper    or: python fastapi_example.py
    Once: python -m pip install -r requirements.txt (README.md: what PyAudio needs first)
Run it
    In a second terminal:  python simple_audio_transcription.py
    Without a microphone:  python simple_audio_transcription.py --file samples/speech.wav
    To watch the wire:     TRACE=1 python simple_audio_transcription.py
    With OpenAI:           set WEBSOCKET_URL and OPENAI_API_KEY: see docs/openai.md
    It asks which microphone and how long. Ctrl-C ends the recording and waits for the last words.
You should see
    [0:00] hello world
    [0:02] set a timer for three minutes
    0:06 ███░░░░░ go forward ten             this line changes while you speak
Try next
    Make the words your own. Change the last line of use_phrase() to
        print(f"[{clock(start)}] {phrase.upper()}", flush=True)
    Then draw them, translate them, or send them to the server of lesson 1.
"""

import asyncio
import base64
import json
import logging
import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections import defaultdict
from contextlib import closing, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import av
import numpy as np
from rich.live import Live
from rich.prompt import FloatPrompt, IntPrompt
from rich.text import Text
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import Frame

NO_PYAUDIO = ""
try:
    import pyaudio
except ImportError as error:  # --file works without it
    NO_PYAUDIO = f"PyAudio does not work: {error}"

# The first service that answers is used: the one in Docker, or lesson 5.
LOCAL = [f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription" for port in (10300, 8000)]
URLS = [os.environ["WEBSOCKET_URL"]] if os.environ.get("WEBSOCKET_URL") else LOCAL
KEY_NAME = "OPENAI_API_KEY" if URLS[0].startswith("wss://api.openai.com/") else "API_KEY"
KEY = os.environ.get(KEY_NAME, "").strip()
MODEL = os.environ.get("TRANSCRIPTION_MODEL", "gpt-live-transcribe")  # local services have only one
LANGUAGE = os.environ.get("TRANSCRIPTION_LANGUAGE", "")  # "en", "de" …; empty: the service decides

SAMPLE_RATE = 24_000  # Hz; OpenAI accepts no other
CHUNK_MS = 40  # sound travels in pieces this long; longer ones would delay the words
CHUNK = SAMPLE_RATE * CHUNK_MS // 1000  # samples
SILENCE_MS = 500  # a pause this long ends a phrase
LONGEST_MS = 30_000  # and so does this much speech without a pause
QUIET = 0.02  # of full scale; anything softer is not a voice
LAST_WORDS_S = 120  # how long to wait for the last words after the recording has ended


def use_phrase(phrase: str, start: int) -> None:
    """Do something with what was said. This is where your own project can begin."""
    print(f"[{clock(start)}] {phrase}", flush=True)


class Speech:
    """Everything that is said, in chunks, and how much of it has become text.

    A position is the number of a chunk. Chunks are never thrown away (they take 3 MB a minute),
    so those without text can be sent again when a service dies.
    """

    def __init__(self) -> None:
        self.resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE, CHUNK)
        self.chunks: list[bytes] = []  # PCM16: two bytes a sample
        self.has_ended = False
        self.news = asyncio.Event()  # another chunk, or the end
        self.understood = 0  # everything before this position has its text
        self.partial = ""  # words that may still change
        self.has_vad = True  # the service finds the pauses (voice activity detection)
        self.commits: list[tuple[int, int]] = []  # if not: the phrases we found, start and end
        self.reported: set[str] = set()

    def add(self, frame: av.AudioFrame | None) -> None:
        """Cut sound of any sample rate into chunks. None means that there is no more."""
        if not self.has_ended:
            self.chunks += [part.to_ndarray().tobytes() for part in self.resampler.resample(frame)]
            self.has_ended = frame is None
            self.news.set()

    async def chunk_at(self, position: int) -> bytes:
        """Return a chunk; wait for it if nobody has said it yet. b"" is the end."""
        while position >= len(self.chunks) and not self.has_ended:
            self.news.clear()
            await self.news.wait()
        return self.chunks[position] if position < len(self.chunks) else b""

    def report(self, problem: str) -> None:
        """Print a problem, but not again before the next phrase has shown that it is over."""
        if problem not in self.reported:
            self.reported.add(problem)
            print(problem, flush=True)

    def __rich__(self) -> Text:
        """Return the line that changes while you speak. Rich asks for it ten times a second."""
        loud = loudness(self.chunks[-1]) if self.chunks else 0
        bar = "█" * round(8 * loud**0.5)  # the square root, because that is how ears work
        state = "waiting for the last words:" if self.has_ended else f"{bar:░<8}"
        return Text(f"{clock(len(self.chunks))} {state} {self.partial}")


async def record(speech: Speech, device: int | None, seconds: float) -> None:
    """Listen to a microphone until the time is up, or until Ctrl-C cancels this."""

    def callback(pcm: bytes | None, count: int, *_: object) -> tuple[None, int]:
        """Hand sound over. PyAudio calls this in a thread of its own, so it must never wait."""
        mono = np.frombuffer(pcm or b"", np.int16).reshape(count, -1).mean(axis=1)
        frame = av.AudioFrame.from_ndarray(mono.astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = rate
        loop.call_soon_threadsafe(speech.add, frame)  # the only safe way in from another thread
        return None, pyaudio.paContinue

    loop, audio = asyncio.get_running_loop(), pyaudio.PyAudio()
    try:
        if device is None:
            microphone = audio.get_default_input_device_info()
        else:  # open() would crash if there is no such number, but this raises OSError
            microphone = audio.get_device_info_by_index(device)
        rate = int(microphone["defaultSampleRate"])  # many refuse any other
        stream = audio.open(
            rate=rate,
            channels=min(2, int(microphone["maxInputChannels"])),  # some refuse to be mono
            format=pyaudio.paInt16,
            input=True,
            input_device_index=device,
            frames_per_buffer=rate // 50,  # 20 ms: half a chunk, so that none waits for long
            stream_callback=callback,
        )
    except OSError as error:
        raise SystemExit(f"Cannot record: {error}\n{MICROPHONE_HELP}") from None
    with closing(stream), suppress(TimeoutError):
        print(f"{microphone['name']}, {rate} Hz. Speak! {seconds:g} s, or until you press Ctrl-C.")
        async with asyncio.timeout(seconds):
            await watch(speech)


async def send_audio(websocket: ClientConnection, speech: Speech) -> None:
    """Send what is said, chunk by chunk. If the service does not look for pauses, we do."""
    position, quiet_ms = speech.understood, 0
    phrase: int | None = None  # the position where somebody began to speak
    while chunk := await speech.chunk_at(position):
        audio = base64.b64encode(chunk).decode()
        await websocket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        quiet_ms = 0 if loudness(chunk) > QUIET else quiet_ms + CHUNK_MS
        if phrase is None and quiet_ms == 0:
            phrase = position
        position += 1
        if phrase is None or speech.has_vad:
            continue
        if quiet_ms >= SILENCE_MS or (position - phrase) * CHUNK_MS >= LONGEST_MS:
            speech.commits.append((phrase, position))
            await websocket.send(json.dumps({"type": "input_audio_buffer.commit"}))
            phrase = None
    speech.commits.append((phrase or speech.understood, position))
    await websocket.send(json.dumps({"type": "input_audio_buffer.commit"}))
    # Events are answered in order, so the answer to this one means: all of it has been heard.
    await websocket.send(json.dumps({"type": "input_audio_buffer.clear"}))


@dataclass
class Turn:
    """What is said between two pauses: the positions where it starts and ends, and its text."""

    start: int = 0
    end: int = 0
    text: str = ""
    is_final: bool = False


async def receive_text(websocket: ClientConnection, speech: Speech) -> None:
    """Show words while the service is still guessing, and use each phrase once it is final."""
    zero = speech.understood  # where the clock of this connection starts
    turns: dict[str, Turn] = defaultdict(Turn)  # by item_id, in the order of speaking
    has_heard_all = False
    while turns or not has_heard_all:
        event = json.loads(await websocket.recv())
        item = event.get("item_id")
        match event["type"]:
            case "input_audio_buffer.speech_started":
                turns[item].start = zero + event["audio_start_ms"] // CHUNK_MS
            case "input_audio_buffer.speech_stopped":
                turns[item].end = zero + event["audio_end_ms"] // CHUNK_MS
            case "input_audio_buffer.committed":
                if speech.commits and not turns[item].end:  # our commit ended this turn
                    start, turns[item].end = speech.commits.pop(0)
                    turns[item].start = turns[item].start or start
            case "conversation.item.input_audio_transcription.delta":
                turns[item].text += event["delta"]
            case "conversation.item.input_audio_transcription.completed":
                turns[item].text, turns[item].is_final = event["transcript"].strip(), True
            case "conversation.item.input_audio_transcription.failed":
                turns[item].text, turns[item].is_final = "", True
            case "input_audio_buffer.cleared":
                has_heard_all = True
        if "error" in event and event["error"].get("code") != "input_audio_buffer_commit_empty":
            speech.report(f"The service says: {event['error']['message']}")
        speech.partial = " ".join(turn.text for turn in turns.values() if not turn.is_final)
        for item, turn in list(turns.items()):
            if not turn.is_final:
                break  # a later phrase may be ready first: it has to wait
            if turn.text:
                use_phrase(turn.text, turn.start)
                speech.reported.clear()
            speech.understood = max(turn.end, speech.understood)
            del turns[item]


async def transcribe(websocket: ClientConnection, speech: Speech) -> None:
    """Send sound and receive text at the same time. If the service dies, find it and go on."""
    while True:
        speech.commits.clear()
        try:
            async with websocket, asyncio.TaskGroup() as both_ways:
                both_ways.create_task(send_audio(websocket, speech))
                both_ways.create_task(receive_text(websocket, speech))
            return
        except* ConnectionClosed:
            speech.report("Lost the connection. Reconnecting … Nothing you say will be lost.")
        while True:
            await asyncio.sleep(1)
            with suppress(OSError, ValueError, WebSocketException):
                websocket = await find_service(speech)
                break
        speech.report("Connected again. The service now gets what it missed.")


# ---- The rest is plumbing: you can skip it when you read this for the first time. ----

WHERE = " or ".join(url.partition("/v1")[0] for url in URLS)
EXPLANATIONS: dict[type[Exception], str] = {  # for the first kind of error that fits
    PermissionError: f"{WHERE} refuses your API key. Put the right one into {KEY_NAME}.",
    ConnectionRefusedError: f"""No service is running at {WHERE} (connection refused).
Start one in another terminal: docker compose up faster-whisper   or   python fastapi_example.py""",
    OSError: f"""Cannot reach {WHERE}. Is WEBSOCKET_URL right? Does it begin with ws:// or wss://?
If the service has a certificate of its own, put the name of that file into SSL_CERT_FILE.""",
    WebSocketException: f"""There is no transcription service at {WHERE}. Check WEBSOCKET_URL.
A complete address looks like {LOCAL[1]}""",
    Exception: f"{WHERE} refuses. Check all settings that begin with WEBSOCKET_ or TRANSCRIPTION_.",
}
INSTALL_PYAUDIO = """Install it with
Linux:   sudo apt install portaudio19-dev python3-dev gcc && pip install pyaudio
macOS:   brew install portaudio && pip install --force-reinstall --no-cache-dir pyaudio
Windows: pip install pyaudio   (with Python 3.13 or older: there is none for newer ones)"""
MICROPHONE_HELP = """Is it muted? Is your terminal allowed to use it (permission denied)?
Linux: pavucontrol. macOS: System Settings > Privacy & Security > Microphone.
Windows: Settings > Privacy & security > Microphone.
--list-devices lists the microphones, --device NUMBER chooses one.
Without a microphone: --file samples/speech.wav"""


def clock(position: int) -> str:
    """Return the position of a chunk as minutes:seconds."""
    minutes, seconds = divmod(position * CHUNK_MS // 1000, 60)
    return f"{minutes}:{seconds:02}"


def loudness(pcm: bytes) -> float:
    """Return the loudest sample of PCM16 sound, from 0 to 1."""
    return float(np.abs(np.frombuffer(pcm, np.int16).astype(int)).max(initial=0) / 32768)


async def find_service(speech: Speech) -> ClientConnection:
    """Open a session with the first service that answers."""
    for url in URLS[:-1]:
        with suppress(ConnectionError, TimeoutError, WebSocketException):
            return await open_session(url, speech)
    return await open_session(URLS[-1], speech)


def is_near(url: str) -> bool:
    """Say whether an address is on this computer or in the local network."""
    host = urlsplit(url).hostname or ""
    return "." not in host or host.startswith(("127.", "10.", "172.", "192.168."))


async def open_session(url: str, speech: Speech) -> ClientConnection:
    """Connect to a service. Agree on the sound, and on who looks for the pauses."""
    websocket = await connect(
        url,
        additional_headers={"Authorization": f"Bearer {KEY}"} if KEY else {},
        proxy=None if is_near(url) else True,  # a proxy finds only what is in the internet
        ping_interval=10,  # seconds, so that a dead line is noticed
        ping_timeout=10,  # after 20 seconds
        close_timeout=1,  # second; a service that hangs must not keep us waiting
    )
    # All settings: https://developers.openai.com/api/docs/guides/realtime-transcription
    transcription = {"model": MODEL} | ({"languages": [LANGUAGE]} if LANGUAGE else {})
    vad: dict[str, object] | None = {"type": "server_vad", "silence_duration_ms": SILENCE_MS}
    while True:
        match json.loads(await asyncio.wait_for(websocket.recv(), 20)):
            case {"type": "session.updated"}:
                speech.has_vad = vad is not None
                return websocket
            case {"error": {"param": "session.audio.input.turn_detection"}}:
                vad = None  # OpenAI's live models leave the pauses to us
            case {"error": {"code": "invalid_api_key", "message": problem}}:
                raise PermissionError(problem)
            case {"error": {"message": problem}}:
                raise ValueError(problem)
        sound = {
            "format": {"type": "audio/pcm", "rate": SAMPLE_RATE},
            "transcription": transcription,
            "turn_detection": vad,
        }
        session = {"type": "transcription", "audio": {"input": sound}}
        await websocket.send(json.dumps({"type": "session.update", "session": session}))


async def watch(speech: Speech) -> None:
    """Say so when the microphone is silent. Return when it has stopped."""
    count = -1
    while len(speech.chunks) > count:
        count = len(speech.chunks)
        await asyncio.sleep(1)
        if count * CHUNK_MS > 3000 and not any(map(loudness, speech.chunks[-3000 // CHUNK_MS :])):
            speech.report(f"The microphone is silent.\n{MICROPHONE_HELP}")
    print("The microphone has stopped. Was it unplugged?")


async def play(speech: Speech, recording: av.container.InputContainer) -> None:
    """Play a recording of any format, as fast as it was spoken."""
    loop = asyncio.get_running_loop()
    started_at, begin = loop.time(), (recording.start_time or 0) / av.time_base
    try:
        for frame in recording.decode(audio=0) if recording.streams.audio else []:
            while (frame.time or 0) - begin > (len(speech.chunks) + 5) * CHUNK_MS / 1000:
                speech.chunks.append(bytes(2 * CHUNK))  # silence where the recording has a gap
            speech.add(frame)
            played_s = len(speech.chunks) * CHUNK_MS / 1000
            await asyncio.sleep(started_at + played_s - loop.time())
    except (av.FFmpegError, ValueError) as error:
        print(f"The recording breaks off at {clock(len(speech.chunks))}: {error}")
    if not speech.chunks:
        raise SystemExit(f"There is no sound in {recording.name}")


async def run(arguments: Namespace) -> None:
    """Listen and transcribe at the same time."""
    speech = Speech()
    with Live(speech, transient=True, refresh_per_second=10):
        if os.environ.get("TRACE"):  # the library reports everything that travels
            Frame.MAX_LOG_SIZE = 300  # characters of a message
            logging.basicConfig(stream=sys.stdout, format="%(relativeCreated)6.0f ms %(message)s")
            key_holders = ("> Authorization", "> GET")  # never show these
            wire = logging.getLogger("websockets.client")
            wire.setLevel(logging.DEBUG)
            wire.addFilter(lambda note: not note.getMessage().startswith(key_holders))
        try:
            websocket = await find_service(speech)
        except (OSError, ValueError, WebSocketException, ImportError) as error:
            text = next(text for kind, text in EXPLANATIONS.items() if isinstance(error, kind))
            raise SystemExit(f"{text}\n({str(error) or 'no answer'})") from None
        async with asyncio.TaskGroup() as tasks:
            transcribing = tasks.create_task(transcribe(websocket, speech))
            with suppress(asyncio.CancelledError):  # Ctrl-C ends the recording, and nothing else
                if arguments.file:
                    await play(speech, arguments.file)
                else:
                    await record(speech, arguments.device, arguments.seconds or 30)
            speech.add(None)
            await asyncio.wait([transcribing], timeout=LAST_WORDS_S)
            if not transcribing.done():
                raise SystemExit(f"No answer for {LAST_WORDS_S} s. The last words are missing.")
    print(f"{clock(len(speech.chunks))} of audio.")


def choose_microphone(arguments: Namespace) -> None:
    """List the microphones, and ask for what the command line leaves open."""
    if NO_PYAUDIO:
        raise SystemExit(f"{NO_PYAUDIO}\n{INSTALL_PYAUDIO}")
    # PyAudio prints a page of warnings on Linux. Hide them, but not what Python has to say.
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    audio = pyaudio.PyAudio()
    devices = map(audio.get_device_info_by_index, range(audio.get_device_count()))
    names = {str(one["index"]): str(one["name"]) for one in devices if one["maxInputChannels"]}
    if not names:
        raise SystemExit(f"There is no microphone.\n{MICROPHONE_HELP}")
    print("\n".join(f"{number:>3}  {name}" for number, name in names.items()))
    if arguments.list_devices:
        raise SystemExit
    if sys.stdin.isatty() and arguments.device is None:
        question = "Microphone number [Enter for the default]"
        arguments.device = IntPrompt.ask(
            question, choices=[*names], default=None, show_choices=False
        )
    while sys.stdin.isatty() and not arguments.seconds > 0:
        arguments.seconds = FloatPrompt.ask("How many seconds? [Enter for 30]", default=30.0)


def main() -> None:
    """Read the command line, and run."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=int, help="number of the microphone")
    parser.add_argument("--seconds", type=float, default=0, help="how long to listen (30)")
    parser.add_argument("--file", help="a recording to play instead")
    parser.add_argument("--list-devices", action="store_true", help="list the microphones")
    arguments = parser.parse_args()
    if not (KEY.isascii() and KEY.isprintable()):
        raise SystemExit("Your API key contains a character that keys never have. Copy it again.")
    if arguments.file:
        try:
            arguments.file = av.open(arguments.file, metadata_errors="ignore")
        except av.FFmpegError as error:
            raise SystemExit(f"Cannot play {arguments.file}: {error.strerror}") from None
    else:
        choose_microphone(arguments)
    asyncio.run(run(arguments))


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without █ shows a question mark
    try:
        main()
    except (KeyboardInterrupt, EOFError):
        print("\nStopped.")
    except BaseExceptionGroup as group:  # a TaskGroup wraps errors: show the one inside
        while isinstance(group.exceptions[0], BaseExceptionGroup):
            group = group.exceptions[0]
        raise group.exceptions[0] from None
