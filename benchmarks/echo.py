"""Lessons 1 and 2 against other echo servers: round trips per second."""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from processes import processor_seconds, started
from running_lessons import ROOT, free_port, lesson_environment
from table import Report
from websockets.asyncio.client import connect

RUNS = 11
SECONDS = 0.3  # of each run: short ones, so that what disturbs one server disturbs all
TEXT = "hello, is anybody there?"
BINARY = os.urandom(16 * 1024)
CASES: list[tuple[str, int, str | bytes]] = [
    ("text, 1 connection", 1, TEXT),
    ("text, 64 connections", 64, TEXT),
    ("16 KiB binary, 1 connection", 1, BINARY),
    ("16 KiB binary, 64 connections", 64, BINARY),
]
LESSONS = {"lesson 1": "websocket_server_echo.py", "lesson 2": "websocket_server_echo_ping.py"}
Trip = Callable[[], Awaitable[None]]


async def count_round_trips(trips: list[Trip]) -> float:
    """Let every connection go to and fro for a while; return round trips per second."""
    end = time.perf_counter() + SECONDS

    async def go(trip: Trip) -> int:
        count = 0
        while time.perf_counter() < end:
            await trip()
            count += 1
        return count

    begin = time.perf_counter()
    counts = await asyncio.gather(*map(go, trips))
    return sum(counts) / (time.perf_counter() - begin)


async def websocket_speed(port: int, connections: int, message: str | bytes) -> float:
    """Measure with the websockets library's own client, as it is without any setting."""
    async with asyncio.TaskGroup() as tasks:
        opening = [
            tasks.create_task(connect(f"ws://127.0.0.1:{port}").__aenter__())
            for _ in range(connections)
        ]
    clients = [task.result() for task in opening]

    def trip_of(number: int) -> Trip:
        async def trip() -> None:
            await clients[number].send(message)
            while (answer := await clients[number].recv()) != message:
                assert isinstance(answer, str) and '"ping"' in answer  # lesson 2 speaks, too

        return trip

    speed = await count_round_trips([trip_of(number) for number in range(connections)])
    await asyncio.gather(*(client.close() for client in clients))
    return speed


async def tcp_speed(port: int, connections: int, message: str | bytes) -> float:
    """Measure without any protocol."""
    data = message.encode() if isinstance(message, str) else message
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]

    def trip_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Trip:
        async def trip() -> None:
            writer.write(data)
            await reader.readexactly(len(data))

        return trip

    speed = await count_round_trips([trip_of(*stream) for stream in streams])
    for _, writer in streams:
        writer.close()
    return speed


def measure(report: Report) -> None:
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        pids: dict[str, int] = {}
        for name in (*LESSONS, "websockets", "aiohttp", "tcp"):
            ports[name] = free_port()
            if name in LESSONS:
                command = [sys.executable, str(ROOT / LESSONS[name])]
            else:
                peers = str(ROOT / "benchmarks/echo_peers.py")
                command = [sys.executable, peers, name, str(ports[name])]
            env = lesson_environment({"PORT": str(ports[name])})
            process, _ = stack.enter_context(started(command, "^Listening", env))
            pids[name] = process.pid
        for case, connections, message in CASES:
            speeds: dict[str, list[float]] = {name: [] for name in ports}
            used = {name: -processor_seconds(pid) for name, pid in pids.items()}
            for run in range(RUNS):
                order = list(ports)
                for name in order[run % len(order) :] + order[: run % len(order)]:
                    speed = tcp_speed if name == "tcp" else websocket_speed
                    speeds[name].append(asyncio.run(speed(ports[name], connections, message)))
            used = {name: used[name] + processor_seconds(pid) for name, pid in pids.items()}
            note = "round trips/s, and µs of the server's processor time for one: " + ", ".join(
                f"{name} {statistics.median(figures):,.0f} "
                f"({1e6 * used[name] / (sum(figures) * SECONDS):.0f} µs)"
                for name, figures in speeds.items()
            )
            for lesson in LESSONS:
                ratios = [
                    own / theirs
                    for own, theirs in zip(speeds[lesson], speeds["websockets"], strict=True)
                ]
                at_least = 5 if isinstance(message, bytes) else 0.98
                what = f"{lesson}, {case}: round trips/s against the documentation's echo"
                report.add(what, ratios, "×", at_least=at_least, note=note)
                note = ""
