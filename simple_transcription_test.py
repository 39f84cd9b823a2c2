#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "numpy>=2,<3",
#     "pyaudio>=0.2.14",
#     "requests>=2.33,<3",
# ]
# ///
"""Lesson 6: one recording, one transcript, and a check of every step on the way

What you learn
    What a microphone delivers (PCM16: thousands of numbers a second), how a recording
    is sent to a service over HTTP, and where to look when one of the steps fails.
Before you start
    A service in a first terminal: docker compose up faster-whisper
    Once: python -m pip install -r requirements.txt (README.md: what PyAudio needs first)
Run it
    In a second terminal:   python simple_transcription_test.py
    Without a microphone:   python simple_transcription_test.py --file samples/speech.wav
    With lesson 5:          SERVICE_URL=http://127.0.0.1:8000 python simple_transcription_test.py
    With OpenAI:            the same with https://api.openai.com, and your key in OPENAI_API_KEY
You should see
    ✓ service      http://127.0.0.1:10300 answers (0.01 s)
    ✓ microphone   Built-in Microphone, 48000 Hz
    ✓ recording    5.0 s, loudest moment 42 %
    ✓ transcript   (0.35 s)

    hello world
Try next
    Set RESPONSE_FORMAT to "srt" and run it on samples/speech.wav: you get subtitles.
"""

import argparse
import io
import os
import shlex
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import numpy as np
import requests

SERVICE_URL = (os.environ.get("SERVICE_URL") or "http://127.0.0.1:10300").rstrip("/")
IS_OPENAI = f"{SERVICE_URL}/".startswith("https://api.openai.com/")  # its key is for nobody else
API_KEY = os.environ.get("OPENAI_API_KEY" if IS_OPENAI else "API_KEY", "").strip()
MODEL = os.environ.get("TRANSCRIPTION_MODEL", "gpt-transcribe")  # at home there is only one
LANGUAGE = os.environ.get("TRANSCRIPTION_LANGUAGE", "en")  # empty: the service finds out
RESPONSE_FORMAT = "json"  # or text, srt, vtt, verbose_json

CHUNK_MS = 50  # so often the progress bar moves
QUIET = 2  # per cent of full scale; below it nobody spoke into this microphone
TIMEOUT_S = 120  # for the transcript: a large model on a small computer takes its time

LOCAL_SERVICES = {  # port: what starts it
    10300: "docker compose up faster-whisper",
    8000: "python fastapi_example.py",
}
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

web = requests.Session()
if SERVICE_URL.startswith(("http://127.0.0.1:", "http://localhost:")):
    web.trust_env = False  # a proxy for web pages could not find a service on this computer


def passed(step: str, result: str) -> None:
    """Say that a step is done, and what came of it."""
    print(f"✓ {step:<12} {result}", flush=True)


def failed(step: str, cause: str, remedy: str) -> NoReturn:
    """Say what went wrong and what to do about it, and end with exit status 1."""
    print(f"✗ {step:<12} {cause}\n  {remedy}", flush=True)
    raise SystemExit(1)


def import_pyaudio() -> ModuleType:
    """Import PyAudio only where there is something to record: --file works without it."""
    try:
        import pyaudio
    except ImportError as error:
        failed("microphone", f"PyAudio does not work: {error}", INSTALL_PYAUDIO[sys.platform])
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


def list_devices() -> None:
    """Print every microphone with its number, name and sample rate in Hz."""
    pyaudio = import_pyaudio()
    with silent_stderr():
        audio = pyaudio.PyAudio()
    count = 0
    for number in range(audio.get_device_count()):
        device = audio.get_device_info_by_index(number)
        if device["maxInputChannels"] > 0:
            print(f"{number:3}  {device['name']}, {device['defaultSampleRate']:.0f} Hz")
            count += 1
    audio.terminate()
    if not count:
        failed("microphone", "There is no microphone.", WITHOUT_MICROPHONE)


def record(seconds: float) -> bytes:
    """Record from the default microphone; return a WAV file (PCM16, mono, its own rate)."""
    pyaudio = import_pyaudio()
    with silent_stderr():
        audio = pyaudio.PyAudio()
    try:
        device = audio.get_default_input_device_info()
        rate = int(device["defaultSampleRate"])  # any other rate might be refused
        chunk = rate * CHUNK_MS // 1000
        with silent_stderr():
            stream = audio.open(
                format=pyaudio.paInt16,
                channels=1,
                rate=rate,
                input=True,
                frames_per_buffer=chunk,
            )
        passed("microphone", f"{device['name']}, {rate} Hz")
        pcm = bytearray()
        while len(pcm) < seconds * rate * 2:  # a sample is two bytes
            pcm += stream.read(chunk, exception_on_overflow=False)
            show_progress(len(pcm) / 2 / rate, seconds)
        stream.close()
    except OSError as error:
        remedy = f"{ALLOW_MICROPHONE[sys.platform]}\n  {WITHOUT_MICROPHONE}"
        failed("microphone", f"Cannot record: {error}", remedy)
    finally:
        audio.terminate()

    loudest = np.abs(np.frombuffer(pcm, "<i2").astype(int)).max() * 100 / 32768
    heard = f"{seconds:.1f} s, loudest moment {loudest:.0f} %"
    if loudest < QUIET:
        failed("recording", f"{heard}: that is silence.", ALLOW_MICROPHONE[sys.platform])
    passed("recording", heard)
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)  # bytes
        wav.setframerate(rate)
        wav.writeframes(pcm)
    return file.getvalue()


def show_progress(done: float, total: float) -> None:
    """Draw a bar, over and over in the same line; wipe it when all is done."""
    if not sys.stdout.isatty():
        return
    filled = int(30 * min(1, done / total))
    bar = f"  speak now  {'█' * filled}{'░' * (30 - filled)}  {done:.1f} s"
    end = "" if done < total else "\r" + " " * len(bar) + "\r"
    print("\r" + bar, end=end, flush=True)


