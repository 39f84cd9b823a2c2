"""Somebody who speaks to the service all the while, and has to be understood word by word."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from running_service import Service, client
from speech import PHRASES, silence, spoken


async def speak(url: str, over: threading.Event, heard: list[str]) -> None:
    """Say the five phrases at the speed of speech, again and again, until it is over."""
    pause = silence(0.9, 24_000)
    audio = np.concatenate([part for text in PHRASES for part in (spoken(text, 24_000), pause)])
    rounds = 0
    async with client(url) as student:
        while not over.is_set():
            await student.say(audio, speed=1)
            rounds += 1
        heard += await student.transcripts(5 * rounds)


@contextmanager
def exact_neighbour(service: Service) -> Iterator[None]:
    """Check that a neighbour's session is exact while something happens to the service."""
    over, heard = threading.Event(), list[str]()
    thread = threading.Thread(target=lambda: asyncio.run(speak(service.url, over, heard)))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert heard and heard == PHRASES * (len(heard) // 5)
    print(f"\nmeanwhile a neighbour's {len(heard)} phrases were understood exactly")
