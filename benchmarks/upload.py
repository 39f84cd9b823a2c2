"""The service over HTTP: a recording that is posted, against the engine called directly."""

import io
import time
import wave

import requests
from engine import Engine
from live import running_service
from running_lessons import ROOT
from running_service import MICRO_WHISPER
from speakers import PHRASES
from speech import HELLO, spoken
from table import Report

RUNS = 5
SAMPLE = ROOT / HELLO


def as_wav(pcm: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, 16_000, 0, "NONE", ""))
        wav.writeframes(pcm)
    return file.getvalue()


def measure(report: Report) -> None:
    with running_service() as service, requests.Session() as session:
        engine = Engine(MICRO_WHISPER)

        def post(recording: bytes) -> float:
            begin = time.perf_counter()
            url = f"{service.http_url}/v1/audio/transcriptions"
            session.post(url, files={"file": ("a.wav", recording)}, timeout=60).raise_for_status()
            return time.perf_counter() - begin

        phrases = [spoken(phrase).tobytes() for phrase in PHRASES[:6]]
        post(as_wav(phrases[0]))
        ratios, posted = [], []
        for _ in range(RUNS):
            pairs = [(post(as_wav(pcm)), engine.seconds(pcm)) for pcm in phrases]
            posted.append(1000 * sum(pair[0] for pair in pairs) / len(pairs))
            ratios.append(sum(pair[0] for pair in pairs) / sum(pair[1] for pair in pairs))
        report.add("POST of a phrase against the engine called directly", ratios, "×", 1.10)
        report.add("POST of a phrase", posted, "ms")
        with wave.open(str(SAMPLE)) as wav:
            pcm, seconds = wav.readframes(wav.getnframes()), wav.getnframes() / 16_000
        long = [post(SAMPLE.read_bytes()) / engine.seconds(pcm) for _ in range(RUNS)]
        what = f"POST of {seconds:.0f} s with 5 phrases against one call of the engine"
        report.add(what, long, "×")
        engine.close()
