"""Ctrl-C and SIGTERM at random moments: every lesson ends as it promises, and lets go of all.

The moments are counted from a lesson's first line. Before that Python imports the libraries, and
who presses Ctrl-C then sees Python's own traceback: to hide that would cost each lesson more lines
than it is worth. SOAK=1 tries ten moments instead of three, with each of the two signals.
"""

import asyncio
import io
import os
import random
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pexpect
import pytest
from microphone import Microphone
from running_lessons import ROOT, OpenLesson, free_port
from running_service import TRANSCRIPTION, Service, StartService, client
from speech import HELLO, PHRASES, lines, silence, spoken
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from wires import lesson_server

MOMENTS = 10 if os.environ.get("SOAK") else 3
ECHO, PING = "websocket_server_echo.py", "websocket_server_echo_ping.py"
Lesson: TypeAlias = "pexpect.spawn[str]"


def moments(seed: str, seconds: float) -> Iterator[tuple[signal.Signals, float]]:
    """Return moments in so many seconds, the first of them 0, for each of both signals."""
    dice = random.Random(seed)
    for how in (signal.SIGINT, signal.SIGTERM):
        yield how, 0.0
        for _ in range(MOMENTS - 1):
            yield how, dice.uniform(0, seconds)


@dataclass
class Ending:
    """How a lesson ended: its exit status, or the signal as a negative number, and its words."""

    how: signal.Signals
    moment: float
    status: int
    output: str


def stop(lesson: Lesson, how: signal.Signals, moment: float) -> Ending:
    """Let a lesson run for a moment, then press Ctrl-C or send SIGTERM, and see how it ends."""
    lesson.logfile_read = output = io.StringIO()
    if lesson.expect([pexpect.TIMEOUT, pexpect.EOF], timeout=moment) == 0:
        with suppress(OSError):  # it has ended in this very moment
            lesson.sendintr() if how == signal.SIGINT else lesson.kill(how)
        lesson.expect(pexpect.EOF)
    lesson.wait()
    status = -(lesson.signalstatus or 0) if lesson.exitstatus is None else lesson.exitstatus
    return Ending(how, moment, status, str(output.getvalue()))


def stop_all(lessons: list[Lesson], seed: str, seconds: float) -> list[Ending]:
    """Stop each lesson at its moment, all at the same time, which takes no longer than one."""
    plan = list(moments(seed, seconds))
    assert len(plan) == len(lessons)
    with ThreadPoolExecutor(len(lessons)) as threads:
        endings = list(
            threads.map(lambda pair: stop(pair[0], *pair[1]), zip(lessons, plan, strict=True))
        )
    for ending in endings:
        for complaint in ("Traceback", "never retrieved", "never awaited", "Error"):
            assert complaint not in ending.output, ending
    return endings


def as_many(start: Callable[[], Lesson]) -> list[Lesson]:
    """Start a lesson once for each moment and signal."""
    return [start() for _ in moments("", 0)]


