"""The service and its peer: live speech, one stream and many."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from engine import Engine
from processes import memory_mib, processor_seconds, started
from running_lessons import ROOT, free_port, lesson_environment
from running_service import MICRO_WHISPER, TRANSCRIPTION, Service, client
from speakers import (
    PHRASES,
    RATE,
    Turn,
    all_at_once,
    exactness,
    length_s,
    percentile,
    pronounce,
    speak,
    speak_and_commit,
    speak_to_wyoming,
)
from speech import silence, spoken
from table import Report

RUNS = 3
STREAMS = [1, 2, 4, 8, 16, 32, 48, 64]
KEEPS_UP_MS = 1500  # a service that is later than that at the end of a phrase lags behind
SILENCE_MS = 500  # the service's own window, and the one that the peer is given
ENDPOINTING = ["--vad-endpointing", str(SILENCE_MS / 1000)]
PEER = ROOT / ".venv-peers/bin/python"


@contextmanager
def running_service(**env: str) -> Iterator[Service]:
    service = Service({"WHISPER_MODEL": MICRO_WHISPER} | env)
    try:
        yield service
    finally:
        service.kill()


@contextmanager
def running_peer(*options: str) -> Iterator[tuple[int, int]]:
    """Run wyoming-faster-whisper with the same model; yield its port and process."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(PEER), "-m", "wyoming_faster_whisper", "--uri", f"tcp://127.0.0.1:{port}"]
        command += ["--model", MICRO_WHISPER, "--data-dir", folder, "--language", "en"]
        command += ["--beam-size", "1", "--cpu-threads", "1", *options]
        with started(command, "Ready", lesson_environment({"OMP_NUM_THREADS": "1"})) as (
            process,
            _,
        ):
            yield port, process.pid


class Measured:
    """What several runs with so many streams gave."""

    def __init__(self) -> None:
        self.runs: list[list[Turn]] = []
        self.cpu: list[float] = []  # processor seconds for each second of audio
        self.memory: list[float] = []  # MiB, after each run

    def add(self, turns: list[Turn], cpu_s: float, memory: float) -> None:
        self.runs.append(turns)
        audio_s = sum(len(spoken(turn.said)) / 16_000 + 1 for turn in turns)
        self.cpu.append(cpu_s / audio_s)
        self.memory.append(memory)

    def latency(self, percent: float) -> list[float]:
        return [percentile([turn.latency_ms for turn in turns], percent) for turns in self.runs]

    def exact(self) -> list[float]:
        return [exactness(turns) for turns in self.runs]

    def between(self, first: str, second: str, percent: float) -> list[float]:
        """Return a percentile of the time from one moment of a turn to another, in ms."""
        return [
            percentile([1000 * (getattr(t, second) - getattr(t, first)) for t in turns], percent)
            for turns in self.runs
        ]

    def as_point(self, name: str, streams: int) -> dict[str, object]:
        """Return what the picture shows of this."""
        p50, p95 = (statistics.median(self.latency(percent)) for percent in (50, 95))
        return {"name": name, "streams": streams, "p50": p50, "p95": p95}

    def with_partials(self) -> float:
        """Return how many percent of the turns showed words before they had ended."""
        turns = [turn for run in self.runs for turn in run]
        return 100 * statistics.mean(bool(turn.first_words < turn.ends) for turn in turns)


def run_service(
    service: Service, count: int, phrases: int, into: Measured, how: Callable[..., Any] = speak
) -> None:
    pid = service.process.pid
    before = processor_seconds(pid)
    turns = asyncio.run(
        all_at_once(lambda said, delay: how(service.url, said, delay), count, phrases)
    )
    into.add(turns, processor_seconds(pid) - before, memory_mib(pid))


def run_peer(
    port: int, pid: int, count: int, phrases: int, into: Measured, has_vad: bool = True
) -> None:
    before = processor_seconds(pid)
    turns = asyncio.run(
        all_at_once(
            lambda said, delay: speak_to_wyoming(port, said, delay, has_vad), count, phrases
        )
    )
    into.add(turns, processor_seconds(pid) - before, memory_mib(pid))


