"""Words while somebody speaks, and the final text when they stop."""

import asyncio
import math
import re
import secrets
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from service.engines import Segment
from service.errors import error_body
from service.protocol import SessionConfig
from service.settings import settings
from service.transcriber import Transcriber
from service.turns import Turn
from service.wire import Wire

PREFIX = "conversation.item.input_audio_transcription"
Text = asyncio.Task[list[Segment]]  # a text that the engine is working on


@dataclass
class Item:
    """A turn as the client sees it. With manual commits it may be made of several of ours."""

    wire: Wire
    id: str = field(default_factory=lambda: f"item_{secrets.token_hex(8)}")
    text: str = ""  # of the turns that are written down
    shown: str = ""  # what the deltas said so far
    waiting: int = 0  # turns not written down yet
    seconds: float = 0
    error: str = ""
    is_wanted: bool = True  # until the client clears it

    async def show(self, text: str) -> None:
        """Send what is new as a delta. Deltas cannot take anything back; completed can."""
        delta = continuation(self.shown, text)
        if delta and self.is_wanted:
            self.shown += delta
            fields = {"item_id": self.id, "content_index": 0, "delta": delta}
            await self.wire.send(f"{PREFIX}.delta", **fields)

    async def add(self, text: Text) -> None:
        """Wait for the text of a turn, and add it."""
        segments: list[Segment] = []
        try:
            segments = await text
        except Exception as error:  # whatever it is, only this turn suffers
            self.error = f"The engine failed: {error!r}."
        self.waiting -= 1
        self.text = " ".join([self.text, *(part.text for part in segments)]).strip()
        await self.show(self.text)

    async def complete(self) -> None:
        """Send the final text, or why there is none."""
        kind, usage = "completed", {"type": "duration", "seconds": self.seconds}
        result: dict[str, Any] = {"transcript": self.text, "usage": usage}
        if self.error:
            print(f"{self.id}: {self.error}", flush=True)
            kind = "failed"
            result = error_body(self.error, "engine_error", kind="transcription_error")
        await self.wire.send(f"{PREFIX}.{kind}", item_id=self.id, content_index=0, **result)


