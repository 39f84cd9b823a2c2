#!/usr/bin/env -S uv run --script
# For uv: `uv run NAME.py` installs what this block lists.
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "numpy>=2,<3",
#     "pyaudio>=0.2.14",
#     "requests>=2.33,<3",
#     "rich>=14,<16",
# ]
# ///
"""Lesson 6: one recording, one transcript, and a check of every step on the way

What you learn
    What a microphone delivers (PCM16: thousands of numbers a second), how a recording
    reaches a service over HTTP, and where to look when one of the steps fails.
Before you start
    In a first terminal: docker compose up faster-whisper    or: python fastapi_example.py
    Once: python -m pip install -r requirements.txt (README.md: what PyAudio needs first)
Run it
    In a second terminal:  python simple_transcription_test.py
    Without a microphone:  python simple_transcription_test.py --file samples/speech.wav
    With OpenAI:           set SERVICE_URL and OPENAI_API_KEY: see docs/openai.md
You should see
    ✓ service      http://127.0.0.1:8000 answers
    ✓ microphone   Built-in Microphone, 48000 Hz
    ✓ recording    5 s, loudest moment 42%
    ✓ transcript   0.35 s

    Every drawing starts with a line.
Try next
    Let the words walk down the screen. In run(), replace print(text) with these two lines:

        for number, word in enumerate(text.split()):
            print("  " * number + word)
"""

import argparse
import io
import os
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import requests
from rich.progress import Progress
from rich.status import Status

# The first one that answers is used: the service in Docker, or lesson 5.
LOCAL = [f"http://127.0.0.1:{port}" for port in (10300, 8000)]
URLS = [os.environ["SERVICE_URL"].rstrip("/")] if os.environ.get("SERVICE_URL") else LOCAL
KEY_NAME = "OPENAI_API_KEY" if f"{URLS[0]}/".startswith("https://api.openai.com/") else "API_KEY"
KEY = "".join(os.environ.get(KEY_NAME, "").split())  # without the line end of a copied key
HEADERS = {"Authorization": f"Bearer {KEY}".encode()} if KEY else {}
MODEL = os.environ.get("TRANSCRIPTION_MODEL", "gpt-transcribe")  # local services have only one
LANGUAGE = os.environ.get("TRANSCRIPTION_LANGUAGE", "")  # such as "en"; empty: the service decides
RESPONSE_FORMAT = "json"  # service/ also knows text, verbose_json, and srt and vtt (subtitles)

CHUNK_MS = 50  # sound is read in pieces this long; the progress bar moves after each
QUIET = 0.02  # of full scale; anything softer is not a voice
PATIENCE_S = 120  # how long to wait for the text: a large model takes its time


def run(arguments: argparse.Namespace) -> None:
    """Take the steps in order. The first one that fails says what to do about it."""
    with step("service", f"Check SERVICE_URL. A complete address looks like {LOCAL[1]}"):
        url = find_service()  # first, so that no recording is wasted
    name = arguments.file.name if arguments.file else "recording.wav"
    if arguments.file:
        with step("recording", "Check the file's name and folder."):
            recording = arguments.file.read_bytes()
            print(f"✓ recording    {name}, {len(recording) // 1000} kB")
    else:
        with step("microphone", MICROPHONE_HELP):
            recording = record(arguments.device, arguments.seconds)
    with step("transcript", "Try --file samples/speech.wav. If that works, record again."):
        text = transcribe(url, name, recording)
    print(text)


