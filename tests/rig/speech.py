"""Speech to test with: phrases, spoken to a file by flite, and ways to compare audio."""

import io
import re
import subprocess
import wave
from functools import cache
from pathlib import Path

import av
import numpy as np
from running_lessons import ROOT, need
from scipy.signal import correlate, resample_poly

HELLO = "tests/rig/hello.wav"  # the phrases below, in words that the micro Whisper knows
PHRASES = [
    "hello world",
    "set a timer for three minutes",
    "what time is it",
    "go forward ten meters",
    "goodbye",
]
SPEECH = "samples/speech.wav"  # a natural voice, for engines that know more words
SPEECH_TEXT = (ROOT / "samples/speech.txt").read_text(encoding="utf-8")
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
LONG_PHRASES = [  # of more than three seconds, made of the micro Whisper's 48 words
    "set a timer for five minutes turn on the red light thank you",
    "what time is it set a timer for nine minutes goodbye",
]
Audio = np.ndarray[tuple[int], np.dtype[np.int16]]


@cache
def spoken(text: str, rate: int = 16_000, voice: str = "kal16") -> Audio:
    """Return a phrase as PCM16: int16 samples, shape (n,), at rate Hz."""
    need("flite")
    command = ["flite", "-voice", voice, "-t", text, "-o", "/dev/stdout"]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    samples = np.frombuffer(wav[44:], "<i2")
    if rate != 16_000:
        samples = resample_poly(samples.astype(float), rate // 1000, 16).astype("<i2")
    return samples


def silence(seconds: float, rate: int = 16_000) -> Audio:
    return np.zeros(round(seconds * rate), "<i2")


def write_wav(path: Path, samples: Audio, rate: int = 16_000) -> Path:
    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(rate)
        wav.writeframes(samples.astype("<i2").tobytes())
    return path


def similarity(said: Audio, heard: Audio) -> float:
    """Return the peak of the normalised cross-correlation: 1 means that all of it was heard.

    Audio that was dropped or doubled anywhere shifts what follows it, and lowers the peak.
    """
    products = correlate(heard.astype(float), said.astype(float), method="fft")
    lag = int(np.argmax(products)) - (len(said) - 1)
    window = heard[max(0, lag) : lag + len(said)].astype(float)
    norm = np.linalg.norm(said.astype(float)) * np.linalg.norm(window)
    return float(products.max() / norm) if norm else 0.0


def converted(container: str, codec: str, rate: int, *words: str, layout: str = "mono") -> bytes:
    """Return phrases with a pause after each, or a single one, in another container and codec."""
    parts = [part for phrase in words for part in (spoken(phrase), silence(0.9))]
    sound = np.concatenate(parts or [spoken("thank you")])
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(sound[None], "s16", "mono")
        frame.sample_rate = 16_000
        resampler = av.AudioResampler(stream.format, stream.layout, rate, stream.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.getvalue()


def words(text: str) -> list[str]:
    """Return the words of a text without case and punctuation, and with numbers written out."""
    found = re.findall(r"[a-z0-9']+", text.lower())
    return [NUMBERS[int(word)] if word.isdigit() and int(word) <= 10 else word for word in found]


def lines(output: str) -> list[str]:
    """Return the phrases of a transcript: what stands after the time stamps."""
    return re.findall(r"\[\d+:\d\d\] ([^\r\n]+?)\s*[\r\n]", output)
