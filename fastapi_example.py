#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "av>=18,<19",
#     "fastapi>=0.165,<1",
#     "faster-whisper>=1.2.1,<2",
#     "numpy>=2,<3",
#     "pocketsphinx>=5.1,<6",
#     "python-multipart>=0.0.31",
#     "uvicorn>=0.54,<0.55",
#     "websockets>=15,<18",
# ]
# ///
"""Lesson 5: your own speech-to-text service

What you learn
    How a server turns a stream of audio into text while people still speak: it
    finds the turns (who speaks, until when), runs a slow model without making
    anybody wait, and answers over HTTP and over a WebSocket. It speaks OpenAI's
    Realtime protocol, so the same client works with this file and with OpenAI.
Before you start
    Python 3.11 or newer, and once: python -m pip install -r requirements.txt
Run it
    In a terminal:          python fastapi_example.py
    A far better engine:    WHISPER_MODEL=small-int8 python fastapi_example.py
    To watch the wire:      TRACE=1 python fastapi_example.py
    To hear what it hears:  lesson 6 or 7 in a second terminal, with this service
You should see
    Engine: PocketSphinx (en-us, cpu)
    Listening on ws://127.0.0.1:8000/v1/realtime?intent=transcription
    and at http://127.0.0.1:8000/docs a page on which to try the HTTP part by hand.
Try next
    A client may say how long a pause ends a turn. In simple_audio_transcription.py
    set SILENCE_MS to 200, speak with pauses, and one sentence becomes many turns. (That
    takes a microphone: samples/speech.wav has no such pauses.)
"""

import asyncio
import base64
import hmac
import json
import logging
import math
import os
import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

# Three libraries read these when they are imported. One thread for each small piece of
# arithmetic: more would only wait for each other, at twice the processor time.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # what is spoken here is nobody else's business:
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime would report to its makers

import av
import numpy as np
import uvicorn
from fastapi import FastAPI, Form, HTTPException, Request, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.websockets import WebSocketDisconnect
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as AnyHTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

# ---------------------------------------------------------------------------------- settings


def whole_number(name: str, default: int) -> int:
    """Return a setting from the environment."""
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        raise SystemExit(f"{name} must be a whole number, not {os.environ[name]!r}.") from None


def words_in(name: str, default: str) -> list[str]:
    """Return a setting from the environment that is a list with commas."""
    words = os.environ.get(name, default).lower().split(",")
    return [word.strip() for word in words if word.strip()]


HOST = os.environ.get("HOST", "127.0.0.1")  # 0.0.0.0 would let the whole network in
PORT = whole_number("PORT", 8000)
WHISPER_MODEL = os.environ.get("WHISPER_MODEL", "")  # "small-int8", or a folder; empty: embedded
WHISPER_LANG = os.environ.get("WHISPER_LANG", "en")  # empty: the model finds out
WHISPER_DEVICE = os.environ.get("WHISPER_DEVICE", "auto")  # cpu, cuda; auto: cuda if it works
API_KEY = os.environ.get("API_KEY", "")  # if set, every client must send it
MAX_SESSIONS = whole_number("MAX_SESSIONS", 64)
ALLOWED_ORIGINS = words_in(  # web pages that may use the service beside its own; programs may
    "ALLOWED_ORIGINS", f"http://127.0.0.1:{PORT},http://localhost:{PORT}"
)
ALLOWED_HOSTS = words_in("ALLOWED_HOSTS", "localhost")  # this computer's names

SAMPLE_RATE = 16_000  # Hz, what every speech model here was trained on
CHUNK = 512  # samples (32 ms), what Silero VAD looks at in one go
CHUNK_MS = CHUNK * 1000 // SAMPLE_RATE
SILENCE_MS = 500  # a pause this long ends a turn, unless the client asks for another length
EARLY_MS = 200  # this far into a pause the engine begins, and works while we wait for the rest
DELTA_MS = whole_number("DELTA_MS", 150)  # how often to look for new words; 0: never
NEWEST_WORDS = 2  # that are not shown yet: they may be cut, and change with the next look
MAX_TURN_MS = 30_000  # Whisper hears 30 s at most
MIN_COMMIT_MS = 100  # OpenAI refuses to commit less
MAX_WAITING = 8  # turns of one session that may wait for their text; then its client waits too
MAX_APPEND = 15 * 2**20  # characters of base64 in one event, OpenAI's limit
MAX_BODY = 25 * 2**20 + 10_000  # bytes: a file of 25 MB, OpenAI's limit, and its form
MAX_UPLOAD_S = 3600  # a tiny file can unpack to days of silence
FORMATS = "aac,aiff,amr,asf,avi,caf,flac,matroska,mov,mp3,mpeg,ogg,w64,wav"  # FFmpeg's names
MAX_SESSION_S = 3600  # OpenAI ends a session after 60 minutes, and so do we
MAX_IDLE_S = 300  # a client that sends nothing at all for so long has gone
MAX_SEND_S = 20  # and so has one that does not read what we send
MAX_CLOSE_S = 1  # for a goodbye
MAX_REQUEST_S = 60  # for a whole request, a file included
MAX_CONNECTIONS = MAX_SESSIONS + 64  # with those that have not asked for anything yet
MAX_PARTS = 10_000  # of which an event may be made: a few MB of "[]," would take a second to read
MAX_FRAGMENTS = 10_000  # frames of which one message may be made: each of them costs memory
MAX_ENGINE_S = 60  # an engine that gives no answer for so long will not give one any more

# ------------------------------------------------------------------------------------ engine


@dataclass
class Segment:
    """A piece of text, with its start and end in seconds."""

    start: float
    end: float
    text: str