def one_stream(report: Report) -> None:
    """One speaker: how soon everything comes, beside the engine alone and the peer."""
    with ExitStack() as stack:
        service = stack.enter_context(running_service())
        report.add("service, memory when ready", [memory_mib(service.process.pid)], "MiB", 150)
        peers: list[tuple[int, int, bool]] = []  # port, process, and whether it finds the pauses
        if PEER.exists():
            peers = [
                (*stack.enter_context(running_peer(*ENDPOINTING)), True),
                (*stack.enter_context(running_peer()), False),
            ]
        latencies(report, service, peers)


def latencies(report: Report, service: Service, peers: list[tuple[int, int, bool]]) -> None:
    ours, commits = Measured(), Measured()
    theirs = {has_vad: Measured() for _, _, has_vad in peers}
    alone = Engine(MICRO_WHISPER)
    engine: list[float] = []
    for _ in range(RUNS):
        run_service(service, 1, 6, ours)
        run_service(service, 1, 5, commits, speak_and_commit)
        for port, pid, has_vad in peers:
            run_peer(port, pid, 1, 5, theirs[has_vad], has_vad)
        times = [alone.seconds(spoken(phrase).tobytes()) for phrase in PHRASES]
        engine.append(1000 * statistics.median(times))
    alone.close()
    report.latencies.append(ours.as_point("service", 1))
    report.add("one stream: end of speech → completed, p50", ours.latency(50), "ms", 620)
    report.add("one stream: end of speech → completed, p95", ours.latency(95), "ms", 680)
    report.add("one stream: phrases heard exactly", ours.exact(), "%", at_least=100)
    rest = [
        latency - SILENCE_MS - floor
        for latency, floor in zip(ours.latency(95), engine, strict=True)
    ]
    report.add("the same less silence window and engine, p95", rest, "ms", 40)
    report.add("pause noticed → completed, p95", ours.between("stopped", "written", 95), "ms")
    noticed, words = (
        ours.between("starts", "noticed", 95),
        ours.between("starts", "first_words", 50),
    )
    report.add("first sound → speech_started, p95", noticed, "ms", 125)
    report.add("first sound → first words, p50", words, "ms", 1000)
    report.add("the engine called directly, p50 (the floor)", engine, "ms")
    report.add("client commits → completed, p50", commits.latency(50), "ms")
    for has_vad, peer in theirs.items():
        own = ours if has_vad else commits
        name = "finding pauses" if has_vad else "told where phrases end"
        ratios = [a / b for a, b in zip(own.latency(50), peer.latency(50), strict=True)]
        note = f"theirs: p50 {statistics.median(peer.latency(50)):.0f} ms, p95 "
        note += f"{statistics.median(peer.latency(95)):.0f} ms, {min(peer.exact()):.0f} % exact"
        report.add(f"latency against wyoming-faster-whisper, {name}", ratios, "×", 1, note=note)
        if has_vad:
            report.latencies.append(peer.as_point("wyoming-faster-whisper", 1))


def costs(report: Report) -> None:
    """What a second of audio costs where nobody wants to see words before the end."""
    speaking, seconds = {1: Measured(), 8: Measured()}, 5
    listening: dict[tuple[int, int], list[float]] = {(1, 40): [], (1, 20): [], (8, 20): []}
    with running_service(DELTA_MS="0") as quiet:
        pid = quiet.process.pid
        for _ in range(RUNS):
            for count, measured in speaking.items():
                run_service(quiet, count, 4, measured)
            for (count, piece_ms), figures in listening.items():
                before = processor_seconds(pid)
                asyncio.run(keep_silent(quiet.url, count, piece_ms, seconds))
                figures.append((processor_seconds(pid) - before) / seconds / count)
    report.add("processor time for 1 s of live speech, deltas off", speaking[1].cpu, "s", 0.05)
    report.add("the same, 8 streams at once", speaking[8].cpu, "s", 0.05)
    for (count, piece_ms), figures in listening.items():
        what = f"processor time for 1 s of silence, {count} stream, pieces of {piece_ms} ms"
        report.add(what.replace("8 stream", "8 streams"), figures, "s", 0.03)


