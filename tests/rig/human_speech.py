"""What real people said, with the words, and a room that makes it harder to hear.

Synthetic voices flatter a speech model. These come with Debian packages and with Moonshine.
"""

import gzip
import importlib.util
import re
import wave
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jiwer
import numpy as np
import pytest
from scipy.signal import fftconvolve, resample_poly
from speech import Audio

RATE = 16_000  # Hz
PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")  # a telephone exchange, at 8 kHz
PROMPT_TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
ALSA = Path("/usr/share/sounds/alsa")  # what loudspeakers are tested with

BECKETT = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."
TWO_CITIES = """It was the best of times, it was the worst of times, it was the age of wisdom, it
was the age of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the
season of light, it was the season of darkness, it was the spring of hope, it was the winter of
despair, we had everything before us, we had nothing before us, we were all going direct to heaven,
we were all going direct the other way, in short, the period was so far like the present period
that some of its noisiest authorities insisted on its being received for good or for evil in the
superlative degree of comparison only."""

# From one word to twenty seconds, because short turns are where models go astray.
SOME_PROMPTS = """activated added cancelled calling goodbye agent-loginok auth-thankyou
all-circuits-busy-now cannot-complete-as-dialed check-number-dial-again conf-invalid conf-locked
conf-onlyperson conf-roll-callcomplete confbridge-pin-bad confbridge-only-participant
demo-abouttotry demo-echotest demo-nomatch please-try-call-later
pls-hold-while-try priv-introsaved privacy-unident queue-youarenext
ss-noservice tt-allbusy tt-monkeysintro tt-weasels vm-helpexit vm-instructions vm-invalid-password
vm-msgforwarded vm-nobox vm-nonumber vm-options vm-savefolder vm-sorry vm-tmpexists
vm-whichbox"""

NUMBERS = "zero one two three four five six seven eight nine ten"


def as_audio(samples: np.ndarray) -> Audio:
    """Return numbers of any kind as 16-bit samples; too loud ones are clipped."""
    clipped: Audio = np.clip(samples, -32768, 32767).astype(np.int16)
    return clipped


@dataclass
class Recording:
    """What a person said, as int16 samples (n,) at 16 kHz, and the words of it."""

    name: str
    text: str
    samples: Audio


def read(path: Path) -> Audio:
    """Return a WAV file of 16 bits as mono at 16 kHz."""
    with wave.open(str(path)) as file:
        rate, channels = file.getframerate(), file.getnchannels()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
    samples = samples.reshape(-1, channels).mean(axis=1)
    return as_audio(resample_poly(samples, RATE, rate))


@cache
def recordings() -> list[Recording]:
    """Return everything that a person says here. Skips the test where the packages are missing."""
    if not (PROMPT_TEXTS.exists() and ALSA.exists()):
        pytest.skip("needs asterisk-core-sounds-en-wav and alsa-utils (make test installs them)")
    spec = importlib.util.find_spec("moonshine_voice")
    if spec is None or spec.origin is None:
        pytest.skip("needs moonshine-voice, which has no wheel for this machine")
    assets = Path(spec.origin).parent / "assets"
    found = [
        Recording("beckett", BECKETT, read(assets / "beckett.wav")),
        Recording("two_cities", TWO_CITIES, read(assets / "two_cities.wav")),
    ]
    lines = gzip.decompress(PROMPT_TEXTS.read_bytes()).decode(errors="replace").splitlines()
    texts = dict(line.split(": ", 1) for line in lines if ": " in line)
    found += [
        Recording(name, texts[name], read(PROMPTS / f"{name}.wav")) for name in SOME_PROMPTS.split()
    ]
    for path in sorted(ALSA.glob("*_*.wav")):
        found.append(Recording(path.stem, path.stem.replace("_", " "), read(path)))
    return found


def in_a_room(samples: Audio, seed: int = 1, directness: float = 20) -> Audio:
    """Return speech as a laptop hears it across a table: an echo of 0.5 s, and a fan, 15 dB softer.

    With a directness of 24 the sound itself has as much energy as its echoes.
    """
    random = np.random.default_rng(seed)
    seconds = np.arange(RATE // 2) / RATE
    echo = random.standard_normal(len(seconds)) * np.exp(-6.9 * seconds / 0.5)  # -60 dB after 0.5 s
    echo[0] = directness
    wet = fftconvolve(samples.astype(float), echo)[: len(samples)]
    wet *= np.abs(samples).max() / max(1, np.abs(wet).max())
    fan = np.cumsum(random.standard_normal(len(wet)))  # brown noise, as of moving air,
    fan = fan - fftconvolve(fan, np.ones(400) / 400, mode="same")  # without its lowest part
    loud = wet[np.abs(wet) > np.abs(wet).max() / 20]  # pauses do not count as speech
    fan *= np.sqrt(np.mean(loud**2) / np.mean(fan**2)) / 10 ** (15 / 20)
    return as_audio(wet + fan)


def words_of(text: str) -> list[str]:
    """Return the words without case and punctuation, and numbers as words."""
    for digit, word in enumerate(NUMBERS.split()):
        text = re.sub(rf"\b{digit}\b", word, text)
    text = re.sub(r"['’]", "", text.lower())
    return re.findall(r"[a-z0-9]+", text)


def word_errors(said: list[str], heard: list[str]) -> tuple[int, int]:
    """Return how many words are wrong, left out, or made up, and how many were said."""
    result = jiwer.process_words(
        [" ".join(words_of(t)) for t in said], [" ".join(words_of(t)) for t in heard]
    )
    wrong = result.substitutions + result.deletions + result.insertions
    return wrong, sum(len(words_of(text)) for text in said)
