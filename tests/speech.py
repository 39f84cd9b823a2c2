"""Speech to test with: phrases, spoken to a file by flite, and ways to compare audio."""

import subprocess
import wave
from functools import cache
from pathlib import Path

import numpy as np
from conftest import ROOT, need
from scipy.signal import correlate, resample_poly

PHRASES = (ROOT / "samples/speech.txt").read_text().split("\n")[:-1]
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
