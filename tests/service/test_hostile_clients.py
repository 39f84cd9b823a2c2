"""Clients that flood, stall, lie or fill memory: each is bounded, and is told why where it can be.

Each test prints what memory the service took before, at most, and after: see it with `pytest -s`.
SOAK=1 does some of them at greater length.
"""

import asyncio
import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import repeat
from pathlib import Path

import av
import numpy as np
import pytest
import requests
from rude import CONTINUED, HANDSHAKE, PING, TEXT, Rude, closed_with, event, frame, post
from running_lessons import ROOT
from running_service import (
    MICRO_WHISPER,
    TRANSCRIPTION,
    Service,
    StartService,
    changed_copy,
    client,
    closing,
    until,
)
from speech import HELLO, PHRASES, silence, spoken, write_wav

IS_LONG = bool(os.environ.get("SOAK"))
MIB = 2**20
MULTIPART = b"Content-Type: multipart/form-data; boundary=x\r\n"
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


@pytest.fixture(scope="module")
def impatient_service() -> Iterator[Service]:
    """The service, but who blocks it has to go after two seconds."""
    limits = {"MAX_SEND_S": "2", "MAX_REQUEST_S": "2"}
    service = Service({"WHISPER_MODEL": MICRO_WHISPER} | limits)
    yield service
    service.kill()
    assert "Traceback" not in service.output, service.output