def record(device: int | None, seconds: int) -> bytes:
    """Record from a microphone. Return a WAV file: PCM16, mono, at the microphone's own rate."""
    import pyaudio  # not at the top, because --file works without it

    with hidden_warnings():
        audio = pyaudio.PyAudio()
    try:
        if device is None:
            info = audio.get_default_input_device_info()
        else:  # a wrong number raises OSError here; in open() it would crash Python
            info = audio.get_device_info_by_index(device)
        rate = int(info["defaultSampleRate"])  # Hz; another rate might be refused
        open_stream = partial(audio.open, rate, format=pyaudio.paInt16, input=True)
        with hidden_warnings():
            try:
                channels, stream = 1, open_stream(channels=1, input_device_index=device)
            except OSError:  # some microphones insist on two channels, left and right
                channels, stream = 2, open_stream(channels=2, input_device_index=device)
        print(f"✓ microphone   {info['name']}, {rate} Hz")
        pcm = bytearray()
        with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
            for _ in bar.track(range(seconds * 1000 // CHUNK_MS), description="  Speak now"):
                pcm += stream.read(rate * CHUNK_MS // 1000, exception_on_overflow=False)
    finally:
        audio.terminate()

    samples = np.frombuffer(pcm, np.int16).reshape(-1, channels)
    mono = samples.mean(axis=1).astype(np.int16).tobytes()  # the average of left and right
    peak = loudness(mono)
    if peak < QUIET:
        raise OSError(f"The microphone is silent (loudest moment {peak:.0%}).")
    print(f"✓ recording    {seconds} s, loudest moment {peak:.0%}")
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)  # bytes
        wav.setframerate(rate)
        wav.writeframes(mono)
    return file.getvalue()


def loudness(pcm: bytes) -> float:
    """Return the loudest sample of PCM16 sound, from 0 to 1."""
    samples = np.frombuffer(pcm, np.int16).astype(int)  # abs(-32768) needs more than 16 bits
    return float(np.abs(samples).max(initial=0) / 32768)


def find_service() -> str:
    """Return the address of the first service that answers."""
    for url in URLS:
        try:  # asking for the list of models is the cheapest test
            check(requests.get(f"{url}/v1/models", headers=HEADERS, timeout=10))
        except (requests.ConnectionError, requests.Timeout) as error:
            problem = error
        else:
            print(f"✓ service      {url} answers")
            return url
    raise problem


def transcribe(url: str, name: str, recording: bytes) -> str:
    """Send a recording as a form with a file, the way a web page would. Return the text."""
    begin = time.monotonic()
    url += "/v1/audio/transcriptions"
    # Fields that are None are not sent. All fields are listed here:
    # https://platform.openai.com/docs/api-reference/audio/createTranscription
    fields = {"model": MODEL, "response_format": RESPONSE_FORMAT, "language": LANGUAGE or None}
    file = {"file": (name, recording)}
    with Status("Waiting for the text …"):
        answer = requests.post(url, fields, headers=HEADERS, files=file, timeout=PATIENCE_S)
    check(answer)
    text = str(answer.json()["text"]) if RESPONSE_FORMAT == "json" else answer.text
    if not text.strip():
        raise ValueError("The service heard no words.")
    print(f"✓ transcript   {time.monotonic() - begin:.2f} s\n")
    return text


# ---- The rest is plumbing: errors, and the command line. You can skip it.

# Some networks have a proxy for the internet. Computers nearby are reached without it.
NEARBY = "localhost,.local,127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"
os.environ["no_proxy"] = f"{NEARBY},{os.environ.get('no_proxy', os.environ.get('NO_PROXY', ''))}"

MICROPHONE_HELP = """Is it muted? Is your terminal allowed to use it (permission denied)?
  Linux: pavucontrol. macOS: System Settings > Privacy & Security > Microphone.
  Windows: Settings > Privacy & security > Microphone.
  --list-devices lists the microphones, --device NUMBER chooses one.
  Without a microphone: --file samples/speech.wav"""
REMEDIES = {  # for the first kind of error that matches
    ImportError: "Set-up in README.md shows how to install PyAudio. Or use --file NAME.",
    requests.exceptions.SSLError: """The service's certificate can't be trusted, or it has none.
  Put the certificate's file name into REQUESTS_CA_BUNDLE, or use http://""",
    requests.Timeout: "The service does not answer. Its own terminal may say why.",
    requests.ConnectionError: f"""No service is running at {" or ".join(URLS)}.
  Start one in another terminal:  docker compose up faster-whisper
                             or:  python fastapi_example.py""",
}
REFUSALS = {  # for a service that answers with this HTTP status
    401: f"Put the service's API key into {KEY_NAME}, without quotation marks.",
    429: "Your account has no credit left, or you asked too often. If so, wait a minute.",
}


@contextmanager
def step(name: str, remedy: str) -> Iterator[None]:
    """If this step fails, say why, and what to do about it."""
    try:
        yield  # the lines inside "with step(...)" run here
    except (ImportError, OSError, ValueError) as error:
        for kind, text in REMEDIES.items():
            if isinstance(error, kind):
                remedy = text
                break
        if isinstance(error, requests.HTTPError):
            remedy = REFUSALS.get(error.response.status_code, remedy)
        cause: BaseException = error
        while cause.__context__:  # libraries wrap errors in errors: the innermost is the cause
            cause = cause.__context__
        print(f"✗ {name:<12} {cause}\n  {remedy}")
        raise SystemExit(1) from None


def check(answer: requests.Response) -> None:
    """Raise an error if the service refuses, or if it is not one."""
    if answer.ok and "html" not in answer.headers.get("Content-Type", ""):
        return
    try:
        cause = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        cause = f"Unexpected answer: {answer.status_code} {answer.reason}."
    raise requests.HTTPError(cause, response=answer)


@contextmanager
def hidden_warnings() -> Iterator[None]:
    """Hide the harmless warnings that PyAudio prints on Linux: a page of them."""
    stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)


def list_devices() -> None:
    """Print the number and the name of each microphone."""
    import pyaudio

    with hidden_warnings():
        audio = pyaudio.PyAudio()
    audio.get_default_input_device_info()  # raises OSError if there is no microphone
    for number in range(audio.get_device_count()):
        device = audio.get_device_info_by_index(number)
        if device["maxInputChannels"]:
            print(f"{number:>3}  {device['name']}")


def main() -> None:
    """Read the command line, and start."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, help="send this recording instead")
    parser.add_argument("--device", type=int, help="number of the microphone")
    parser.add_argument("--seconds", type=int, default=5, help="how long to record (5)")
    parser.add_argument("--list-devices", action="store_true", help="list the microphones")
    arguments = parser.parse_args()
    if arguments.list_devices:
        with step("microphone", MICROPHONE_HELP):
            list_devices()
    else:
        run(arguments)


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ✓ shows a question mark
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped.")