class Captions:
    """The text of one client's turns. What is spoken now belongs to one item, which has an id."""

    def __init__(self, wire: Wire, transcriber: Transcriber) -> None:
        self.wire, self.transcriber = wire, transcriber
        self.configure(SessionConfig(type="transcription"))
        self.turn: Turn | None = None  # what is being spoken
        self.item: Item | None = None  # and the item that it will be part of
        self.last_item_id: str | None = None
        self.early: Text | None = None  # the final text, unless somebody goes on speaking
        self.hypothesis: list[str] = []  # the words of the last look
        self.next_look_ms = 0.0  # when to look again, as a length of the turn
        self.finished: asyncio.Queue[tuple[Item, Text | None, bool]]
        self.finished = asyncio.Queue(settings.max_waiting)
        self.tasks: set[Text] = set()

    def configure(self, config: SessionConfig) -> None:
        """Take over what the client has set."""
        self.language = config.language  # empty: the model finds out
        self.has_vad = config.turn_detection is not None  # otherwise the client ends turns
        self.has_text = config.audio.input.transcription is not None

    async def turn_started(self, turn: Turn) -> None:
        """Say that somebody speaks, if we are the one who decides that."""
        self.turn = turn
        self.item = self.item or Item(self.wire, is_wanted=self.has_text)
        self.hypothesis, self.next_look_ms = [], turn.length_ms + (settings.delta_ms or math.inf)
        if self.has_vad:
            times = {"audio_start_ms": turn.start_ms, "item_id": self.item.id}
            await self.wire.send("input_audio_buffer.speech_started", **times)

    def turn_grew(self, turn: Turn, silence_duration_ms: int) -> None:
        """Start on the final text early in a pause; look for new words now and then."""
        if not self.has_text:
            return
        pause_ms = min(settings.early_ms, silence_duration_ms // 2)
        if turn.silence_ms == 0 and self.early:
            self.early.cancel()  # it was not the end, only a short pause
            self.early = None
        elif turn.silence_ms >= pause_ms and not self.early:
            self.early = self.start(self.look(turn))
        elif (
            not self.transcriber.jobs
            and not turn.silence_ms
            and turn.length_ms >= self.next_look_ms
        ):
            # One look at a time, and none while the engine is busy: late words are worth nothing.
            self.next_look_ms = math.inf
            self.start(self.look(turn, settings.newest_words))

    async def look(self, turn: Turn, uncertain: int = 0) -> list[Segment]:
        """Return the text of a turn so far, and show the part of it that we are sure of."""
        begin = time.monotonic()
        is_final = uncertain == 0  # unless somebody goes on speaking
        work = self.transcriber.transcribe(bytes(turn.audio), self.language, is_final)
        segments = await work
        if self.turn is turn and self.item:  # otherwise it has ended in the meantime
            words = " ".join(part.text for part in segments).split()
            certain = agreed_words(self.hypothesis, words[: len(words) - uncertain])
            self.hypothesis = words
            took_ms = (time.monotonic() - begin) * 1000
            wait_ms = max(settings.delta_ms, 2 * took_ms)  # give a slow engine time to breathe
            self.next_look_ms = turn.length_ms + wait_ms if settings.delta_ms else math.inf
            if not self.item.waiting:
                await self.item.show(" ".join([*self.item.text.split(), *certain]))
        return segments

    async def turn_ended(self, turn: Turn) -> None:
        """Have the turn transcribed; write() sends its text when it is next in line."""
        item = self.item or Item(self.wire, is_wanted=self.has_text)
        item.seconds += turn.length_ms / 1000
        text = self.early  # the text of the whole turn, if nobody has spoken since
        if self.has_text:
            if text is None or turn.silence_ms == 0:
                text = self.start(self.transcriber.transcribe(bytes(turn.audio), self.language))
            item.waiting += 1
        self.turn = self.early = None
        is_last = self.has_vad
        if is_last:
            times = {"audio_end_ms": turn.start_ms + turn.length_ms, "item_id": item.id}
            await self.wire.send("input_audio_buffer.speech_stopped", **times)
            await self.end_item()
        await self.finished.put((item, text, is_last))  # waits while too many turns wait

    async def end_item(self) -> Item:
        """Say that an item is complete: what is spoken from now on belongs to another one."""
        item, self.item = self.item or Item(self.wire, is_wanted=self.has_text), None
        ids = {"previous_item_id": self.last_item_id}
        self.last_item_id = item.id
        await self.wire.send("input_audio_buffer.committed", **ids, item_id=item.id)
        content = [{"type": "input_audio", "transcript": None}]
        message = {"id": item.id, "type": "message", "status": "completed", "role": "user"}
        for kind in ("conversation.item.added", "conversation.item.done"):
            await self.wire.send(kind, **ids, item={**message, "content": content})
        return item

    async def commit_item(self) -> None:
        """End an item because the client says so; its turns have ended already."""
        await self.finished.put((await self.end_item(), None, True))

    def clear(self) -> None:
        """Forget what is being spoken."""
        self.turn = self.early = None  # or the text would become that of the next turn
        if self.item:
            self.item.is_wanted = False
            self.item = None

    async def write(self) -> None:
        """Send the text of turn after turn, in the order in which they were spoken."""
        while True:
            item, text, is_last = await self.finished.get()
            if text:
                await item.add(text)
            if is_last and item.is_wanted:
                await item.complete()
            self.finished.task_done()

    def start(self, work: Coroutine[Any, Any, list[Segment]]) -> Text:
        """Start a task that ends with the session at the latest."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        # A look that fails is not worth a message: whoever needs its result finds the error there.
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def close(self) -> None:
        """Stop all work for a client that is gone."""
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def sound_of(word: str) -> str:
    """Return a word without its case and punctuation, which change from look to look."""
    return "".join(filter(str.isalnum, word.casefold()))


def agreed_words(before: list[str], now: list[str]) -> list[str]:
    """Return the words of now that before begins with, too.

    What two looks in a row agree on rarely changes after that: LocalAgreement, Liu et al. 2020.
    """
    pairs = zip(before, now, strict=False)
    agreed = []
    for first, second in pairs:
        if sound_of(first) != sound_of(second):
            break
        agreed.append(second)
    return agreed


def continuation(shown: str, text: str) -> str:
    """Return what text adds to what was shown, or nothing if it says something else.

    Case, punctuation and spaces don't count: "Voice over IP, it" goes on from "voiceover IP".
    """
    expected = sound_of(shown)
    for position, letter in enumerate(text):
        if not expected:
            rest = text[position:]
            return rest if shown[-1:].isalnum() else re.sub(r"^[^\w\s]+", "", rest)
        sound = sound_of(letter)
        if not expected.startswith(sound):
            return ""
        expected = expected[len(sound) :]
    return ""
