"""Lesson 2 pings every client on time, reports the true round trip and notices who is gone."""

import asyncio
import contextlib
import gc
import importlib.util
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from running_lessons import ROOT, RunLesson, free_port
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_now
from websockets.typing import Subprotocol
from wires import (
    PATIENCE,
    RunningLesson,
    flood_until_stuck,
    lesson_server,
    raw_websocket,
    slow_line,
)

LESSON = "websocket_server_echo_ping.py"
PING_SECONDS, PONG_SECONDS = 0.25, 1.0
QUICK = {"PING_SECONDS": str(PING_SECONDS), "PONG_SECONDS": str(PONG_SECONDS)}


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(tmp_path: Path, port: int) -> Iterator[RunningLesson]:
    with lesson_server(tmp_path, LESSON, port, QUICK) as running:
        yield running


@pytest.fixture
def lesson() -> ModuleType:
    """Load the lesson's functions into this process."""
    specification = importlib.util.spec_from_file_location("lesson_2", ROOT / LESSON)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def pings(client: ClientConnection, count: int) -> list[dict[str, float]]:
    """Return the next messages, which must all be pings."""
    received = [json.loads(client.recv(PATIENCE)) for _ in range(count)]
    assert all(message["type"] == "ping" for message in received)
    return received


def test_every_client_gets_numbered_pings_at_the_set_interval(
    server: RunningLesson, port: int
) -> None:
    async def listen(wait: float) -> tuple[list[int], list[float]]:
        await asyncio.sleep(wait)  # the clients come at different times
        numbers, times = [], []
        async with connect(f"ws://127.0.0.1:{port}", proxy=None) as client:
            for _ in range(7):
                numbers.append(json.loads(await client.recv())["number"])
                times.append(time.monotonic())
        return numbers, times

    async def everybody() -> list[tuple[list[int], list[float]]]:
        return await asyncio.gather(*(listen(0.1 * number) for number in range(3)))

    for numbers, times in asyncio.run(everybody()):
        assert numbers == [1, 2, 3, 4, 5, 6, 7]
        gap = statistics.median(later - earlier for earlier, later in itertools.pairwise(times))
        assert PING_SECONDS * 0.9 < gap < PING_SECONDS * 1.6


def test_the_round_trip_it_reports_is_true(server: RunningLesson, port: int) -> None:
    def reported(port: int) -> float:
        with connect_now(f"ws://127.0.0.1:{port}", proxy=None) as client:
            return statistics.median(ping["round_trip_ms"] for ping in pings(client, 5))

    with slow_line(port, delay=0.025) as slow_port:  # 25 ms there and 25 ms back
        added = reported(slow_port) - reported(port)
    assert 48 < added < 75


def test_it_still_echoes_exactly(server: RunningLesson, port: int) -> None:
    messages: list[str | bytes] = ["hello", "", "🙂", b"\0\xff", "x" * 1_000_000]
    with connect_now(f"ws://127.0.0.1:{port}", proxy=None) as client:
        for message in messages:
            client.send(message)
            while '"type": "ping"' in str(heard := client.recv(PATIENCE))[:20]:
                pass
            assert heard == message


def test_a_client_that_no_longer_answers_is_dropped_in_time(
    server: RunningLesson, port: int
) -> None:
    with connect_now(f"ws://127.0.0.1:{port}", proxy=None) as neighbour:
        silent = raw_websocket(port)
        started = time.monotonic()
        name = "{}:{}".format(*silent.getsockname())
        server.says(f"{name} does not answer")
        server.says(f"{name} left")
        assert PONG_SECONDS * 0.9 < time.monotonic() - started < PONG_SECONDS + PING_SECONDS + 1
        while silent.recv(1000):
            pass  # what was on its way; then the server has hung up
        assert pings(neighbour, 3)


def test_a_client_that_no_longer_reads_is_dropped_too(server: RunningLesson, port: int) -> None:
    greedy = raw_websocket(port)
    name = "{}:{}".format(*greedy.getsockname())
    with contextlib.suppress(OSError):  # dropped even while it floods
        flood_until_stuck(greedy)
    server.says(f"{name} does not answer")
    server.says(f"{name} left")
    greedy.close()


def test_no_task_is_left_over_when_a_client_leaves(
    lesson: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    async def come_and_go() -> set[str]:
        server = await serve(lesson.talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        before = asyncio.all_tasks()
        for _ in range(5):
            async with connect(f"ws://127.0.0.1:{port}", proxy=None) as client:
                await client.recv()
                assert any("coro=<ping()" in repr(task) for task in asyncio.all_tasks())
            vanished = await connect(f"ws://127.0.0.1:{port}", proxy=None)
            vanished.transport.abort()
        ending = asyncio.all_tasks() - before
        left_over = (await asyncio.wait(ending, timeout=1))[1] if ending else set()
        server.close()
        await server.wait_closed()
        return {repr(task) for task in left_over}

    assert asyncio.run(come_and_go()) == set()
    gc.collect()  # a task with an exception that nobody saw complains when it is collected
    assert not caplog.records


def test_it_shows_frame_and_message_side_by_side(server: RunningLesson, port: int) -> None:
    with connect_now(f"ws://127.0.0.1:{port}", proxy=None) as client:
        first = pings(client, 1)[0]
        name = f"127.0.0.1:{client.local_address[1]}"
        shown = server.says(rf"{name} ping frame, pong after ([\d.]+) ms; ping message 1")
        assert float(shown[1]) == first["round_trip_ms"]
    server.says(rf"{name} left \(close code 1000\)")


def test_a_port_in_use_gets_a_sentence_and_the_command_for_another_one(
    server: RunningLesson, port: int, run_lesson: RunLesson
) -> None:
    second = run_lesson(LESSON, env={"PORT": str(port)})
    assert second.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port} (port already in use)." in second.stderr
    assert f"PORT=8766 python {LESSON}" in second.stderr
    assert "Traceback" not in second.stderr


def test_host_0000_warns(tmp_path: Path, port: int) -> None:
    with lesson_server(tmp_path, LESSON, port, {"HOST": "0.0.0.0"}) as opened:
        opened.says("Warning: everyone on your network can connect")


def test_a_client_that_asks_for_a_subprotocol_may_connect(server: RunningLesson, port: int) -> None:
    """A browser hangs up unless the server picks one of those that it asks for."""
    url = f"ws://127.0.0.1:{port}"
    protocols = [Subprotocol("any-protocol"), Subprotocol("another")]
    with connect_now(url, subprotocols=protocols, proxy=None) as client:
        assert client.subprotocol == "any-protocol"
        assert pings(client, 1)
