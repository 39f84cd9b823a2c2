"""The speech service on a free port, with either engine, and a client that hides nothing."""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from running_lessons import ROOT, STRICT_PYTHON, free_port, lesson_environment
from speech import Audio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

MICRO_WHISPER = str(ROOT / "tests/rig/micro_whisper")
WHOLE_WINDOW = {"TEXT_WINDOW_S": "30", "LOOK_WINDOW_S": "30"}  # all that the micro Whisper knows
TRANSCRIPTION = "conversation.item.input_audio_transcription"
Event = dict[str, Any]


class Service:
    """The service as a process of its own."""

    def __init__(self, env: dict[str, str], folder: Path = ROOT) -> None:
        self.port = int(env.get("PORT") or free_port())
        self.http_url = f"http://127.0.0.1:{self.port}"
        self.url = f"ws://127.0.0.1:{self.port}/v1/realtime?intent=transcription"
        self.env = lesson_environment(env | {"PORT": str(self.port)})
        self.folder = folder
        self.output = ""
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*STRICT_PYTHON, "-m", "service"],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        reader.start()
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            try:
                requests.get(f"{self.http_url}/health", timeout=10).raise_for_status()
                return
            except requests.ConnectionError:
                time.sleep(0.05)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        for line in process.stdout:
            self.output += line

    def health(self) -> dict[str, Any]:
        return dict(requests.get(f"{self.http_url}/health", timeout=30).json())

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(20)

    def stop_at_the_end(self) -> None:
        """Stop, and see that it ended as it was told to (Windows has one way, and calls it 1)."""
        assert self.stop() in (0, -signal.SIGTERM, *([1] if os.name == "nt" else []))


StartService = Callable[..., Service]


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until a condition holds; fail if it does not come to hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def start_service() -> Iterator[StartService]:
    """Start a service of the test's own; the micro Whisper unless WHISPER_MODEL says otherwise."""
    started: list[Service] = []

    def start(folder: Path = ROOT, **env: str) -> Service:
        started.append(Service({"WHISPER_MODEL": MICRO_WHISPER} | WHOLE_WINDOW | env, folder))
        return started[-1]

    yield start
    for service in started:
        service.kill()
        assert "Traceback" not in service.output, service.output


@pytest.fixture(scope="session")
def _service() -> Iterator[Service]:
    # One heap for all threads: with one each, what a thread keeps for later looks like growth.
    service = Service({"WHISPER_MODEL": MICRO_WHISPER, "MALLOC_ARENA_MAX": "1"} | WHOLE_WINDOW)
    yield service
    service.stop_at_the_end()


@pytest.fixture
def service(_service: Service) -> Iterator[Service]:
    """The service with the real Faster Whisper engine and the micro Whisper, int8."""
    yield _service
    assert "Traceback" not in _service.output, _service.output


@pytest.fixture(scope="session")
def embedded_service() -> Iterator[Service]:
    """The service with the embedded engine, Moonshine."""
    service = Service({})
    yield service
    service.stop_at_the_end()
    assert "Traceback" not in service.output, service.output


class Client:
    """Sends what it is told to send, and keeps every event that comes."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.events: list[Event] = []
        self.times: list[float] = []  # when each event came
        self.news = asyncio.Condition()
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.websocket:
            self.events.append(json.loads(message))
            self.times.append(time.monotonic())
            async with self.news:
                self.news.notify_all()

    async def send(self, kind: str, **fields: object) -> None:
        await self.websocket.send(json.dumps({"type": kind, **fields}))

    async def configure(self, **audio_input: object) -> Event:
        session = {"type": "transcription", "audio": {"input": audio_input}}
        answers = len(self.all("session.updated")) + 1
        await self.send("session.update", session=session)
        return await self.event("session.updated", answers)

    async def say(self, samples: Audio, rate: int = 24_000, speed: float = 0) -> None:
        """Append audio in 50 ms pieces: speed 1 is that of speech, 0 is as fast as possible."""
        size = rate // 20
        begin = time.monotonic()
        for n, start in enumerate(range(0, len(samples), size), start=1):
            await self.append(samples[start : start + size])
            if speed:
                await asyncio.sleep(begin + n * 0.05 / speed - time.monotonic())

    async def append(self, samples: Audio) -> None:
        await self.append_bytes(np.asarray(samples, "<i2").tobytes())

    async def append_bytes(self, sound: bytes) -> None:
        audio = base64.b64encode(sound).decode()
        await self.send("input_audio_buffer.append", audio=audio)

    async def event(self, kind: str, count: int = 1, seconds: float = 120) -> Event:
        """Wait for the count-th event of a kind and return it."""
        async with asyncio.timeout(seconds), self.news:
            while len(found := self.all(kind)) < count:
                await self.news.wait()
        return found[count - 1]

    def all(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["type"] == kind]

    async def transcripts(self, count: int) -> list[str]:
        """Wait for so many completed turns and return their texts."""
        await self.event(f"{TRANSCRIPTION}.completed", count)
        return [event["transcript"] for event in self.all(f"{TRANSCRIPTION}.completed")]


@asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[Client]:
    async with connect(url, compression=None, **options) as websocket:
        talking = Client(websocket)
        try:
            yield talking
        finally:
            talking.reading.cancel()
            await asyncio.gather(talking.reading, return_exceptions=True)


async def closing(url: str, **options: object) -> tuple[dict[str, object], int, str]:
    """Connect, and return the error that comes, the close code and its reason."""
    async with connect(url, **options) as websocket:  # type: ignore[arg-type]
        events = []
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                events.append(json.loads(await asyncio.wait_for(websocket.recv(), 30)))
        errors = [event["error"] for event in events if event["type"] == "error"]
        assert len(errors) == 1 and closed.value.rcvd
        return errors[0], closed.value.rcvd.code, closed.value.rcvd.reason


def changed_copy(folder: Path, old: str, new: str) -> Path:
    """Return the folder of a copy of the service with one line changed."""
    if not (folder / "service").exists():
        shutil.copytree(ROOT / "service", folder / "service")
    (module,) = (path for path in (folder / "service").glob("*.py") if old in path.read_text())
    text = module.read_text()
    assert text.count(old) == 1, old
    module.write_text(text.replace(old, new))
    return folder
