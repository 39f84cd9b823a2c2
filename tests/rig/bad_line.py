"""A line to the service that is as bad as a train's: it splits, is late, stalls, and goes dead."""

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum

import pytest


class Mood(Enum):
    """What the line does with the bytes that are sent through it."""

    GOOD = "passes them on"
    SPLIT = "passes them on in pieces of any length"
    LATE = "passes them on two seconds later"


class BadLine:
    """A TCP proxy in a thread of its own."""

    def __init__(self, target: int, mood: Mood, seed: int = 0) -> None:
        self.target = target
        self.mood = mood
        self.random = random.Random(seed)
        self.connections = 0
        self.bytes = 0  # that came from clients
        self._alive = object()  # connections that know another one are dead
        self._lines: set[asyncio.Task[None]] = set()
        is_open = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(is_open),))
        self._thread.start()
        assert is_open.wait(10)

    async def _run(self, is_open: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._can_pass, self._is_over = asyncio.Event(), asyncio.Event()
        self._can_pass.set()
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        self.url = f"ws://127.0.0.1:{self.port}/v1/realtime?intent=transcription"
        is_open.set()
        await self._is_over.wait()
        server.close()

    async def _connect(self, near: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._lines.add(task)
        self.connections += 1
        try:
            far, ask = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(self._carry(near, ask, True), self._carry(far, answer, False))
        except (OSError, asyncio.CancelledError):
            pass  # one of the two has gone, or the line was cut
        finally:
            answer.transport.abort()
            with suppress(UnboundLocalError):
                ask.transport.abort()
            self._lines.discard(task)

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, is_upstream: bool
    ) -> None:
        delay_s = 2.0 if self.mood is Mood.LATE else 0.0
        alive = self._alive
        parcels: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await parcels.get()
                await asyncio.sleep(due - self._loop.time())
                await self._can_pass.wait()
                if alive is not self._alive:
                    continue
                target.write(data)
                await target.drain()
                if not data:
                    raise ConnectionResetError("one side has hung up")

        delivering = asyncio.create_task(deliver())
        data = b"first"
        try:
            while data and not delivering.done():
                length = self.random.randint(1, 500) if self.mood is Mood.SPLIT else 2**16
                data = await source.read(length)
                self.bytes += len(data) if is_upstream else 0
                parcels.put_nowait((self._loop.time() + delay_s, data))
            await delivering
        finally:
            delivering.cancel()

    def _do(self, action: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(action)

    def cut(self) -> None:
        """Break all connections off, in the middle of whatever is under way."""
        self._do(lambda: [task.cancel() for task in list(self._lines)])

    def go_dead(self) -> None:
        """Pass nothing on any more, and tell nobody; connections opened later are alive."""
        self._do(lambda: setattr(self, "_alive", object()))

    def stall(self) -> None:
        """Pass nothing on, on any connection, until resume()."""
        self._do(self._can_pass.clear)

    def resume(self) -> None:
        self._do(self._can_pass.set)

    def close(self) -> None:
        self._do(self._is_over.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


OpenLine = Callable[..., BadLine]


@pytest.fixture
def open_line() -> Iterator[OpenLine]:
    """Open a line: open_line(port, Mood.LATE)."""
    lines: list[BadLine] = []

    def open_one(target: int, mood: Mood = Mood.GOOD, seed: int = 0) -> BadLine:
        lines.append(BadLine(target, mood, seed))
        return lines[-1]

    yield open_one
    for line in lines:
        line.close()