def is_free(port: int) -> bool:
    """Say whether a server could start at this port now."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("name", [ECHO, PING])
def test_the_echo_servers_say_goodbye_and_leave_their_port(
    name: str, open_lesson: OpenLesson
) -> None:
    ports: list[int] = []

    def start() -> Lesson:
        ports.append(free_port())
        return open_lesson(name, env={"PORT": str(ports[-1]), "PING_SECONDS": "0.05"})

    def chat(port: int) -> int | None:
        with connect(f"ws://127.0.0.1:{port}", proxy=None) as client:
            with suppress(ConnectionClosed):
                while True:
                    client.send("hello")
                    client.recv()
            return client.close_code

    servers = as_many(start)
    for server in servers:
        server.expect("Listening on")
    with ThreadPoolExecutor(len(ports)) as threads:
        codes = [threads.submit(chat, port) for port in ports]
        endings = stop_all(servers, name, 1)
    for ending, code, port in zip(endings, codes, ports, strict=True):
        if ending.how == signal.SIGINT:
            assert ending.status == 0 and ending.output.rstrip().endswith("Stopped."), ending
            assert ending.moment == 0 or code.result() == 1001, ending
        else:
            assert ending.status == -signal.SIGTERM, ending
        assert is_free(port)


def test_the_client_leaves(open_lesson: OpenLesson, tmp_path: Path) -> None:
    port = free_port()
    with lesson_server(tmp_path, ECHO, port):
        clients = as_many(
            lambda: open_lesson("websocket_client_example.py", f"ws://127.0.0.1:{port}")
        )
        for client_ in clients:
            client_.expect("Connected to")
            client_.send("a line\n" * 20)
        endings = stop_all(clients, "client", 0.3)
    for ending in endings:
        if ending.how == signal.SIGINT:
            assert ending.status == 0 and ending.output.rstrip().endswith("Left."), ending
        else:
            assert ending.status == -signal.SIGTERM, ending


def test_the_window_closes(open_lesson: OpenLesson, tmp_path: Path) -> None:
    port = free_port()
    with lesson_server(tmp_path, PING, port) as server:
        env = {"WEBSOCKET_URL": f"ws://127.0.0.1:{port}", "SDL_VIDEODRIVER": "dummy"}
        windows = as_many(lambda: open_lesson("pygame_websocket.py", env=env))
        server.says(rf"(?s)(?: connected\n.*?){{{len(windows)}}}")  # a window itself prints nothing
        endings = stop_all(windows, "window", 1)
        server.says(rf"(?s)(?: left .*?){{{len(windows)}}}")
    for ending in endings:
        assert ending.status in (0, -ending.how), ending
        if ending.how == signal.SIGINT:
            assert ending.status == 0 and ending.output.rstrip().endswith("Stopped."), ending


# --- those that hear ---


async def test_the_service_writes_down_all_turns_and_leaves_its_port(
    start_service: StartService,
) -> None:
    speech = np.concatenate([np.append(spoken(text), silence(0.8)) for text in PHRASES[:3]])

    async def speak_to(service: Service, how: signal.Signals, moment: float) -> list[str]:
        async with client(service.url) as student:
            await student.event("session.created")
            await student.configure(format={"type": "audio/pcm", "rate": 16_000})
            speaking = asyncio.create_task(student.say(speech, 16_000, speed=1))
            await asyncio.sleep(moment)
            assert await asyncio.to_thread(service.stop, how) in (0, -signal.SIGTERM)
            await asyncio.wait([student.reading, speaking])
            with suppress(ConnectionClosed):
                await speaking
            await asyncio.gather(student.reading, return_exceptions=True)
            assert student.websocket.close_code == 1012
            texts = student.all(f"{TRANSCRIPTION}.completed")
            ids = [event["item_id"] for event in texts]
            assert ids == [
                event["item_id"] for event in student.all("input_audio_buffer.committed")
            ]
            assert is_free(service.port)
            return [event["transcript"] for event in texts]

    plan = list(moments("service", len(speech) / 16_000 - 1))
    services = [await asyncio.to_thread(start_service) for _ in plan]
    heard = await asyncio.gather(
        *(speak_to(service, *when) for service, when in zip(services, plan, strict=True))
    )
    for texts, (_, moment) in zip(heard, plan, strict=True):
        said_s = np.cumsum([len(spoken(text)) / 16_000 + 0.8 for text in PHRASES[:3]])
        finished = int(np.searchsorted(said_s, moment - 0.5))  # 0.5 s for the way to the service
        assert texts[:finished] == PHRASES[:finished], (moment, texts)


def test_ctrl_c_while_the_weights_are_fetched_is_no_fault(
    open_lesson: OpenLesson, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"WHISPER_MODEL": "tiny", "HF_ENDPOINT": address, "HF_HOME": str(tmp_path)}
        lesson = open_lesson("-m", "service", env=env | {"PORT": str(free_port())})
        lesson.expect("This happens only once")
        with silent.accept()[0]:
            ending = stop(lesson, signal.SIGINT, 0.2)
    assert ending.status == 0 and "Traceback" not in ending.output, ending


def recordings(microphone: Microphone) -> list[str]:
    """Return which programs have the microphone open now; PulseAudio's own modules are none."""
    command = ["pactl", "list", "short", "source-outputs"]
    env = os.environ | microphone.environment
    rows = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    return [row for row in rows.splitlines() if "module-remap-source" not in row]


def test_the_single_recording_lets_go_of_the_microphone(
    service: Service, microphone: Microphone, open_lesson: OpenLesson
) -> None:
    env = microphone.environment | {"SERVICE_URL": service.http_url}
    speaking = microphone.say(ROOT / HELLO)
    lessons = as_many(
        lambda: open_lesson("simple_transcription_test.py", "--seconds", "2", env=env)
    )
    for lesson in lessons:
        lesson.expect("✓ service")
    for ending in stop_all(lessons, "single recording", 3):
        came_first = "✓ transcript" in ending.output or "✗" in ending.output
        if ending.how == signal.SIGINT:
            assert came_first or ending.output.rstrip().endswith("Stopped."), ending
            assert ending.status == 0 or came_first, ending
        else:
            assert ending.status == -signal.SIGTERM or came_first, ending
    speaking.terminate()
    assert recordings(microphone) == []


def test_the_live_transcription_writes_the_last_words_and_lets_go_of_the_microphone(
    service: Service, microphone: Microphone, open_lesson: OpenLesson
) -> None:
    env = microphone.environment | {"WEBSOCKET_URL": service.url}
    lesson = open_lesson("simple_audio_transcription.py", "--list-devices", env=env)
    lesson.expect(r"(\d+)  default")
    assert isinstance(lesson.match, re.Match)
    arguments = ["--device", str(lesson.match.group(1)), "--seconds", "600"]
    lessons = as_many(lambda: open_lesson("simple_audio_transcription.py", *arguments, env=env))
    for lesson in lessons:
        lesson.expect("Speak!")
    assert len(recordings(microphone)) == len(lessons)
    speaking = microphone.say(ROOT / HELLO)
    for ending in stop_all(lessons, "live", 10):
        said = lines(ending.output)
        assert said[:-1] == PHRASES[: max(0, len(said) - 1)], ending  # the last one may be cut
        if ending.how == signal.SIGTERM:
            assert ending.status == -signal.SIGTERM, ending
            continue
        assert ending.status == 0, ending
        summary = re.findall(r"0:(\d\d) of audio\.", ending.output)
        assert len(summary) == 1 and int(summary[0]) >= int(ending.moment) - 1, ending
        assert said or ending.moment < 2, ending
    speaking.terminate()
    assert recordings(microphone) == []


def test_the_page_closes(open_lesson: OpenLesson) -> None:
    ports: list[int] = []

    def start() -> Lesson:
        ports.append(free_port())
        settings = {"STREAMLIT_SERVER_PORT": str(ports[-1]), "STREAMLIT_SERVER_HEADLESS": "true"}
        return open_lesson("speech_to_text_webrtc.py", env=settings)

    pages = as_many(start)
    for page in pages:
        page.expect("You can now view")
    for ending in stop_all(pages, "page", 2):
        assert ending.status == 0, ending
    assert all(map(is_free, ports))
