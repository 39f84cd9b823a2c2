#!/usr/bin/env -S uv run --script
# For uv: `uv run NAME.py` installs what this block lists.
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "aiortc>=1.16,<2",
#     "av>=18,<19",
#     "numpy>=2,<3",
#     "streamlit>=1.66,<2",
#     "streamlit-webrtc>=0.79,<1",
#     "websockets>=15,<18",
# ]
# ///
"""Lesson 8: speech to text in the browser, words that appear on a page while you speak

What you learn
    How a web page gets at a microphone (WebRTC), and how Streamlit shows what happens elsewhere,
    to each visitor their own. In between is lesson 7, with a browser in place of PyAudio:
    browser > listen() > Speech > send_audio() > service > receive_text() > use_phrase() > page
Before you start
    In a first terminal: docker compose up faster-whisper    or: python fastapi_example.py
    Once: python -m pip install -r requirements.txt
Run it
    In a second terminal:   python speech_to_text_webrtc.py
    Or, which is the same:  streamlit run speech_to_text_webrtc.py
    To watch the wire:      TRACE=1 python speech_to_text_webrtc.py
    Then open http://localhost:8501 in a browser. Browsers give their microphone only to
    localhost and to https pages.
You should see
    Press START, allow the microphone, and speak: your words appear in large letters, and each
    phrase joins the list below with its time. You can download the list, also as subtitles.
Try next
    Make the words your own. Change the last line of styled() to
        return words.upper()
    Then replace words, translate them, or let a chatbot answer: all words pass through styled().
"""

import asyncio
import base64
import gc
import json
import logging
import os
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import av
import numpy as np
import streamlit as st
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from streamlit.web.cli import main as run_streamlit
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import Frame