async def keep_silent(url: str, count: int, piece_ms: int, seconds: float) -> None:
    """Let so many people listen to their own silence."""

    async def listen() -> None:
        piece = silence(piece_ms / 1000, RATE)
        async with client(url) as student:
            await student.configure()
            begin = time.monotonic()
            for n in range(int(seconds * 1000 / piece_ms)):
                await asyncio.sleep(begin + n * piece_ms / 1000 - time.monotonic())
                await student.append(piece)

    await asyncio.gather(*(listen() for _ in range(count)))


def many_streams(report: Report) -> None:
    """More and more people speak at the same time, until the service cannot keep up."""
    with ExitStack() as stack:
        service = stack.enter_context(running_service())
        peer = stack.enter_context(running_peer(*ENDPOINTING)) if PEER.exists() else None
        growth(report, service, peer)


def growth(report: Report, service: Service, peer: tuple[int, int] | None) -> None:
    budgets = {8: 740, 16: 980}
    keeps_up = 1
    for count in STREAMS[1:]:
        ours, theirs = Measured(), Measured()
        for _ in range(RUNS if count in budgets else 1):
            run_service(service, count, 5, ours)
            if peer and count in budgets:
                run_peer(*peer, count, 3, theirs)
        report.latencies.append(ours.as_point("service", count))
        p95 = ours.latency(95)
        name = f"{count} streams: end of speech → completed, p95"
        note = f"{statistics.median(ours.cpu):.3f} s of processor time for 1 s of audio"
        report.add(name, p95, "ms", budgets.get(count), note=note)
        report.add(f"{count} streams: phrases heard exactly", ours.exact(), "%", at_least=100)
        partials = [ours.with_partials()]
        report.add(f"{count} streams: phrases that showed words before their end", partials, "%")
        if count == 16:
            report.add("service, memory after 16 streams", ours.memory, "MiB", 250)
        if theirs.runs:
            report.latencies.append(theirs.as_point("wyoming-faster-whisper", count))
            ratios = [a / b for a, b in zip(p95, theirs.latency(95), strict=True)]
            note = f"theirs: {statistics.median(theirs.latency(95)):.0f} ms, "
            note += f"{min(theirs.exact()):.0f} % exact, {theirs.cpu[-1]:.3f} s, "
            note += f"{theirs.memory[-1]:.0f} MiB"
            report.add(f"{count} streams: p95 against wyoming's", ratios, "×", 1, note=note)
        if statistics.median(p95) <= KEEPS_UP_MS:
            keeps_up = count
    report.add(f"streams with a p95 of {KEEPS_UP_MS} ms at most", [keeps_up], "streams")
    report.add("service, memory at the end", [memory_mib(service.process.pid)], "MiB")


def long_turns(report: Report) -> None:
    """Turns of 3, 10 and 28 s, at the same time: a turn of more than 30 s would be cut."""
    lengths = (3, 10, 28)

    async def all_lengths(url: str) -> list[float]:
        return await asyncio.gather(*(one_turn(url, seconds) for seconds in lengths))

    with running_service() as service:
        runs = [asyncio.run(all_lengths(service.url)) for _ in range(RUNS)]
    for seconds, latencies in zip(lengths, zip(*runs, strict=True), strict=True):
        report.add(f"a turn of {seconds} s: end of speech → completed", latencies, "ms")


async def one_turn(url: str, seconds: float) -> float:
    """Say a phrase again and again without a pause; return how long the text takes at the end."""
    phrase = PHRASES[0]
    count = int(seconds / length_s(phrase, 0))
    async with client(url) as student:
        await student.configure()
        begin = time.monotonic()
        for _ in range(count - 1):
            await pronounce(phrase, 0, student.append, begin)
            begin += length_s(phrase, 0)
        turn = await pronounce(phrase, 1.0, student.append, begin)
        completed = await student.event(f"{TRANSCRIPTION}.completed")
        assert len(student.all("input_audio_buffer.speech_started")) == 1, "more than one turn"
        return 1000 * (student.times[student.events.index(completed)] - turn.ends)
