"""A referee between a client and the service: it knows the rules, and it forgives nothing.

It stands where the service stands, passes what is right on to the real service, and answers
what is wrong as the server would whose profile it has. What it knows of a client's events was
written down here by hand from OpenAI's reference; no event that is not listed may be sent.
"""

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from running_service import Service
from speech import Audio
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Event = dict[str, Any]
KEY = "sk-of-the-test-0123456789"
WITHOUT_VAD = ("gpt-live-transcribe", "gpt-realtime-whisper")


def rules_of_append(event: Event) -> bool:
    pcm = base64.b64decode(event["audio"], validate=True)
    return len(event["audio"]) <= 15 * 2**20 and len(pcm) % 2 == 0 and len(pcm) > 0


def rules_of_update(event: Event) -> bool:
    session = event["session"]
    sound = session["audio"]["input"]
    transcription = sound.get("transcription") or {}
    vad = sound.get("turn_detection") or {"type": "server_vad"}
    known = {"format", "noise_reduction", "transcription", "turn_detection"}
    vad_settings = {"type", "threshold", "prefix_padding_ms", "silence_duration_ms"}
    return (
        session["type"] == "transcription"
        and session.keys() <= {"type", "audio", "include"}
        and session["audio"].keys() == {"input"}
        and sound.keys() <= known
        and sound["format"].keys() == {"type", "rate"}  # OpenAI wants the rate every time
        and sound["format"]["type"] == "audio/pcm"
        and transcription.keys()
        <= {"model", "language", "languages", "prompt", "keywords", "delay"}
        and not {"language", "languages"} <= transcription.keys()
        and vad["type"] == "server_vad"
        and vad.keys() <= vad_settings
    )


CLIENT_EVENTS: dict[str, tuple[set[str], Callable[[Event], bool]]] = {  # type: fields, rules
    "session.update": ({"session"}, rules_of_update),
    "input_audio_buffer.append": ({"audio"}, rules_of_append),
    "input_audio_buffer.commit": (set(), lambda event: True),
    "input_audio_buffer.clear": (set(), lambda event: True),
}


def broken_rule(message: str | bytes) -> str:
    """Return what is wrong with a client's message, or an empty string."""
    if isinstance(message, bytes):
        return "a binary message"
    event = json.loads(message)
    if event["type"] not in CLIENT_EVENTS:
        return f"there is no event {event['type']}"
    fields, rules = CLIENT_EVENTS[event["type"]]
    if not fields <= event.keys() <= fields | {"type", "event_id"}:
        return f"{event['type']} has the fields {sorted(event)}"
    try:
        return "" if rules(event) else f"{event['type']} is against the rules: {message[:300]}"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"{event['type']} is malformed: {error!r}"


@dataclass
class Referee:
    """What it saw: the broken rules, the audio of all connections, each client's events."""

    url: str = ""
    faults: list[str] = field(default_factory=list)
    audio: list[bytes] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # of the audio

    @property
    def seconds(self) -> float:
        """How long the audio took to come."""
        return self.times[-1] - self.times[0]

    def heard(self) -> Audio:
        return np.frombuffer(b"".join(self.audio), "<i2")


async def refuse(client: ServerConnection, close: int | None, code: str, **fields: str) -> None:
    """Tell of an error as OpenAI does, in the band; then close, if it is a fatal one."""
    error = {"type": "invalid_request_error", "code": code, "param": None, "event_id": None}
    await client.send(json.dumps({"type": "error", "event_id": "e", "error": error | fields}))
    if close:
        await client.close(close, f"invalid_request_error.{code}")


async def openai_objects_to(client: ServerConnection, event: Event) -> bool:
    """Refuse what OpenAI refuses, though the protocol has it; return whether it was refused."""
    sound = event.get("session", {}).get("audio", {}).get("input", {})
    if not sound:
        return False
    if sound["format"]["rate"] != 24000:
        param = "session.audio.input.format.rate"
        await refuse(client, None, "invalid_value", message="24000 only.", param=param)
    elif sound["turn_detection"] and sound["transcription"]["model"] in WITHOUT_VAD:
        param = "session.audio.input.turn_detection"
        message = "Turn detection is not supported for this transcription model."
        await refuse(client, None, "invalid_value", message=message, param=param)
    else:
        return False
    return True


@contextmanager
def referee(service: Service, profile: str = "local") -> Iterator[Referee]:
    """Run a referee before the service: profile "openai", or "local" for a plain server.

    It runs in a thread of its own, so that a test may wait for a lesson's terminal.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = referee_on_loop(service, profile)
    try:
        yield asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result(20)
    finally:
        leaving = running.__aexit__(None, None, None)
        asyncio.run_coroutine_threadsafe(leaving, loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


@asynccontextmanager
async def referee_on_loop(service: Service, profile: str) -> AsyncIterator[Referee]:
    seen = Referee()

    async def judge(client: ServerConnection) -> None:
        assert client.request
        message: str | bytes
        query = parse_qs(urlsplit(client.request.path).query)
        headers = dict(client.request.headers.raw_items())
        seen.headers.append(headers)
        if query.get("intent") != ["transcription"]:
            seen.faults.append(f"asked for {client.request.path}")
        if profile == "openai":
            if "OpenAI-Beta" in headers:
                return await refuse(client, 4000, "beta_api_shape_disabled", message="GA only.")
            if "model" in query:
                message = "You must not provide a model parameter for transcription sessions."
                return await refuse(client, 4000, "invalid_model", message=message)
            if headers.get("Authorization") != f"Bearer {KEY}":
                message = "Incorrect API key provided."
                return await refuse(client, 3000, "invalid_api_key", message=message)
        async with connect(service.url, compression=None, max_size=2**24) as server:
            backward = asyncio.create_task(pass_on(server, client))
            try:
                async for message in client:
                    fault = broken_rule(message)
                    if fault:
                        seen.faults.append(fault)
                        continue
                    event = json.loads(message)
                    seen.events.append(event)
                    if event["type"] == "input_audio_buffer.append":
                        seen.audio.append(base64.b64decode(event["audio"]))
                        seen.times.append(time.monotonic())
                    if profile == "local" or not await openai_objects_to(client, event):
                        await server.send(message)
            except ConnectionClosed:
                pass
            finally:
                backward.cancel()

    async def pass_on(server: Any, client: ServerConnection) -> None:
        try:
            async for message in server:
                await client.send(message)
            await client.close(server.close_code, server.close_reason)
        except ConnectionClosed as closed:
            await client.close(closed.rcvd.code if closed.rcvd else 1011)

    async with serve(judge, "127.0.0.1", 0, max_size=2**24, compression=None) as listening:
        port = listening.sockets[0].getsockname()[1]
        seen.url = f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription"
        yield seen