def read_file(path: Path) -> bytes:
    """Return the bytes of a recording; what is in them is for the service to find out."""
    try:
        recording = path.read_bytes()
    except OSError as error:
        failed("recording", f"Cannot read {path}: {error.strerror}.", "Check name and folder.")
    passed("recording", f"{path.name}, {len(recording) / 1000:.0f} kB")
    return recording


# ------------------------------------------------------------------------------- the service


def check_service() -> None:
    """Ask for the list of models: the smallest question that a service answers."""
    begin = time.monotonic()
    try:
        answer = web.get(f"{SERVICE_URL}/v1/models", headers=headers(), timeout=10)
    except (OSError, ValueError) as error:
        explain(error)
    check(answer)
    passed("service", f"{SERVICE_URL} answers ({time.monotonic() - begin:.2f} s)")


def transcribe(name: str, recording: bytes) -> str:
    """Send a recording as a form with a file, the way a web page would, and return the text.

    All that may be asked for: https://platform.openai.com/docs/api-reference/audio/createTranscription
    """
    begin = time.monotonic()
    fields = {"model": MODEL, "response_format": RESPONSE_FORMAT}
    if LANGUAGE:
        fields["language"] = LANGUAGE
    try:
        answer = web.post(
            f"{SERVICE_URL}/v1/audio/transcriptions",
            headers=headers(),
            data=fields,
            files={"file": (name, recording)},
            timeout=TIMEOUT_S,
        )
    except (OSError, ValueError) as error:
        explain(error)
    check(answer)
    text = answer.json()["text"] if RESPONSE_FORMAT == "json" else answer.text
    if not text.strip():
        failed("transcript", "The service heard no words.", "Speak louder, or nearer to it.")
    passed("transcript", f"({time.monotonic() - begin:.2f} s)")
    return text


def headers() -> dict[str, str]:
    """A key travels in a header: addresses end up in logs, headers do not."""
    return {"Authorization": f"Bearer {API_KEY}"} if API_KEY else {}


def explain(error: OSError | ValueError) -> NoReturn:
    """End with what to do about a service that does not answer."""
    if isinstance(error, requests.Timeout):
        failed("service", f"{SERVICE_URL} does not answer in time.", "Is it the right address?")
    is_file_missing = type(error) is OSError  # that of certificates: requests says it like this
    if isinstance(error, requests.exceptions.SSLError) or is_file_missing:
        cause = f"The certificate of {SERVICE_URL} cannot be trusted, or there is none."
        remedy = "Name its file in REQUESTS_CA_BUNDLE. Without one: http:// in place of https://."
        failed("service", cause, remedy)
    if not isinstance(error, requests.ConnectionError):
        remedy = "SERVICE_URL begins with http:// or https://, as in http://127.0.0.1:8000."
        failed("service", f"{SERVICE_URL}: {error}", remedy)
    remedies = ["Start a service in another terminal, or correct SERVICE_URL:"]
    for port, command in LOCAL_SERVICES.items():
        url = f"http://127.0.0.1:{port}"
        remedies.append(f"    {command:<34} is found at {url}")
        try:
            is_service = "engine" in web.get(f"{url}/health", timeout=1).json()
        except (requests.RequestException, TypeError):
            continue
        if is_service and url != SERVICE_URL:
            remedies = ["But there is one at another port. Use that:", f"    {setting(url)}"]
            break
    failed("service", f"Nothing answers at {SERVICE_URL}.", "\n  ".join(remedies))


def setting(url: str) -> str:
    """Return the command that runs this lesson with another service, for this system's shell."""
    command = f"python {shlex.join(sys.argv)}"
    if sys.platform == "win32":
        return f'$env:SERVICE_URL="{url}"; {command}'
    return f"SERVICE_URL={url} {command}"


def check(answer: requests.Response) -> None:
    """End with the service's own words if it answers with an error, or a web page answers."""
    if answer.ok and "html" not in answer.headers.get("Content-Type", ""):
        return
    try:
        cause = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        cause = f"{answer.status_code} {answer.reason}. Is this a transcription service?"
    remedy = {
        200: "A web page answered: log in to the Wi-Fi, or correct SERVICE_URL.",
        400: "Try samples/speech.wav: if that works, it is the recording.",
        401: "Put the key into the variable API_KEY, OpenAI's into OPENAI_API_KEY.",
        404: "SERVICE_URL is only the first part of the address, up to the port.",
        413: "Record less, or cut the file into parts.",
        429: "The account has no credit left, or you ask too often: wait a minute.",
    }.get(answer.status_code, "The service's own terminal may say more.")
    failed("service", cause, remedy)


def main() -> None:
    """Take the steps one by one; the first that fails says what to do."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, help="a recording to send instead")
    parser.add_argument("--seconds", type=float, default=5, help="how long to record (5)")
    parser.add_argument("--list-devices", action="store_true", help="list the microphones")
    arguments = parser.parse_args()
    if arguments.list_devices:
        list_devices()
        return
    if not 0 < arguments.seconds <= 3600:
        parser.error("--seconds: it can be a number above 0, and an hour at most")
    if not (API_KEY.isascii() and API_KEY.isprintable()):
        failed("service", "Your key holds a letter that no key has.", "Copy it once more.")
    check_service()  # first, so that nobody speaks for nothing
    if arguments.file:
        text = transcribe(arguments.file.name, read_file(arguments.file))
    else:
        text = transcribe("recording.wav", record(arguments.seconds))
    print(f"\n{text}")


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ✓ shows a question mark
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped.")
