"""Sixteen people speak to the service for half an hour: is it the same service afterwards?

    make soak                                  or, shorter:
    .venv/bin/python tests/service/soak.py --minutes 8

Each speaker says the five phrases again and again at the speed of speech, in a new session every
minute. The table tells, minute by minute, what the service takes. Exit status 0 only if each word
was understood, memory stayed level, and no task, thread or open file is left over.
"""

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import requests
from running_service import MICRO_WHISPER, TRANSCRIPTION, Service, changed_copy, client
from speech import PHRASES, silence, spoken

MAX_GROWTH_MIB = 15  # from the second quarter to the last: in the first one, caches fill
ROUTER = "app.include_router(http_api.router)\n"
TASKS = """
@app.get("/tasks")
async def tasks() -> int:
    return len(__import__("asyncio").all_tasks())


"""


@dataclass
class Row:
    """What the service takes at one moment."""

    minute: float
    sessions: int
    mib: float
    threads: int
    tasks: int
    files: int


@dataclass
class Score:
    exact: int = 0
    wrong: int = 0


def look(service: Service, begin: float) -> Row:
    with requests.Session() as web:  # one connection, which is closed again
        sessions = web.get(f"{service.http_url}/health", timeout=60).json()["sessions"]
        tasks = web.get(f"{service.http_url}/tasks", timeout=60).json()
        files = service.open_files() - 1  # less this connection
    threads = len(list(Path(f"/proc/{service.process.pid}/task").iterdir()))
    minute = (time.monotonic() - begin) / 60
    return Row(minute, sessions, service.memory() / 2**20, threads, tasks, files)


async def speak(service: Service, score: Score, end: float, speed: float, delay: float) -> None:
    """Say the phrases in session after session, and count what was understood."""
    pause = silence(0.9, 24_000)
    audio = np.concatenate([part for text in PHRASES for part in (spoken(text, 24_000), pause)])
    rounds = max(1, round(60 * speed / (len(audio) / 24_000)))
    await asyncio.sleep(delay)  # nobody begins at the same moment as another
    while time.monotonic() < end:
        # On a machine that is busy with other things the service holds back whoever sends, and so
        # their pings. Late is not lost: what counts here is that every word comes.
        async with client(service.url, ping_timeout=None) as student:
            for _ in range(rounds):
                await student.say(audio, speed=speed)
            await student.event(f"{TRANSCRIPTION}.completed", 5 * rounds, seconds=300)
            heard = await student.transcripts(5 * rounds)
        right = [text == said for text, said in zip(heard, PHRASES * rounds, strict=False)]
        score.exact += right.count(True)
        score.wrong += max(len(heard), 5 * rounds) - right.count(True)


async def soak(service: Service, sessions: int, minutes: float, speed: float) -> bool:
    begin, score = time.monotonic(), Score()
    end = begin + minutes * 60
    rows = [await asyncio.to_thread(look, service, begin)]
    speakers = [
        asyncio.create_task(speak(service, score, end, speed, number * 0.8))
        for number in range(sessions)
    ]

    def show() -> None:
        row = rows[-1]
        print(
            f"{row.minute:6.1f} {row.sessions:9} {row.mib:7.1f} {row.threads:8} {row.tasks:6}"
            f" {row.files:6} {score.exact:8} {score.wrong:6}",
            flush=True,
        )

    print("minute  sessions     MiB  threads  tasks  files    exact  wrong")
    show()
    while not all(speaker.done() for speaker in speakers):
        pause, end_all = max(10, minutes * 60 / 30), asyncio.FIRST_EXCEPTION
        ended, _ = await asyncio.wait(speakers, timeout=pause, return_when=end_all)
        for speaker in ended:
            speaker.result()  # a session that broke off is a failure, and is seen at once
        rows.append(await asyncio.to_thread(look, service, begin))
        show()
    await asyncio.sleep(5)  # for connections that are kept for a while
    rows.append(await asyncio.to_thread(look, service, begin))
    show()

    first, last = rows[0], rows[-1]
    second, fourth = (
        np.mean([row.mib for row in rows if start <= row.minute / minutes < start + 0.25])
        for start in (0.25, 0.75)
    )
    hours = (score.exact + score.wrong) / 5 * sum(map(seconds, PHRASES)) / 3600
    print(f"{hours:.1f} hours of speech.")
    print(f"Memory: {second:.1f} MiB in the second quarter, {fourth:.1f} MiB in the last.")
    left = {"tasks": last.tasks - first.tasks, "files": last.files - first.files}
    left["threads"] = last.threads - max(row.threads for row in rows[: len(rows) // 2 + 1])
    print("Left over: " + ", ".join(f"{count} {name}" for name, count in left.items()))
    is_level = fourth - second < MAX_GROWTH_MIB and max(left.values()) <= 0
    return bool(is_level) and not score.wrong


def seconds(phrase: str) -> float:
    return len(spoken(phrase, 24_000)) / 24_000 + 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--speed", type=float, default=1, help="1 is that of speech")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        copy = changed_copy(Path(folder), ROUTER, ROUTER + TASKS)
        service = Service({"WHISPER_MODEL": MICRO_WHISPER}, copy)
        try:
            work = soak(service, options.sessions, options.minutes, options.speed)
            is_level = asyncio.run(work)
        finally:
            service.stop()
    if "Traceback" in service.output:
        print(service.output)
        is_level = False
    print("Level." if is_level else "NOT LEVEL.")
    sys.exit(not is_level)


if __name__ == "__main__":
    main()