# The first service that answers is used: the one in Docker, or lesson 5.
LOCAL = [f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription" for port in (10300, 8000)]
OPENAI = "wss://api.openai.com/v1/realtime?intent=transcription"
OTHER = os.environ.get("WEBSOCKET_URL", "")
KEYS = dict.fromkeys([*LOCAL, OTHER], os.environ.get("API_KEY", "").strip())  # no others get them
KEYS[OPENAI] = os.environ.get("OPENAI_API_KEY", "").strip()
MODEL = os.environ.get("TRANSCRIPTION_MODEL", "gpt-live-transcribe")  # local services have only one
LANGUAGE = os.environ.get("TRANSCRIPTION_LANGUAGE", "")  # "en", "de" …; empty: the service decides
LANGUAGES = {"": "the service decides", "en": "English", "de": "German", "es": "Spanish"}
LANGUAGES |= {"fr": "French", "it": "Italian", "ja": "Japanese", "ko": "Korean", "zh": "Chinese"}
LANGUAGES.setdefault(LANGUAGE, LANGUAGE)

SAMPLE_RATE = 24_000  # Hz; OpenAI accepts no other
CHUNK_MS = 40  # sound travels in pieces this long; longer ones would delay the words
CHUNK = SAMPLE_RATE * CHUNK_MS // 1000  # samples
SILENCE_MS = 500  # a pause this long ends a phrase
LONGEST_MS = 30_000  # and so does this much speech without a pause
QUIET = 0.02  # of full scale; anything softer is not a voice
KEEP_MS = 300_000  # older sound is forgotten, even if no service has heard it
LAST_WORDS_S = 60  # how long to wait for the last words after STOP
PATIENCE_S = 5  # how long a microphone may stay silent before the page says so
REFRESH_S = 0.2  # how often the page is drawn while somebody speaks

# Where two computers cannot see each other, STUN and TURN servers show them a way. On one computer
# they would only take time. Example: ICE_SERVERS='[{"urls": "stun:stun.example.org:3478"}]'
ICE_SERVERS = json.loads(os.environ.get("ICE_SERVERS", "[]"))
# What browsers do to make phone calls pleasant spoils the sound for a speech model.
CONSTRAINTS = {"echoCancellation": False, "noiseSuppression": False, "autoGainControl": False}


def styled(words: str) -> str:
    """Return words as the page shows them. This is where your own project can begin."""
    return words


def show_page() -> None:
    """Draw the page. Streamlit runs this file again whenever its visitor does something."""
    from streamlit_webrtc import WebRtcMode, webrtc_streamer

    st.set_page_config("Speech to text", "🎙️")
    st.title("Speech to text")
    visitor: Visitor = st.session_state.setdefault("visitor", Visitor())
    visitor.service = choose_service()
    show_microphone_problem()
    if stream := st.session_state.get("microphone"):
        # When two runs of this file follow each other quickly, streamlit-webrtc 0.79 may believe
        # that the visitor was on another page meanwhile, and hang up. There is no other page.
        stream._last_rendered_run_count = None
    stream = webrtc_streamer(
        key="microphone",
        mode=WebRtcMode.SENDONLY,
        rtc_configuration={"iceServers": ICE_SERVERS},
        media_stream_constraints={"audio": CONSTRAINTS, "video": False},
        sink_audio_track=Microphone(visitor),
    )
    is_on = stream.state.playing or stream.state.signalling
    visitor.started_at = (visitor.started_at or time.monotonic()) if is_on else 0
    gc.collect()  # forgets visitors who have left (start_streamlit() says why we do this here)
    run_every = REFRESH_S if visitor.is_busy() else None
    st.fragment(show_speech, run_every=run_every)(run_every)


def show_speech(run_every: float | None) -> None:
    """Draw what changes all the time. While somebody speaks, Streamlit calls only this."""
    visitor: Visitor = st.session_state.visitor
    if run_every and not visitor.is_busy():
        st.rerun()  # the last words have come: draw the whole page once more, and then rest
    if visitor.work and visitor.work.done():
        visitor.work.result()  # shows you a mistake that you made below, if there is one
    show_state(visitor)
    words = styled(visitor.speech.partial)
    if not words and not visitor.phrases:
        words = "Your words will appear here."
    st.html(f'<p class="live" style="font-size: 2.2rem; min-height: 5.5rem">{escape(words)}</p>')
    if visitor.phrases:
        with st.container(height=300, autoscroll=True):
            st.text(as_text(visitor.phrases))
        with st.container(horizontal=True):
            st.button("Clear", icon=":material/delete:", on_click=visitor.phrases.clear)
            for kind, convert in (("txt", as_text), ("srt", as_subtitles)):
                file = convert(visitor.phrases), f"speech.{kind}"
                st.download_button(f"Download {kind}", *file, on_click="ignore")


@dataclass
class Phrase:
    """What was said between two pauses; start and end in seconds since the first START."""

    start: float
    end: float
    text: str


class Service(NamedTuple):
    """Where speech becomes text, as the visitor has chosen it. The first address that works."""

    urls: tuple[str, ...] = ()
    key: str = ""
    language: str = ""


class Visitor:
    """What the program knows about one visitor."""

    def __init__(self) -> None:
        self.service = Service()
        self.phrases: list[Phrase] = []
        self.speech = Speech(self.service, self.phrases, 0)
        self.speech.has_ended = True  # nobody has pressed START yet
        self.work: asyncio.Task[None] | None = None
        self.started_at = 0.0  # when START was pressed, in seconds; 0 means that it is off

    def is_busy(self) -> bool:
        """Say whether anything may still change on the page by itself."""
        return self.started_at > 0 or (self.work is not None and not self.work.done())


class Microphone:
    """Where a visitor's sound comes in, from START to STOP.

    WebRTC calls this a sink. It wants the four methods after the first one.
    """

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor

    def addTrack(self, track: MediaStreamTrack) -> None:  # noqa: N802
        self.track = track

    def hasTrack(self) -> bool:  # noqa: N802
        return hasattr(self, "track")

    def start(self) -> None:
        self.loop, visitor = asyncio.get_running_loop(), self.visitor
        offset = visitor.speech.offset + len(visitor.speech.chunks)
        visitor.speech = Speech(visitor.service, visitor.phrases, offset)
        visitor.work = asyncio.create_task(transcribe(visitor.speech))
        self.listening = asyncio.create_task(self.listen(visitor.speech, visitor.work))

    def stop(self) -> None:
        if self.hasTrack():
            with suppress(RuntimeError):  # the program ends, and its event loop has ended
                self.loop.call_soon_threadsafe(self.listening.cancel)

    async def listen(self, speech: "Speech", work: asyncio.Task[None]) -> None:
        """Take in what the browser sends, 20 ms at a time, until STOP or until it has gone."""
        try:
            with suppress(MediaStreamError):
                while True:
                    speech.add(cast(av.AudioFrame, await self.track.recv()))
        finally:
            self.track.stop()  # or everything that still comes would be kept
            speech.add(None)
            timer = self.loop.call_later(LAST_WORDS_S, work.cancel)
            work.add_done_callback(lambda _: timer.cancel())


# ---- From here to the next line it is lesson 7, nearly word for word. ----


class Speech:
    """What one visitor says between START and STOP, in chunks, and how much has become text.

    A position is the number of a chunk. All this happens on one event loop. The page is drawn by
    other threads: they may look at what is here, but never change it.
    """

    def __init__(self, service: Service, phrases: list[Phrase], offset: int) -> None:
        self.service = service
        self.phrases = phrases  # of this visitor, also from earlier STARTs
        self.offset = offset  # how many chunks there were before this START
        self.resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE, CHUNK)
        self.chunks: list[bytes] = []  # PCM16: two bytes a sample
        self.forgotten = 0  # chunks before this position have been forgotten
        self.has_ended = False
        self.news = asyncio.Event()  # another chunk, or the end
        self.understood = 0  # everything before this position has its text
        self.partial = ""  # words that may still change
        self.has_vad = True  # the service finds the pauses (voice activity detection)
        self.commits: list[tuple[int, int]] = []  # if not: the phrases we found, start and end
        self.problem = ""  # for the page
        self.connected_to = ""

    def add(self, frame: av.AudioFrame | None) -> None:
        """Cut sound of any sample rate into chunks. None means that there is no more."""
        if not self.has_ended:
            self.chunks += [part.to_ndarray().tobytes() for part in self.resampler.resample(frame)]
            self.has_ended = frame is None
            self.forget(len(self.chunks) - KEEP_MS // CHUNK_MS)
            self.news.set()

    def forget(self, end: int) -> None:
        """Put silence in place of the sound before a position. All silence is the same object."""
        for position in range(self.forgotten, end):
            self.chunks[position] = SILENCE
        self.forgotten = max(self.forgotten, end)

    async def chunk_at(self, position: int) -> bytes:
        """Return a chunk; wait for it if nobody has said it yet. b"" is the end."""
        while position >= len(self.chunks) and not self.has_ended:
            self.news.clear()
            await self.news.wait()
        return self.chunks[position] if position < len(self.chunks) else b""


def use_phrase(speech: Speech, phrase: str, start: int, end: int) -> None:
    """Add what was said to the visitor's list."""
    start_s, end_s = ((speech.offset + position) * CHUNK_MS / 1000 for position in (start, end))
    speech.phrases.append(Phrase(start_s, end_s, styled(phrase)))
    speech.phrases.sort(key=lambda each: each.start)  # last words may come after the next START


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
            speech.problem = f"The service says: {event['error']['message']}"
        speech.partial = " ".join(turn.text for turn in turns.values() if not turn.is_final)
        for item, turn in list(turns.items()):
            if not turn.is_final:
                break  # a later phrase may be ready first: it has to wait
            if turn.text:
                use_phrase(speech, turn.text, turn.start, turn.end)
                speech.problem = ""  # whatever it was, it is over
            speech.understood = max(turn.end, speech.understood)
            speech.forget(speech.understood)
            del turns[item]


async def transcribe(speech: Speech) -> None:
    """Send sound and receive text at the same time. If the service dies, find it and go on."""
    try:
        while True:
            websocket = await reconnect(speech)
            speech.commits.clear()
            try:
                async with websocket, asyncio.TaskGroup() as both_ways:
                    both_ways.create_task(send_audio(websocket, speech))
                    both_ways.create_task(receive_text(websocket, speech))
                return
            except* ConnectionClosed:
                speech.problem = "Lost the connection. Reconnecting … Nothing you say will be lost."
            speech.connected_to = ""
            await asyncio.sleep(1)
    except PermissionError as error:  # a wrong key: to try again would not help
        speech.problem = explain(error, speech)
    except asyncio.CancelledError:
        speech.problem = f"No answer for {LAST_WORDS_S} s. The last words are missing."
    finally:
        speech.connected_to = speech.partial = ""
        speech.forget(len(speech.chunks))


async def reconnect(speech: Speech) -> ClientConnection:
    """Find the service, however long that takes. Meanwhile the page says what is wrong."""
    while True:
        try:
            return await find_service(speech)
        except PermissionError:
            raise
        except (OSError, ValueError, WebSocketException, ImportError) as error:
            speech.problem = explain(error, speech)
        await asyncio.sleep(1)


# ---- The rest is plumbing: you can skip it when you read this for the first time. ----

SILENCE = bytes(2 * CHUNK)
EXPLANATIONS: dict[type[Exception], str] = {  # for the first kind of error that fits
    PermissionError: "{where} refuses your API key. Press STOP, type the right one, and START.",
    ConnectionRefusedError: """No service is running at {where} (connection refused). Start one in
another terminal: `docker compose up faster-whisper` or `python fastapi_example.py`
Keep talking: what you say is kept, and becomes text when the service is there.""",
    OSError: """Cannot reach {where}. Is the address right? Does it begin with ws:// or wss://?
If the service has a certificate of its own, put the name of that file into SSL_CERT_FILE.""",
    WebSocketException: f"""There is no transcription service at {{where}}. Press STOP, correct the
address, and START. A complete address looks like `{LOCAL[1]}`""",
    Exception: "{where} refuses. Press STOP, check the settings, and START.",
}
NO_SOUND = """The browser and this program do not find each other. Is there a VPN or a firewall
between them? Switch it off. On two computers, set ICE_SERVERS (see the top of the program)."""
SILENT_MICROPHONE = """The microphone is silent. Is it muted, or is it the wrong one? Press STOP.
Then SELECT DEVICE shows which one the browser uses."""
MICROPHONE_PROBLEMS = {
    "insecure": """The browser gives its microphone only to https pages and to localhost. On the
computer that runs the program, open http://localhost:8501. From another one, make a tunnel first:
`ssh -L 8501:127.0.0.1:8501 NAME@THAT_COMPUTER`""",
    "denied": """The browser does not let this page use the microphone (permission denied). Click
the icon left of the address, allow the microphone, and reload the page. On a Mac, also look into
System Settings > Privacy & Security > Microphone.""",
    "missing": """The browser finds no microphone. Plug one in, or switch it on in your system's
sound settings. Then this message goes away by itself.""",
}
CHECK_MICROPHONE = """
export default async function ({ data, setStateValue }) {
  let told = data
  const tell = (problem) => { if (problem !== told) setStateValue("problem", told = problem) }
  const devices = navigator.mediaDevices
  if (!devices) return tell("insecure")
  const permission = await navigator.permissions.query({ name: "microphone" })
  const look = async () => {
    const all = await devices.enumerateDevices()
    const isThere = all.some((device) => device.kind === "audioinput")
    tell(permission.state === "denied" ? "denied" : isThere ? "" : "missing")
  }
  permission.onchange = devices.ondevicechange = look
  look()
}
"""


def show_microphone_problem() -> None:
    """Let the browser say whether there is a microphone that this page may use."""
    look = st.components.v2.component("check_microphone", js=CHECK_MICROPHONE)
    problem = st.session_state.get("check", {}).get("problem", "")
    look(key="check", data=problem, on_problem_change=lambda: None)
    if problem:
        st.error(MICROPHONE_PROBLEMS[problem], icon=":material/mic_off:")


def choose_service() -> Service:
    """Let the visitor choose. A key goes only to the service whose field it was typed into."""
    choices = {"This computer": LOCAL, "OpenAI": [OPENAI], "Another": [OTHER]}
    with st.expander("Service, key, and language"):
        name = st.radio("Service", choices, index=2 if OTHER else 0, horizontal=True)
        urls = choices[name]
        if name == "Another":
            urls = [st.text_input("Address", OTHER, placeholder="ws://…").strip()]
        own_key = KEYS.get(urls[0], "")
        hint = "from the environment" if own_key else "only if the service wants one"
        field = f"key for {urls[0]}"
        key = st.text_input("API key", key=field, type="password", placeholder=hint).strip()
        if not (key.isascii() and key.isprintable()):
            st.error("Your API key contains a character that keys never have. Copy it again.")
            key = ""
        language = st.selectbox(
            "Language", LANGUAGES, list(LANGUAGES).index(LANGUAGE), lambda code: LANGUAGES[code]
        )
        st.caption("What you choose here counts from the next START.")
    return Service(tuple(urls), key or own_key, language)


def show_state(visitor: Visitor) -> None:
    """Draw the badges and the level meter, and say what is wrong if something is."""
    speech = visitor.speech
    heard = [] if speech.has_ended else speech.chunks
    recent = heard[-PATIENCE_S * 1000 // CHUNK_MS :]
    is_speaking = any(loudness(chunk) > QUIET for chunk in recent[-SILENCE_MS // CHUNK_MS :])
    # A problem with one service is none with another that was chosen meanwhile.
    problem = speech.problem if speech.service == visitor.service else ""
    with st.container(horizontal=True):
        st.badge(f"microphone {'on' if heard else 'off'}", color="green" if heard else "gray")
        if speech.connected_to:
            st.badge(f"service on: {speech.connected_to}", color="green")
        else:
            st.badge(
                "service away" if problem else "service off", color="red" if problem else "gray"
            )
        st.badge("speaking" if is_speaking else "quiet", color="violet" if is_speaking else "gray")
    st.progress(loudness(heard[-1]) ** 0.5 if heard else 0.0)  # the root, because ears work so
    if problem:
        st.error(problem, icon=":material/cloud_off:")
    if not heard and visitor.started_at and time.monotonic() > visitor.started_at + PATIENCE_S:
        st.warning(NO_SOUND)
    elif len(recent) * CHUNK_MS >= PATIENCE_S * 1000 and max(map(loudness, recent)) < 0.001:
        st.warning(SILENT_MICROPHONE, icon=":material/mic_off:")


def clock(seconds: float) -> str:
    """Return 65.25 as 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def as_text(phrases: list[Phrase]) -> str:
    """Return the phrases, each in a line with its time."""
    return "".join(f"[{clock(phrase.start)}] {phrase.text}\n" for phrase in phrases)


def as_subtitles(phrases: list[Phrase]) -> str:
    """Return the phrases as SubRip (srt), which every video player reads."""
    lines = []
    for number, phrase in enumerate(phrases, start=1):
        times = []
        for seconds in (phrase.start, phrase.end):  # 65.25 becomes 00:01:05,250
            rest = f"{seconds % 60:06.3f}".replace(".", ",")
            times.append(f"{int(seconds) // 3600:02}:{int(seconds) // 60 % 60:02}:{rest}")
        lines += [str(number), " --> ".join(times), phrase.text, ""]
    return "\n".join(lines)


def explain(error: Exception, speech: Speech) -> str:
    """Return what is wrong with the service, and what to do about it."""
    where = " or ".join(url.partition("/v1")[0] for url in speech.service.urls)
    text = next(text for kind, text in EXPLANATIONS.items() if isinstance(error, kind))
    return f"{text.format(where=where)} ({str(error) or 'no answer'})"


def loudness(pcm: bytes) -> float:
    """Return the loudest sample of PCM16 sound, from 0 to 1."""
    return float(np.abs(np.frombuffer(pcm, np.int16).astype(int)).max(initial=0) / 32768)


async def find_service(speech: Speech) -> ClientConnection:
    """Open a session with the first service that answers."""
    *others, last = speech.service.urls
    for url in others:
        with suppress(ConnectionError, TimeoutError, WebSocketException):
            return await open_session(url, speech)
    return await open_session(last, speech)


def is_near(url: str) -> bool:
    """Say whether an address is on this computer or in the local network."""
    host = urlsplit(url).hostname or ""
    return "." not in host or host.startswith(("127.", "10.", "172.", "192.168."))


async def open_session(url: str, speech: Speech) -> ClientConnection:
    """Connect to a service. Agree on the sound, and on who looks for the pauses."""
    key, language = speech.service.key, speech.service.language
    websocket = await connect(
        url,
        additional_headers={"Authorization": f"Bearer {key}"} if key else {},
        proxy=None if is_near(url) else True,  # a proxy finds only what is in the internet
        ping_interval=10,  # seconds, so that a dead line is noticed
        ping_timeout=10,  # after 20 seconds
        close_timeout=1,  # second; a service that hangs must not keep us waiting
    )
    # All settings: https://developers.openai.com/api/docs/guides/realtime-transcription
    transcription = {"model": MODEL} | ({"languages": [language]} if language else {})
    vad: dict[str, object] | None = {"type": "server_vad", "silence_duration_ms": SILENCE_MS}
    while True:
        match json.loads(await asyncio.wait_for(websocket.recv(), 20)):
            case {"type": "session.updated"}:
                speech.has_vad = vad is not None
                speech.connected_to, speech.problem = urlsplit(url).netloc, ""
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


def start_streamlit() -> None:
    """Do what `streamlit run speech_to_text_webrtc.py` does, for this computer only."""
    if os.environ.setdefault("STREAMLIT_SERVER_ADDRESS", "127.0.0.1") == "127.0.0.1":
        # Nor for pages that let a name of their own lead to it (DNS rebinding).
        os.environ.setdefault("STREAMLIT_SERVER_ALLOWED_HOSTS", "localhost 127.0.0.1")
    os.environ.setdefault("STREAMLIT_SERVER_SHOW_EMAIL_PROMPT", "false")
    os.environ.setdefault("STREAMLIT_BROWSER_GATHER_USAGE_STATS", "false")
    os.environ.setdefault("STREAMLIT_CLIENT_TOOLBAR_MODE", "viewer")  # no Deploy button
    # Streamlit would search all memory for garbage after each drawing, which took half a core.
    os.environ.setdefault("STREAMLIT_RUNNER_POST_SCRIPT_GC", "false")
    sys.argv[:1] = ["streamlit", "run", __file__]
    run_streamlit()


if st.runtime.exists():
    if os.environ.get("TRACE"):  # the library reports everything that travels to the service
        Frame.MAX_LOG_SIZE = 300  # characters of a message
        printer = logging.StreamHandler(sys.stdout)
        printer.setFormatter(logging.Formatter("%(relativeCreated)6.0f ms %(message)s"))
        key_holders = ("> Authorization", "> GET")  # never show these
        printer.addFilter(lambda note: not note.getMessage().startswith(key_holders))
        wire = logging.getLogger("websockets.client")
        wire.handlers, wire.level, wire.propagate = [printer], logging.DEBUG, False
    show_page()
elif __name__ == "__main__":
    start_streamlit()