class SphinxEngine:
    """PocketSphinx: its model is in its package, so it starts at once; it makes mistakes."""

    name, model, device, languages = "PocketSphinx", "en-us", "cpu", ["en"]
    workers = 1  # how many calls of transcribe() may run at the same time

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        # "batch": each turn by itself, so that one speaker's voice does not colour the next one's
        self.decoder = Decoder(loglevel="FATAL", cmn="batch")
        self.transcribe(bytes(SAMPLE_RATE // 5), "en")  # the first call is slow: get it over with

    def transcribe(self, pcm: bytes, language: str) -> list[Segment]:
        """Return what is said in PCM16 mono audio at 16 kHz, 30 s at most."""
        self.decoder.start_utt()
        try:
            self.decoder.process_raw(pcm, full_utt=True)
        finally:
            self.decoder.end_utt()
        hypothesis = self.decoder.hyp()
        text = hypothesis.hypstr if hypothesis else ""
        return [Segment(0, len(pcm) / 2 / SAMPLE_RATE, text)] if text else []


class WhisperEngine:
    """Faster Whisper: OpenAI's Whisper on CTranslate2, on a graphics card if there is one."""

    name = "Faster Whisper"

    def __init__(self, model: str) -> None:
        import ctranslate2
        from faster_whisper import WhisperModel

        self.model = Path(model).name
        folder = find_weights(model)
        is_tiny = (folder / "model.bin").stat().st_size < 30e6  # then threads would only wait
        threads = 1 if is_tiny else min(4, os.cpu_count() or 1)
        self.workers = max(1, (os.cpu_count() or 1) // threads)
        is_auto = WHISPER_DEVICE == "auto" and ctranslate2.get_cuda_device_count() > 0
        devices = ["cuda", "cpu"] if is_auto else [WHISPER_DEVICE.replace("auto", "cpu")]
        for device in devices:
            self.device = device
            quantized = "int8_float16" if device == "cuda" else "int8"
            try:
                self.whisper = WhisperModel(
                    str(folder),
                    device=device,
                    compute_type=quantized if model.endswith("-int8") else "default",
                    cpu_threads=threads,
                    num_workers=self.workers,
                )
                self.transcribe(bytes(SAMPLE_RATE // 5), "en")  # a card may fail only now
            except (RuntimeError, ValueError) as error:
                problem = f"Cannot run {model} on {device}: {error}"
                if device == devices[-1]:
                    raise SystemExit(problem) from None
                print(f"{problem}\nThe processor does it, which takes longer.", flush=True)
            else:
                break
        self.languages = self.whisper.supported_languages

    def transcribe(self, pcm: bytes, language: str) -> list[Segment]:
        """Return what is said in PCM16 mono audio at 16 kHz, 30 s at most."""
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
        segments, _ = self.whisper.transcribe(
            samples,
            language=language or None,
            beam_size=1,  # take the likeliest word each time: sooner, and nearly as exact
            condition_on_previous_text=False,  # or a mistake breeds the next one
        )
        return [Segment(part.start, part.end, part.text.strip()) for part in segments]


def find_weights(model: str) -> Path:
    """Return the folder that holds a model, fetched from the internet the first time."""
    import huggingface_hub
    from faster_whisper.utils import _MODELS as KNOWN_MODELS

    for folder in (Path(model), Path(model.removesuffix("-int8"))):
        if (folder / "model.bin").is_file():
            return folder
    model = model.removesuffix("-int8")
    if model not in KNOWN_MODELS:
        known = ", ".join(KNOWN_MODELS)
        raise SystemExit(
            f"WHISPER_MODEL={WHISPER_MODEL} "
            "is no folder with a model.bin and no model that I know.\n"
            f"I know these, and each with -int8, which needs less memory:\n{known}"
        )
    files = ["config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocab*"]
    print(f"Looking for the weights of {model}. They are fetched once.", flush=True)
    try:
        return Path(huggingface_hub.snapshot_download(KNOWN_MODELS[model], allow_patterns=files))
    except Exception as error:  # of many kinds, which all mean the same
        raise SystemExit(
            f"Cannot fetch the weights of {model} ({type(error).__name__}). Is there internet?\n"
            "Without WHISPER_MODEL the embedded engine is used, which needs no download."
        ) from None


class Transcriber:
    """Runs the engine in worker threads, so that the event loop never waits for a model."""

    def __init__(self, engine: SphinxEngine | WhisperEngine) -> None:
        self.engine = engine
        self.threads = ThreadPoolExecutor(engine.workers, "engine")
        self.jobs: set[Future[list[Segment]]] = set()  # running or waiting
        self.quiet_since = time.monotonic()  # when the engine answered last, or had nothing to do
        self.error = ""  # of the last job

    async def transcribe(self, pcm: bytes, language: str) -> list[Segment]:
        """Return the segments of a turn. Whoever comes first is served first."""
        if not self.jobs:
            self.quiet_since = time.monotonic()
        job = self.threads.submit(self.engine.transcribe, pcm, language)
        self.jobs.add(job)
        job.add_done_callback(self.job_ended)
        try:
            segments = await asyncio.wrap_future(job)
            self.error = ""
            return segments
        except Exception as error:
            self.error = f"The engine failed: {error!r}."
            raise

    def job_ended(self, job: Future[list[Segment]]) -> None:
        """Note that the engine is done with a job; whoever wanted it may have gone before."""
        self.jobs.discard(job)
        if not job.cancelled():  # else the engine never saw it
            self.quiet_since = time.monotonic()

    async def problem(self) -> str:
        """Return why a transcription would fail now, or an empty string if it would not."""
        if self.jobs and time.monotonic() - self.quiet_since > MAX_ENGINE_S:
            return f"The engine has not answered for {MAX_ENGINE_S} s."
        if self.error:  # does it still fail?
            with suppress(Exception):
                await self.transcribe(bytes(2 * SAMPLE_RATE), "en")
        return self.error


# ---------------------------------------------------------------------------- turn detection


class VoiceActivity:
    """Silero VAD for one stream: a small neural network that remembers what it just heard."""

    def __init__(self) -> None:
        from faster_whisper.vad import get_vad_model

        self.network = get_vad_model().session  # one for all streams; the memory is not
        self.memory = {"h": np.zeros((1, 1, 128), "f4"), "c": np.zeros((1, 1, 128), "f4")}
        self.before = np.zeros(64, "f4")  # each chunk is seen with the end of the one before it

    def probabilities(self, chunks: np.ndarray) -> list[float]:
        """Return how likely it is that somebody speaks: int16 (n, 512) in, n numbers out."""
        audio = chunks.astype("f4") / 32768
        ends = np.vstack([self.before, audio[:, -64:]])
        self.before = ends[-1]
        inputs = {"input": np.hstack([ends[:-1], audio]), **self.memory}
        result, self.memory["h"], self.memory["c"] = self.network.run(None, inputs)
        return [float(number) for number in result.flat]


class ServerVad(BaseModel):
    """What a client may ask of turn detection; the names are OpenAI's."""

    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5  # how sure Silero must be of a voice
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5_000)] = 300  # kept from before the voice
    silence_duration_ms: Annotated[int, Field(ge=100, le=10_000)] = SILENCE_MS


@dataclass
class Turn:
    """What somebody says in one go, as PCM16 mono audio at 16 kHz."""

    start_ms: int  # in the stream
    audio: bytearray
    silence_ms: int = 0  # how long nobody has spoken, at its end
    voice: list[float] = field(default_factory=list)  # probability for each chunk

    @property
    def length_ms(self) -> int:
        return len(self.audio) // 2 * 1000 // SAMPLE_RATE


class TurnDetector:
    """Cuts a stream into turns. Inside a turn, and where a long one is cut, nothing is lost."""

    def __init__(self) -> None:
        self.settings = ServerVad()
        self.vad = VoiceActivity()
        self.rest = np.zeros(0, np.int16)  # samples that do not fill a chunk yet
        self.position_ms = 0
        self.padding: list[bytes] = []  # the last chunks in which nobody spoke
        self.turn: Turn | None = None

    def feed(self, samples: np.ndarray) -> Iterator[tuple[str, Turn]]:
        """Take int16 samples (n,), yield "started", "grew" and "ended", each with its turn."""
        samples = np.concatenate([self.rest, samples])
        chunks = samples[: len(samples) // CHUNK * CHUNK].reshape(-1, CHUNK)
        self.rest = samples[chunks.size :]
        voices = self.vad.probabilities(chunks) if len(chunks) else []
        for chunk, voice in zip(chunks, voices, strict=True):
            yield from self.look_at(chunk.tobytes(), voice)

    def look_at(self, chunk: bytes, voice: float) -> Iterator[tuple[str, Turn]]:
        """Take one chunk of 32 ms, and yield what it means for the turn."""
        self.position_ms += CHUNK_MS
        if self.turn is None:
            keep = 1 + self.settings.prefix_padding_ms // CHUNK_MS
            self.padding = [*self.padding, chunk][-keep:]
            if voice >= self.settings.threshold:
                start_ms = self.position_ms - len(self.padding) * CHUNK_MS
                self.turn = Turn(start_ms, bytearray().join(self.padding))
                self.padding = []
                yield "started", self.turn
            return
        turn = self.turn
        turn.audio += chunk
        turn.voice.append(voice)
        if voice >= self.settings.threshold:
            turn.silence_ms = 0
        elif turn.silence_ms or voice < max(0.01, self.settings.threshold - 0.15):  # no soft sound
            turn.silence_ms += CHUNK_MS
        yield "grew", turn
        if turn.silence_ms >= self.settings.silence_duration_ms:
            self.turn = None
            yield "ended", turn
        elif turn.length_ms >= MAX_TURN_MS:
            self.turn = cut(turn)
            yield "ended", turn
            yield "started", self.turn

    def finish(self) -> Iterator[tuple[str, Turn]]:
        """End the turn that is under way, if there is one."""
        turn, self.turn = self.turn, None
        if turn:
            turn.audio += self.rest.tobytes()
            self.rest = self.rest[:0]
            yield "ended", turn


def cut(turn: Turn) -> Turn:
    """Shorten a turn to its quietest moment of the last 10 s, and return what came after."""
    recent = turn.voice[-10_000 // CHUNK_MS :]
    quietness = np.convolve(recent, np.ones(7) / 7, "valid")  # over 7 chunks, 224 ms
    chunks_after = len(quietness) - int(np.argmin(quietness)) + 2
    keep = len(turn.audio) - chunks_after * CHUNK * 2
    rest = Turn(turn.start_ms + keep // 2 * 1000 // SAMPLE_RATE, turn.audio[keep:])
    rest.voice, turn.silence_ms = turn.voice[-chunks_after:], 0
    del turn.audio[keep:]
    return rest


def new_resampler() -> av.AudioResampler:
    """Return what makes 16 kHz mono PCM16 of anything. It has a memory: one for each stream."""
    return av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)


def resampled(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """Yield the sound of a recording as 16 kHz mono PCM16, without its damaged packets."""
    resampler = new_resampler()
    for packet in container.demux(audio=0):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        for frame in frames:
            try:
                parts = resampler.resample(frame)
            except ValueError:  # from here on it is stereo, or of another sample rate
                resampler = new_resampler()
                parts = resampler.resample(frame)
            yield from parts


def find_turns(recording: BinaryIO) -> tuple[list[Turn], float]:
    """Return the turns in a recording of any common format, and its length in seconds.

    Raises ValueError, with a sentence for the user, if it holds no audio or too much.
    """
    detector = TurnDetector()
    turns: list[Turn] = []
    seconds = 0.0
    try:
        # FFmpeg knows hundreds of formats more. Some are only lists of files or addresses to fetch.
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
        with av.open(recording, "r", options=options, metadata_errors="ignore") as container:
            for part in resampled(container):
                events = detector.feed(part.to_ndarray()[0])
                turns.extend(turn for what, turn in events if what == "ended")
                seconds += part.samples / SAMPLE_RATE
                if seconds > MAX_UPLOAD_S:
                    raise ValueError(f"The recording is longer than {MAX_UPLOAD_S} seconds.")
    except (av.FFmpegError, IndexError):
        pass  # no audio; or it breaks off, and what came before is worth hearing
    if not seconds:
        raise ValueError("The file holds no audio that can be decoded.")
    turns.extend(turn for _, turn in detector.finish())
    return turns, seconds


# -------------------------------------------------------------------------------------- HTTP


class ErrorFacts(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error as OpenAI tells it. The page at /docs shows it from here."""

    error: ErrorFacts


app = FastAPI(title="Speech to text", responses={"4XX": {"model": ErrorBody}})
transcriber: Transcriber  # main() makes it
TOO_LARGE = "The file is larger than 25 MB. Send it in parts."
uploads = asyncio.Semaphore(4)  # at the same time; more would only take memory


def error_body(
    message: str,
    code: str | None = None,
    param: str | None = None,
    kind: str = "invalid_request_error",
) -> dict[str, Any]:
    """Return an error in OpenAI's shape, which always has all four keys."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@app.exception_handler(AnyHTTPException)
async def show_http_error(request: Request, error: AnyHTTPException) -> JSONResponse:
    message = TOO_LARGE if error.status_code == 413 else str(error.detail)
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    return JSONResponse(error_body(message, kind=kind), error.status_code, error.headers)


@app.exception_handler(RequestValidationError)
async def show_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return JSONResponse(error_body(f"{name}: {first['msg']}", first["type"], name), 400)


def is_right_key(headers: Headers) -> bool:
    """Compare in constant time, or the time would tell how much of a guessed key is right."""
    given = headers.get("authorization", "").removeprefix("Bearer ")
    return not API_KEY or hmac.compare_digest(given.encode(), API_KEY.encode())


def is_allowed_page(headers: Headers) -> bool:
    """Browsers tell which page asks: without this any page could talk to your computer."""
    origin, host = headers.get("origin"), headers.get("host")
    return origin in (None, f"http://{host}", f"https://{host}", *ALLOWED_ORIGINS)


def is_allowed_name(headers: Headers) -> bool:
    """A page could let a name of its own lead to your computer, and then ask as if it were ours.

    That is DNS rebinding. It needs a name: whoever comes by an address, as 127.0.0.1, is welcome.
    """
    name = re.sub(r":\d+$", "", headers.get("host", ""))
    return bool(re.fullmatch(r"[\d.]+|\[[\da-fA-F:.]+\]", name)) or name.lower() in ALLOWED_HOSTS


@app.middleware("http")
async def guard(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse what is not allowed before anything of it is read."""
    if not is_allowed_page(request.headers):
        return JSONResponse(error_body("This web page is not among ALLOWED_ORIGINS."), 403)
    if not is_allowed_name(request.headers):
        return JSONResponse(error_body("This name is not among ALLOWED_HOSTS."), 403)
    if request.url.path.startswith("/v1/") and not is_right_key(request.headers):
        message = "Wrong or missing key: send API_KEY as a Bearer token."
        return JSONResponse(error_body(message, "invalid_api_key"), 401)
    if int(request.headers.get("content-length", 0)) > MAX_BODY:
        return JSONResponse(error_body(TOO_LARGE), 413)
    return await handle(request)


@app.get("/health")
async def health() -> JSONResponse:
    """Tell whether a transcription would work now (if not: status 503), and with what."""
    engine, problem = transcriber.engine, await transcriber.problem()
    facts = {"engine": engine.name, "model": engine.model, "device": engine.device}
    state = {"status": problem or "ok", "sessions": len(sessions)}
    return JSONResponse(facts | state, 503 if problem else 200)


@app.get("/v1/models")
async def models() -> dict[str, Any]:
    """List the one model that there is."""
    engine = transcriber.engine
    model = {"id": engine.model, "object": "model", "created": 0, "owned_by": engine.name}
    return {"object": "list", "data": [model]}


TEXT_OR_JSON: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}


@app.post("/v1/audio/transcriptions", max_body_size=MAX_BODY, responses=TEXT_OR_JSON)
async def transcriptions(
    request: Request,
    file: UploadFile,
    model: Annotated[str, Form(description="any name: there is one model")] = "",
    language: Annotated[str, Form(description="two letters")] = WHISPER_LANG,
    response_format: Annotated[
        Literal["json", "text", "verbose_json", "srt", "vtt"], Form()
    ] = "json",
) -> Response:
    """Return what is said in a recording. OpenAI's API has the same address and fields."""
    if language and language not in transcriber.engine.languages:
        raise HTTPException(400, f"The model does not know the language {language[:20]!r}.")
    hang_up = asyncio.ensure_future(request.receive())  # there is no more to come but this
    try:
        async with uploads:
            segments, seconds = await segments_in(file.file, language, hang_up)
    finally:
        hang_up.cancel()

    text = " ".join(part.text for part in segments)
    facts: dict[str, Any] = {"text": text, "usage": {"type": "duration", "seconds": seconds}}
    if response_format == "text":
        return PlainTextResponse(text + "\n")
    if response_format in ("srt", "vtt"):
        return PlainTextResponse(subtitles(segments, response_format))
    if response_format == "verbose_json":
        facts |= {"task": "transcribe", "language": language, "duration": seconds}
        facts["segments"] = [{"id": number, **vars(part)} for number, part in enumerate(segments)]
    return JSONResponse(facts)


async def segments_in(
    recording: BinaryIO, language: str, hang_up: asyncio.Future[Any]
) -> tuple[list[Segment], float]:
    """Return what is said in a recording, and its length in seconds. Raises HTTPException."""
    try:
        turns, seconds = await asyncio.to_thread(find_turns, recording)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    segments: list[Segment] = []
    for turn in turns:
        if hang_up.done():
            break  # nobody waits for the rest any more
        try:
            parts = await transcriber.transcribe(bytes(turn.audio), language)
        except Exception as error:  # whatever it is, only this recording is to suffer
            raise HTTPException(500, f"The engine failed: {error!r}.") from None
        start = turn.start_ms / 1000
        segments += [Segment(start + part.start, start + part.end, part.text) for part in parts]
    return segments, seconds


def subtitles(segments: list[Segment], kind: str) -> str:
    """Return the segments as SubRip (srt) or WebVTT (vtt)."""

    def clock(seconds: float) -> str:
        minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
        text = f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds / 1000:06.3f}"
        return text.replace(".", ",") if kind == "srt" else text

    blocks = ["WEBVTT\n"] if kind == "vtt" else []
    for number, part in enumerate(segments, start=1):
        label = f"{number}\n" if kind == "srt" else ""
        blocks.append(f"{label}{clock(part.start)} --> {clock(part.end)}\n{part.text}\n")
    return "\n".join(blocks)


# --------------------------------------------------------------------------------- WebSocket


class AudioFormat(BaseModel):
    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000, 16000] = 24000  # Hz; OpenAI has 24000 only


class TranscriptionConfig(BaseModel):
    model: str = ""  # any name will do: there is one model
    language: str | None = None
    languages: list[str] | None = None  # what OpenAI's newer models have instead


class AudioInput(BaseModel):
    format: AudioFormat = AudioFormat()
    transcription: TranscriptionConfig | None = None
    turn_detection: ServerVad | None = ServerVad()  # None: the client decides, by commit


class Audio(BaseModel):
    input: AudioInput = AudioInput()


class SessionConfig(BaseModel):
    """What session.update may set. Pydantic finds what is wrong with it and says where."""

    type: Literal["transcription"]
    audio: Audio = Audio()


class ClientError(Exception):
    """A mistake of the client's: it is told, and the session goes on."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


def parse(text: str | None) -> dict[str, Any]:
    """Return an event of the client, or raise ClientError."""
    if text is None:
        raise ClientError("invalid_event", "Expected a text message with JSON, got a binary one.")
    if sum(map(text.count, "[{,")) > MAX_PARTS:
        raise ClientError("invalid_event", f"An event has {MAX_PARTS} parts at most.")
    try:
        event = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClientError("invalid_json", f"The message is not JSON: {error}.") from None
    if not isinstance(event, dict):
        raise ClientError("invalid_event", "An event is an object with a type.", "type")
    return event


def updated(old: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return old with the fields of change, at every level: fields left out stay as they are."""
    new = old | change
    for name in old.keys() & change.keys():
        if isinstance(old[name], dict) and isinstance(change[name], dict):
            new[name] = updated(old[name], change[name])
    return new


def agreed_words(before: list[str], now: list[str]) -> list[str]:
    """Return the words with which both hypotheses begin.

    What two looks in a row agree on rarely changes any more: LocalAgreement, Liu et al. 2020.
    """
    agreed = []
    for first, second in zip(before, now, strict=False):
        if first != second:
            break
        agreed.append(second)
    return agreed


@dataclass
class Item:
    """A turn as the client sees it. With manual commit it may be made of several of ours."""

    id: str = field(default_factory=lambda: f"item_{secrets.token_hex(8)}")
    text: str = ""  # of the turns that are written down
    shown: str = ""  # what the deltas said so far
    waiting: int = 0  # turns not written down yet
    seconds: float = 0
    error: str = ""
    is_cleared: bool = False


class Session:
    """One WebSocket. A listener takes events in, a writer sends each turn's text, in order."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.id = f"sess_{secrets.token_hex(8)}"
        self.expires_at = int(time.time()) + MAX_SESSION_S
        self.config = SessionConfig(type="transcription")
        self.resampler = new_resampler()
        self.detector = TurnDetector()
        self.buffered_ms = 0.0  # audio since the last commit
        self.item: Item | None = None  # what is spoken now becomes part of it
        self.last_item_id: str | None = None
        self.early: asyncio.Task[list[Segment]] | None = None  # the text, if nobody goes on
        self.hypothesis: list[str] = []  # the words of the last look
        self.next_look_ms = 0.0  # when to look again, as a length of the turn
        self.finished: asyncio.Queue[tuple[Item, asyncio.Task[list[Segment]] | None, bool]]
        self.finished = asyncio.Queue(MAX_WAITING)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.listener: asyncio.Task[None] | None = None
        self.sending, self.handling = asyncio.Lock(), asyncio.Lock()

    async def run(self) -> None:
        """Serve the client until it leaves or has to."""
        self.listener = self.start(self.listen())
        writer = self.start(self.write())
        try:
            await self.send("session.created", session=self.describe())
            done, _ = await asyncio.wait(
                [self.listener, writer], timeout=MAX_SESSION_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                await self.refuse(1001, "session_expired", "The session's 60 minutes are over.")
            for task in done:
                with suppress(asyncio.CancelledError):
                    task.result()  # an error in here is a mistake of ours: let it be seen
        finally:
            for task in list(self.tasks):
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task that ends with the session at the latest."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        # A failed look is no news: who needs its result finds the error there.
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def send(self, kind: str, **fields: object) -> None:
        """Send an event. A client that does not read it has left."""
        event = {"type": kind, "event_id": f"event_{secrets.token_hex(8)}", **fields}
        try:
            async with asyncio.timeout(MAX_SEND_S), self.sending:
                await self.websocket.send_text(json.dumps(event))
        except (TimeoutError, WebSocketDisconnect, RuntimeError):  # nobody reads any more
            if self.listener:
                self.listener.cancel()

    async def send_error(self, error: ClientError, event_id: object = None) -> None:
        body = error_body(str(error), error.code, error.param)["error"]
        known_id = event_id if isinstance(event_id, str) else None  # JSON could be anything
        await self.send("error", error={**body, "event_id": known_id})

    async def refuse(self, close_code: int, code: str, message: str) -> None:
        """Say why, then close: a close frame alone has little room for reasons.

        Close codes from 3000 on mean what an application likes: RFC 6455, section 7.4.2.
        """
        await self.send_error(ClientError(code, message))
        await self.close(close_code, f"invalid_request_error.{code}")

    async def close(self, close_code: int, reason: str = "") -> None:
        """Say goodbye. A client that reads nothing any more would hold us up for ever."""
        with suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(MAX_CLOSE_S):
                await self.websocket.close(close_code, reason)

    # What the client asks for.

    async def listen(self) -> None:
        """Handle event after event. Meanwhile TCP holds back a client that sends too fast."""
        while True:
            try:
                async with asyncio.timeout(MAX_IDLE_S):
                    message = await self.websocket.receive()
            except TimeoutError:
                return await self.refuse(1001, "session_idle", f"Nothing came for {MAX_IDLE_S} s.")
            if message["type"] == "websocket.disconnect":
                return None
            event: dict[str, Any] = {}
            try:
                event = parse(message.get("text"))
                async with self.handling:
                    await self.handle(event)
            except ClientError as error:
                await self.send_error(error, event.get("event_id"))
            await asyncio.sleep(0)  # even where thousands of events wait, all others get a turn

    async def handle(self, event: dict[str, Any]) -> None:
        """Do what an event asks for. Raises ClientError if that is nonsense."""
        match event.get("type"):
            case "input_audio_buffer.append":
                await self.append(event.get("audio"))
            case "input_audio_buffer.commit":
                await self.commit()
            case "input_audio_buffer.clear":
                self.clear()
                await self.send("input_audio_buffer.cleared")
            case "session.update":
                self.update(event.get("session"))
                await self.send("session.updated", session=self.describe())
            case str(other):
                raise ClientError("invalid_value", f"There is no event {other[:60]!r}.", "type")
            case _:
                raise ClientError("invalid_event", "An event is an object with a type.", "type")

    def update(self, change: object) -> None:
        """Change the settings that a session.update names. Raises ClientError."""
        if not isinstance(change, dict):
            raise ClientError("missing_required_parameter", "session is missing.", "session")
        try:
            old = self.config.model_dump(exclude={"type"})
            config = SessionConfig.model_validate(updated(old, change))
        except ValidationError as error:
            first = error.errors()[0]
            param = ".".join(["session", *(str(name) for name in first["loc"])])
            code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
            raise ClientError(code, f"{param}: {first['msg']}.", param) from None
        asked = config.audio.input.transcription or TranscriptionConfig()
        for language in [*(asked.languages or []), asked.language]:
            if language and language not in transcriber.engine.languages:
                message = f"The model does not know the language {language[:20]!r}."
                param = "session.audio.input.transcription.language"
                raise ClientError("invalid_value", message, param)
        if config.audio.input.format != self.config.audio.input.format:
            self.resampler = new_resampler()
        self.config = config
        self.detector.settings = config.audio.input.turn_detection or ServerVad()

    def describe(self) -> dict[str, Any]:
        """Return the session as it really is, whatever the client asked for."""
        audio = self.config.audio.model_dump()
        model = {"model": transcriber.engine.model, "language": self.language or None}
        audio["input"] |= {"transcription": model, "noise_reduction": None}
        audio["input"]["supported_rates"] = [16000, 24000]
        facts = {"type": "transcription", "object": "realtime.transcription_session"}
        return {**facts, "id": self.id, "expires_at": self.expires_at, "audio": audio}

    @property
    def language(self) -> str:
        """Two letters, or an empty string where the model is to find out."""
        asked = self.config.audio.input.transcription or TranscriptionConfig()
        languages = asked.languages or [asked.language or WHISPER_LANG]
        return languages[0] if len(languages) == 1 else ""

    async def append(self, audio: object) -> None:
        """Take in base64 of PCM16 at the session's sample rate. Raises ClientError."""
        if not isinstance(audio, str):
            raise ClientError("missing_required_parameter", "audio is to be base64.", "audio")
        if len(audio) > MAX_APPEND:
            raise ClientError("invalid_value", "One append holds at most 15 MiB.", "audio")
        try:
            pcm = base64.b64decode(audio, validate=True)
        except ValueError as error:
            raise ClientError("invalid_value", f"audio is no base64: {error}.", "audio") from None
        if len(pcm) % 2:
            raise ClientError("invalid_value", "A PCM16 sample is two bytes: one lacks.", "audio")
        rate = self.config.audio.input.format.rate
        for begin in range(0, len(pcm), 2 * rate):  # by the second, so that all others get a turn
            samples = np.frombuffer(pcm[begin : begin + 2 * rate], "<i2")
            self.buffered_ms += len(samples) / rate * 1000
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = rate
            for part in self.resampler.resample(frame):
                await self.hear(part.to_ndarray()[0])
            await asyncio.sleep(0)

    async def commit(self) -> None:
        """End the turn that is under way. Raises ClientError if there is too little audio."""
        if self.buffered_ms < MIN_COMMIT_MS and not self.detector.turn:
            message = f"There are {self.buffered_ms:.0f} ms of audio to commit, {MIN_COMMIT_MS} "
            raise ClientError("input_audio_buffer_commit_empty", message + "are needed.")
        was_speaking = self.detector.turn is not None
        for _, turn in self.detector.finish():
            await self.turn_ended(turn)
        if not (was_speaking and self.config.audio.input.turn_detection):
            await self.finished.put((await self.commit_item(), None, True))

    def clear(self) -> None:
        """Forget what was not committed."""
        self.buffered_ms = 0
        self.detector.turn, self.detector.padding = None, []
        self.early = None  # or it would become the text of the next turn
        if self.item:
            self.item.is_cleared = True
            self.item = None

    # What is heard, and what the client is told of it.

    async def hear(self, samples: np.ndarray) -> None:
        """Take in int16 samples (n,) at 16 kHz."""
        for what, turn in self.detector.feed(samples):
            if what == "started":
                await self.turn_started(turn)
            elif what == "grew":
                self.turn_grew(turn)
            else:
                await self.turn_ended(turn)

    async def turn_started(self, turn: Turn) -> None:
        """Tell that somebody speaks, if turn detection is on."""
        self.item = self.item or Item()
        self.hypothesis, self.next_look_ms = [], turn.length_ms + (DELTA_MS or math.inf)
        if self.config.audio.input.turn_detection:
            times = {"audio_start_ms": turn.start_ms, "item_id": self.item.id}
            await self.send("input_audio_buffer.speech_started", **times)

    def turn_grew(self, turn: Turn) -> None:
        """Begin with the text early in a pause; look for new words now and then."""
        pause_ms = min(EARLY_MS, self.detector.settings.silence_duration_ms // 2)
        if turn.silence_ms == 0 and self.early:
            self.early.cancel()  # it was no end, only a short pause
            self.early = None
        elif turn.silence_ms >= pause_ms and not self.early:
            self.early = self.start(self.look(turn))
        elif not transcriber.jobs and not turn.silence_ms and turn.length_ms >= self.next_look_ms:
            self.next_look_ms = math.inf  # one look at a time, and none while the engine is busy:
            self.start(self.look(turn, NEWEST_WORDS))  # a late partial result is worth nothing

    async def look(self, turn: Turn, uncertain: int = 0) -> list[Segment]:
        """Return the text of a turn so far, and show what is certain of it."""
        begin = time.monotonic()
        segments = await transcriber.transcribe(bytes(turn.audio), self.language)
        if self.detector.turn is turn and self.item:  # else it has ended meanwhile
            words = " ".join(part.text for part in segments).split()
            certain = agreed_words(self.hypothesis, words[: len(words) - uncertain])
            self.hypothesis = words
            took_ms = (time.monotonic() - begin) * 1000
            wait_ms = max(DELTA_MS, 2 * took_ms) if DELTA_MS else math.inf  # spare a slow engine
            self.next_look_ms = turn.length_ms + wait_ms
            if not self.item.waiting:
                await self.show(self.item, " ".join([*self.item.text.split(), *certain]))
        return segments

    async def turn_ended(self, turn: Turn) -> None:
        """Have the turn transcribed; write() sends its text when its time has come."""
        item = self.item or Item()
        text = self.early  # which is the text of the whole turn, if nobody has spoken since
        if text is None or turn.silence_ms == 0:
            text = self.start(transcriber.transcribe(bytes(turn.audio), self.language))
        self.early = None
        item.waiting += 1
        item.seconds += turn.length_ms / 1000
        has_vad = self.config.audio.input.turn_detection is not None
        if has_vad:
            times = {"audio_end_ms": turn.start_ms + turn.length_ms, "item_id": item.id}
            await self.send("input_audio_buffer.speech_stopped", **times)
            await self.commit_item()
        await self.finished.put((item, text, has_vad))  # waits while too many turns wait

    async def commit_item(self) -> Item:
        """Tell that an item is complete: what is spoken from now on is another one."""
        item, self.item = self.item or Item(), None
        self.buffered_ms = 0
        ids = {"previous_item_id": self.last_item_id}
        self.last_item_id = item.id
        await self.send("input_audio_buffer.committed", **ids, item_id=item.id)
        content = [{"type": "input_audio", "transcript": None}]
        message = {"id": item.id, "type": "message", "status": "completed", "role": "user"}
        for kind in ("conversation.item.added", "conversation.item.done"):
            await self.send(kind, **ids, item={**message, "content": content})
        return item

    async def write(self) -> None:
        """Send the text of turn after turn, in the order in which they were spoken."""
        while True:
            item, text, is_last = await self.finished.get()
            try:
                segments = await text if text else []
            except Exception as error:  # whatever it is, only this turn is to suffer
                item.error = f"The engine failed: {error!r}."
                segments = []
            if text:
                item.waiting -= 1
                item.text = " ".join([item.text, *(part.text for part in segments)]).strip()
                await self.show(item, item.text)
            if is_last and not item.is_cleared:
                kind = "failed" if item.error else "completed"
                usage = {"type": "duration", "seconds": item.seconds}
                result: dict[str, Any] = {"transcript": item.text, "usage": usage}
                if item.error:
                    print(f"{item.id}: {item.error}", flush=True)
                    result = error_body(item.error, "engine_error", kind="transcription_error")
                await self.send(f"{PREFIX}.{kind}", item_id=item.id, content_index=0, **result)
            self.finished.task_done()

    async def show(self, item: Item, text: str) -> None:
        """Send what is new as a delta. Deltas cannot take anything back; completed can."""
        if text.startswith(item.shown) and text != item.shown and not item.is_cleared:
            delta, item.shown = text.removeprefix(item.shown), text
            await self.send(f"{PREFIX}.delta", item_id=item.id, content_index=0, delta=delta)

    async def say_goodbye(self) -> None:
        """Write down the turn that is under way, because the service stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(5), self.handling:
                with suppress(ClientError):  # nothing has come since the last commit
                    await self.commit()
                await self.finished.join()
        await self.close(1012)  # which means that the service restarts


PREFIX = "conversation.item.input_audio_transcription"
sessions: set[Session] = set()


@app.websocket("/v1/realtime")
async def realtime(websocket: WebSocket) -> None:
    """Serve one client, by the rules of OpenAI's Realtime API for transcription.

    https://developers.openai.com/api/docs/guides/realtime-transcription
    """
    if not (is_allowed_page(websocket.headers) and is_allowed_name(websocket.headers)):
        await websocket.close()  # before accept() that is HTTP status 403
        return
    await websocket.accept()
    session = Session(websocket)
    if not is_right_key(websocket.headers):
        await session.refuse(3000, "invalid_api_key", "Wrong or missing key: see API_KEY.")
    elif len(sessions) >= MAX_SESSIONS:
        await session.refuse(1013, "too_many_sessions", f"All {MAX_SESSIONS} places are taken.")
    else:
        sessions.add(session)
        try:
            await session.run()
        finally:
            sessions.discard(session)


# --------------------------------------------------------------------------------- strangers

# Nothing here is about speech. It bounds what somebody who means harm can take, in places where
# uvicorn leaves that open. At a first reading go on at "main".


class HttpConnection(H11Protocol):
    """Uvicorn's side of a connection, but there cannot be ever more of them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self.send_400_response("There are too many connections.")


class WebSocketConnection(WebSocketsSansIOProtocol):
    """Uvicorn's side of a WebSocket, less two ways in which a client could fill the memory."""

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:  # it does not read our answers, so forget this one
            self.conn.data_to_send()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
        elif not self.close_sent:
            self.conn.fail(1009, f"A message has {MAX_FRAGMENTS} frames at most.")
            self.handle_parser_exception()


def is_clients_turn(connection: asyncio.Protocol) -> bool:
    """Tell whether nothing can happen before the client sends or reads something."""
    if isinstance(connection, WebSocketConnection):  # an open one has the limits of its session
        return connection.transport.is_closing() or not connection.handshake_complete
    request = connection.cycle if isinstance(connection, HttpConnection) else None
    return request is None or request.more_body or request.response_started


def is_our_mistake(record: logging.LogRecord) -> bool:
    """Keep a client's broken text out of the log, where uvicorn would explain it at length."""
    return "Invalid UTF-8" not in record.getMessage()


# -------------------------------------------------------------------------------------- main


class Server(uvicorn.Server):
    """Uvicorn, but who blocks a connection has to go, and at the end all get their last words."""

    waiting: frozenset[tuple[Any, Any]] = frozenset()  # connections, each with its last request

    async def on_tick(self, counter: int) -> bool:
        """Drop who is where it was at the last look. Uvicorn calls this every 0.1 s."""
        if counter % (10 * MAX_REQUEST_S) == 0:
            slow = filter(is_clients_turn, self.server_state.connections)
            waiting = frozenset((one, getattr(one, "cycle", None)) for one in slow)
            for connection, _ in waiting & self.waiting:
                connection.transport.abort()
            self.waiting = waiting
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.gather(*(session.say_goodbye() for session in sessions))
        for _ in range(50):  # a second at most, for their goodbyes: to hang up on a client that
            if self.server_state.connections:  # still speaks would lose what it has not read yet
                await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def trace(note: logging.LogRecord) -> bool:
    """Print what travels: > goes out, < comes in, = is the state. The library notes it all."""
    text = re.sub(r"^(. GET [^?]+\?)\S*", r"\1...", note.getMessage())
    text = re.sub(r'(?<="audio": ")[^"]+', "...", text)
    # An address, after its question mark, and most headers may hold a key: those stay unseen.
    has_key = re.match(r"(?i)[<>] (?!Upgrade|Connection|Sec-WebSocket-[KVA])\S+: ", text)
    if note.levelno == logging.DEBUG and text.isprintable() and not has_key:
        print(f"{note.relativeCreated:6.0f} ms {text}")
    return note.levelno > logging.INFO  # warnings and errors go their usual way


def cannot_listen(error: OSError | OverflowError) -> SystemExit:
    """Return what ends the program with a sentence."""
    cause = getattr(error, "strerror", error)  # of an OSError without its number
    return SystemExit(
        f"Cannot listen at {HOST}:{PORT}: {cause}.\n"
        f"If another program has the port, choose another: PORT={PORT + 1}"
    )


def main() -> None:
    """Take the port, load the engine, serve until Ctrl-C."""
    global transcriber
    family = socket.AF_INET6 if ":" in HOST else socket.AF_INET
    # TCP by name: only then asyncio lets small messages leave at once, not with the next ones.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":  # there it means: also right after a restart
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, PORT))
    except (OSError, OverflowError) as error:
        raise cannot_listen(error) from None

    engine = WhisperEngine(WHISPER_MODEL) if WHISPER_MODEL else SphinxEngine()
    if WHISPER_LANG and WHISPER_LANG not in engine.languages:
        known = ", ".join(engine.languages)
        raise SystemExit(f"WHISPER_LANG={WHISPER_LANG}: {engine.name} knows only {known}.")
    VoiceActivity().probabilities(np.zeros((1, CHUNK), np.int16))  # slow the first time, too
    print(f"Engine: {engine.name} ({engine.model}, {engine.device})")
    if not WHISPER_MODEL:
        print("  It makes mistakes. WHISPER_MODEL=small-int8 is far better, once its weights are")
        print("  fetched, and so is the same service in Docker: docker compose up faster-whisper")
    if HOST not in ("127.0.0.1", "::1", "localhost") and not API_KEY:
        print("  Whoever reaches this address may use it. Set API_KEY to change that.")
    try:
        listener.listen(MAX_CONNECTIONS)  # not before: from now on it has to answer
    except OSError as error:  # another one began to listen while this one loaded its engine
        raise cannot_listen(error) from None
    address = f"[{HOST}]" if ":" in HOST else HOST  # IPv6 needs brackets, or port and host mix
    print(f"Listening on ws://{address}:{PORT}/v1/realtime?intent=transcription", flush=True)

    transcriber = Transcriber(engine)
    config = uvicorn.Config(
        app,
        http=HttpConnection,
        ws=WebSocketConnection,
        backlog=MAX_CONNECTIONS,  # asyncio takes in so many at once, before we can count them
        log_level="warning",
        ws_per_message_deflate=False,  # audio does not shrink, it only costs time
        timeout_graceful_shutdown=3,
    )
    logging.getLogger("uvicorn.error").addFilter(is_our_mistake)
    if os.environ.get("TRACE") == "1":
        Frame.MAX_LOG_SIZE = 300  # characters to show of a message
        logging.getLogger("uvicorn.error").setLevel(logging.DEBUG)
        logging.getLogger("uvicorn.error").addFilter(trace)
    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # Ctrl-C is the way to end it, also while it loads a model
        print("\nStopped.")