@contextmanager
def bounded(service: Service, what: str, mib: float) -> Iterator[None]:
    """Check that memory grows by so much at most, and that no connection stays open."""
    until(lambda: service.health()["sessions"] == 0, 60)  # nobody is left of the test before
    before, files, peak, over = service.memory(), service.open_files(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.01):
            peak = max(peak, service.memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
        until(lambda: service.open_files() <= files + 1, 40)  # 1: what health() keeps alive
    finally:
        over.set()
        watcher.join()
        figures = [f"{n / MIB:.0f}" for n in (before, peak, service.memory())]
        print(f"\n{what}: {', '.join(figures)} MiB before, at most, after")
    assert peak - before < mib * MIB, figures


# ------------------------------------------------------------------------ too much, too fast

FLOODS = {
    "garbage": frame(TEXT, b"{"),
    "empty appends": event("input_audio_buffer.append", audio=""),
    "short appends": event("input_audio_buffer.append", audio="AAAA"),
    "clears": event("input_audio_buffer.clear"),
    "updates": event("session.update", session={"type": "transcription"}),
    "pings": frame(PING, b"x" * 125),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_all_others_get_their_turn_while_one_sends_a_flood_of(kind: str, service: Service) -> None:
    with bounded(service, f"flood of {kind}", 60), Rude(service.port) as rude:
        rude.open()
        rude.read_on()
        flood = threading.Thread(target=rude.flood, args=(FLOODS[kind] * 2000, 4))
        flood.start()
        answers = 0
        while flood.is_alive():
            service.health()
            answers += 1
        assert answers >= 10  # hundreds on an idle machine; without turns for all, one or two


@pytest.mark.parametrize("kind", ["garbage", "clears", "updates"])
def test_one_that_does_not_read_its_answers_is_dropped_and_so_is_its_socket(
    kind: str, impatient_service: Service
) -> None:
    service = impatient_service
    with bounded(service, f"{kind}, answers never read", 60):
        files = service.open_files()
        with Rude(service.port, receive_buffer=4096) as rude:
            rude.open()
            rude.flood(FLOODS[kind] * 2000, 4)
            until(lambda: service.health()["sessions"] == 0)
            until(lambda: service.open_files() <= files + 1)


def test_one_that_does_not_read_cannot_keep_the_service_from_ending(
    start_service: StartService,
) -> None:
    service = start_service()
    with Rude(service.port, receive_buffer=4096) as rude:
        rude.open()
        rude.flood(event("x" * 60, event_id="A" * 500_000) * 10, 2)
        assert service.stop() in (0, -signal.SIGTERM)  # within 20 s


def test_one_that_pings_and_never_reads_takes_no_memory(service: Service) -> None:
    with bounded(service, "pings, answers never read", 30), Rude(service.port, 4096) as rude:
        rude.open()
        assert rude.flood(FLOODS["pings"] * 2000, 5) > 20 * MIB


def test_a_message_of_very_many_small_frames_is_refused(service: Service) -> None:
    with bounded(service, "a frame for each byte", 60), Rude(service.port) as rude:
        rude.open()
        rude.send(frame(TEXT, b"{", is_last=False))
        rude.flood(frame(CONTINUED, b"  ", is_last=False) * 5000, 5)
        code, reason = closed_with(rude.rest())
        assert code == 1009 and "10000 frames" in reason


@pytest.mark.parametrize(
    ("data", "code", "why"),
    [
        (frame(TEXT, bytes(16 * MIB + 1)), 1009, "exceeds limit of 16777216 bytes"),
        (frame(TEXT, b"{}", is_compressed=True), 1002, "reserved bits must be 0"),
        (frame(TEXT, b"\xff\xfe"), 1007, ""),
        (frame(TEXT, b"\xc3", is_last=False) + frame(CONTINUED, b"("), 1007, ""),
        (frame(0x3, b""), 1002, "invalid opcode"),
        (frame(CONTINUED, b"a"), 1002, "unexpected continuation"),
        (b"\x81\x02{}", 1002, "incorrect masking"),
    ],
    ids=["17 MiB", "compressed", "no UTF-8", "no UTF-8, in two", "opcode", "no begin", "no mask"],
)
def test_a_frame_that_must_not_be_ends_the_session_with_the_reason(
    service: Service, data: bytes, code: int, why: str
) -> None:
    before = service.output
    with bounded(service, f"close code {code}", 60), Rude(service.port) as rude:
        rude.open()
        rude.send_what_is_taken(data)
        assert closed_with(rude.rest())[0] == code
        assert why in closed_with(rude.got)[1]
    assert service.output == before  # the client's mistake is not the service's


def test_frames_of_a_message_over_16_mib_are_refused(service: Service) -> None:
    with bounded(service, "17 MiB in frames of 1 MiB", 60), Rude(service.port) as rude:
        rude.open()
        rude.send(frame(TEXT, bytes(MIB), is_last=False))
        rude.send_what_is_taken(frame(CONTINUED, bytes(MIB), is_last=False) * 16)
        assert closed_with(rude.rest())[0] == 1009


async def test_appends_of_15_mib_are_heard_and_longer_ones_refused(service: Service) -> None:
    words = spoken("thank you", 24_000)
    silent = silence(15 * MIB * 3 // 4 // 2 / 24_000, 24_000)
    count = 8 if IS_LONG else 2
    assert len(silent) // 3 * 3 == len(silent)  # no padding: exactly 15 MiB of base64
    with bounded(service, f"{count} sessions with two appends of 15 MiB each", count * 150):
        async with AsyncExitStack() as stack:
            students = [
                await stack.enter_async_context(client(service.url, ping_timeout=None))
                for _ in range(count)
            ]
            for student in students:
                for _ in range(2):
                    await student.append(silent)
                await student.send("input_audio_buffer.append", audio="A" * (15 * MIB + 4))
                await student.append(np.concatenate([words, silence(1, 24_000)]))
            for student in students:
                assert await student.transcripts(1) == ["thank you"]
                assert "15 MiB" in student.all("error")[0]["error"]["message"]


async def test_an_hour_without_a_commit_is_heard_whole(service: Service) -> None:
    minute = np.concatenate([spoken("thank you", 24_000), silence(58.5, 24_000)])
    with bounded(service, "an hour without a commit", 150):  # as PCM16 it would be 165 MiB
        async with client(service.url, ping_timeout=None) as student:
            await student.configure(turn_detection=None)
            await student.append(minute)
            await student.event(f"{TRANSCRIPTION}.delta")
            before = service.memory()
            for _ in range(60):
                for start in range(0, len(minute), 24_000):  # no message is large by itself
                    await student.append(minute[start : start + 24_000])
            await student.send("input_audio_buffer.commit")
            assert await student.transcripts(1) == [" ".join(["thank you"] * 61)]
            assert service.memory() < before + 30e6


async def test_one_that_sends_far_faster_than_it_speaks_does_not_harm_who_speaks_live(
    service: Service,
) -> None:
    """Minutes of speech as fast as the line can, and a neighbour at the speed of speech."""
    pause = silence(0.9, 24_000)
    audio = np.concatenate([part for text in PHRASES for part in (spoken(text, 24_000), pause)])
    minutes = 10 if IS_LONG else 2
    repeats = minutes * 60 * 24_000 // len(audio)
    with bounded(service, f"{minutes} minutes of speech at once", 150):
        async with (
            client(service.url, ping_timeout=None) as hasty,
            client(service.url) as neighbour,
        ):
            for _ in range(repeats):
                await hasty.say(audio)
            await neighbour.say(audio, speed=1)
            assert await neighbour.transcripts(5) == PHRASES
            assert await hasty.transcripts(5 * repeats) == PHRASES * repeats


async def test_64_sessions_are_served_and_one_more_is_told_that_there_are_no_places(
    service: Service,
) -> None:
    audio = np.concatenate([spoken("thank you", 24_000), silence(1, 24_000)])
    with bounded(service, "64 sessions", 250):
        async with AsyncExitStack() as stack:
            students = [
                await stack.enter_async_context(client(service.url, ping_timeout=None))
                for _ in range(64)
            ]
            for student in students:
                await student.event("session.created")
            error, code, _ = await closing(service.url)
            assert code == 1013 and "64 places" in str(error["message"])
            await asyncio.gather(*(student.say(audio) for student in students))
            for student in students:
                assert await student.transcripts(1) == ["thank you"]


# --------------------------------------------------------------------- too slow, too little

HALVES = {
    "nothing": b"",
    "half a request": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "half a handshake": HANDSHAKE,
    "half a file": b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    + MULTIPART
    + b"Content-Length: 1000\r\n\r\n"
    + FILE,
    "a handshake with a body": HANDSHAKE + b"Content-Length: 5\r\n\r\nhello",
    "a header of 9 KB": HANDSHAKE + b"X: " + b"x" * 9000 + b"\r\n\r\n",
    "200 headers": HANDSHAKE + b"".join(b"X%d: x\r\n" % n for n in range(200)) + b"\r\n",
}


@pytest.mark.parametrize("what", HALVES)
def test_one_that_sends_only(what: str, impatient_service: Service) -> None:
    """It is waited for, but not for ever; also where it sends the rest byte by byte."""
    service = impatient_service
    with bounded(service, f"only {what}", 30), Rude(service.port) as rude:
        rude.send(HALVES[what])
        if what.startswith("half"):
            rude.flood(b"X", 30, pause=0.1)
        assert rude.is_hung_up()
    assert service.health()["status"] == "ok"


def test_a_thousand_slow_clients_cannot_take_all_connections(impatient_service: Service) -> None:
    service = impatient_service
    with bounded(service, "1000 half handshakes", 30):
        slow = [Rude(service.port) for _ in range(1000)]
        for rude in slow:
            rude.send_what_is_taken(HANDSHAKE)
        until(lambda: service.open_files() < 200)
        assert slow[-1].is_hung_up()
        assert b"too many connections" in slow[-1].got or not slow[-1].got  # which a reset eats
        until(lambda: b'"ok"' in ask(service))  # all have gone: who comes in good faith is served
        for rude in slow:
            rude.socket.close()


def ask(service: Service) -> bytes:
    with Rude(service.port) as polite:
        polite.send_what_is_taken(
            b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        )
        return polite.rest()


async def test_one_that_asks_and_does_not_read_the_answer_has_to_go(
    impatient_service: Service,
) -> None:
    service = impatient_service
    ask_again = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with bounded(service, "answers over HTTP, never read", 30), Rude(service.port, 4096) as rude:
        files = service.open_files()
        await asyncio.to_thread(rude.flood, ask_again * 100, 3)
        await asyncio.to_thread(until, lambda: service.open_files() <= files)


async def test_who_works_slowly_but_honestly_is_not_dropped(impatient_service: Service) -> None:
    """A session that only listens, and a long recording, take longer than MAX_REQUEST_S."""
    service = impatient_service
    long = np.concatenate([spoken("thank you"), silence(600)] * 3)
    url = f"{service.http_url}/v1/audio/transcriptions"
    async with client(service.url) as listener:
        answer = await asyncio.to_thread(
            requests.post, url, files={"file": packed([long], 16_000)}, timeout=120
        )
        assert answer.json()["text"] == " ".join(["thank you"] * 3)
        await asyncio.sleep(5)
        await listener.say(np.concatenate([spoken("thank you", 24_000), silence(1, 24_000)]))
        assert await listener.transcripts(1) == ["thank you"]


# --------------------------------------------------------------------------------- nonsense


@pytest.mark.parametrize("length", ["-5", "+5", "5.0", "1e5", "abc", "", "5, 6", "9" * 5000])
def test_a_content_length_that_is_no_length_is_refused(service: Service, length: str) -> None:
    headers = MULTIPART + f"Content-Length: {length}\r\n".encode()
    assert post(service.port, headers, FILE)[0] == 400


def test_a_content_length_that_promises_too_much_is_refused_at_once(service: Service) -> None:
    status, answer = post(service.port, MULTIPART + b"Content-Length: 9999999999\r\n")
    assert status == 413 and "25 MB" in answer["error"]["message"]


def test_a_file_in_chunks_without_a_length_is_heard(service: Service) -> None:
    sample = (ROOT / HELLO).read_bytes()
    parts = [FILE, *(sample[n : n + 1000] for n in range(0, len(sample), 1000)), b"\r\n--x--\r\n"]
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])
    status, answer = post(service.port, MULTIPART + b"Transfer-Encoding: chunked\r\n", body)
    assert (status, answer["text"]) == (200, " ".join(PHRASES))


@pytest.mark.parametrize("charset", ["undefined", "idna", "utf-16", "unicode_escape", "zlib"])
def test_a_form_in_a_strange_alphabet_is_no_failure_of_the_service(
    service: Service, charset: str
) -> None:
    body = FILE + b"abc\r\n--x\r\nContent-Disposition: form-data; name=language\r\n\r\n\\ud800\xff"
    body += b"\r\n--x--\r\n"
    headers = MULTIPART[:-2] + f"; charset={charset}\r\nContent-Length: {len(body)}\r\n".encode()
    status, answer = post(service.port, headers, body)
    assert status == 400 and answer["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "event_id",
    ["NaN", "1e999", "[" * 900 + "]" * 900, '{"a":' * 970 + "1" + "}" * 970, '"\\ud800"', "true"],
)
async def test_whatever_an_event_has_as_its_id_the_answer_is_json(
    service: Service, event_id: str
) -> None:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    async with client(service.url) as student:
        await student.event("session.created")
        await student.websocket.send('{"type": "nothing", "event_id": ' + event_id + "}")
        error = await student.event("error")
        json.loads(json.dumps(error), parse_constant=no_constant)
        assert error["error"]["event_id"] in (None, "\ud800")
        await student.configure()


async def test_what_was_cleared_is_not_written_as_the_text_of_the_next_turn(
    service: Service,
) -> None:
    """In the pause the engine has begun already; then the turn is cleared, and a short one comes.

    To be that short, a turn has to begin with one chunk of 32 ms, by a threshold that is changed.
    """
    said = np.concatenate([spoken("thank you"), silence(0.3)])
    said = said[: len(said) // 512 * 512]
    pcm_16 = {"format": {"type": "audio/pcm", "rate": 16_000}}

    def vad(threshold: float, silence_ms: int) -> dict[str, object]:
        return {"threshold": threshold, "silence_duration_ms": silence_ms}

    async with client(service.url) as student:
        await student.configure(**pcm_16, turn_detection=vad(0.5, 5000))
        await student.say(said, 16_000)
        await student.send("input_audio_buffer.clear")
        await student.configure(turn_detection=vad(0, 500))
        await student.append(silence(512 / 16_000))
        await student.configure(turn_detection=vad(1, 500))
        await student.append(silence(1))
        assert await student.transcripts(1) == [""]


# ------------------------------------------------------------------------------------ bombs


def packed(
    pieces: Iterable["np.ndarray[tuple[int], np.dtype[np.int16]]"],
    rate: int,
    container: str = "flac",
    codec: str = "flac",
) -> bytes:
    """Return audio that comes in pieces as a compressed file."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        size = stream.frame_size or 4096
        resampler = av.AudioResampler(stream.format, "mono", rate, size)
        for piece in pieces:
            frame = av.AudioFrame.from_ndarray(piece[None], "s16", "mono")
            frame.sample_rate = rate
            for part in resampler.resample(frame):
                output.mux(stream.encode(part))
        for part in resampler.resample(None):
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("container", "codec"), [("flac", "flac"), ("mp4", "aac")][: 2 if IS_LONG else 1]
)
def test_a_tiny_file_that_unpacks_to_hours_is_refused(
    service: Service, container: str, codec: str
) -> None:
    minutes = repeat(silence(60, 8_000), 120)
    bomb = packed(minutes, 8_000, container, codec)
    assert len(bomb) < 2 * MIB
    url = f"{service.http_url}/v1/audio/transcriptions"
    with bounded(service, f"2 hours of silence, {len(bomb) // 1024} KiB of {container}", 60):
        answer = requests.post(url, files={"file": bomb}, timeout=150)
        assert answer.status_code == 400 and "3600 seconds" in answer.json()["error"]["message"]


@pytest.mark.parametrize("rate", [1, 1000] if IS_LONG else [1])
def test_few_samples_that_last_for_an_hour_take_no_memory(service: Service, rate: int) -> None:
    samples = np.random.default_rng(rate).integers(-30_000, 30_000, 3500 * rate, np.int16)
    wav = io.BytesIO()
    with av.open(wav, "w", format="wav") as output:
        stream = output.add_stream("pcm_s16le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        frame.sample_rate = rate
        output.mux([*stream.encode(frame), *stream.encode(None)])
    url = f"{service.http_url}/v1/audio/transcriptions"
    with bounded(service, f"an hour of noise at {rate} samples per second", 60):
        answer = requests.post(url, files={"file": wav.getvalue()}, timeout=150)
        assert answer.status_code == 200


LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}\n#EXT-X-ENDLIST\n",
    "hls of a file": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile://{sample}\n",
    "concat": "ffconcat version 1.0\nfile {sample}\n",
    "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio {port} RTP/AVP 0\r\n",
    "dash": '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT5S"><Period><AdaptationSet mimeType="audio/wav">'
    '<Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_file_that_only_names_others_makes_the_service_fetch_nothing(
    kind: str, service: Service
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        sample = ROOT / HELLO
        text = LISTS[kind].format(sample=sample, port=port, url=f"http://127.0.0.1:{port}/a.wav")
        url = f"{service.http_url}/v1/audio/transcriptions"
        begin = time.monotonic()
        answer = requests.post(url, files={"file": text.encode()}, timeout=60)
        assert answer.status_code == 400 and "no audio" in answer.json()["error"]["message"]
        assert time.monotonic() - begin < 10  # FFmpeg would wait 20 s for what an sdp names
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has called
            listener.accept()


def test_an_upload_whose_sender_has_hung_up_takes_the_engine_no_longer(
    start_service: StartService, tmp_path: Path
) -> None:
    begin = '    return np.frombuffer(pcm, "<i2")'  # where each engine takes the audio
    slow = f"    print('a turn', flush=True)\n    __import__('time').sleep(0.3)\n{begin}"
    service = start_service(changed_copy(tmp_path, begin, slow), WHISPER_MODEL="")
    turn = np.concatenate([spoken("goodbye"), silence(1)])
    short = write_wav(tmp_path / "short.wav", turn).read_bytes()
    long = write_wav(tmp_path / "long.wav", np.tile(turn, 40)).read_bytes()

    with Rude(service.port) as rude:
        body = FILE + long + b"\r\n--x--\r\n"
        start = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\n" + MULTIPART
        rude.send(start + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: service.output.count("a turn") >= 3)  # the first is the warm-up
    before = service.output.count("a turn")
    url = f"{service.http_url}/v1/audio/transcriptions"
    for _ in range(8):
        assert "bye" in requests.post(url, files={"file": short}, timeout=60).json()["text"]
    assert service.output.count("a turn") <= before + 8 + 2  # two may have been under way
