"""A transcription service that understands nothing, but remembers all that it is sent."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from speech import Audio
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

TRANSCRIPTION = "conversation.item.input_audio_transcription"


@dataclass
class Call:
    """One connection: what came, and when."""

    websocket: ServerConnection
    path: str
    headers: dict[str, str]
    sessions: list[dict[str, Any]] = field(default_factory=list)  # of each session.update
    audio: bytearray = field(default_factory=bytearray)
    sizes: list[int] = field(default_factory=list)  # of each append, in bytes
    commits: list[int] = field(default_factory=list)  # lengths of the audio at those moments
    first_audio_at: float = 0
    is_closed: bool = False

    def send(self, kind: str, **fields: object) -> None:
        self.websocket.send(json.dumps({"type": kind, **fields}))

    def heard(self) -> Audio:
        return np.frombuffer(bytes(self.audio), "<i2")

    def write(self, text: str, item_id: str, start_ms: int, end_ms: int) -> float:
        """Send all events of a turn that the service found; return the time of the last."""
        begin, end = "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"
        self.send(begin, item_id=item_id, audio_start_ms=start_ms)
        self.send(end, item_id=item_id, audio_end_ms=end_ms)
        now = time.time()
        self.send(f"{TRANSCRIPTION}.completed", item_id=item_id, transcript=text)
        return now


class Ear:
    """With has_vad=False it is like OpenAI's live models: it takes commits, and 24000 Hz only."""

    def __init__(self, has_vad: bool) -> None:
        self.has_vad = has_vad
        self.calls: list[Call] = []
        self.server = serve(self._answer, "127.0.0.1", 0, compression=None, max_size=None)
        self.port = int(self.server.socket.getsockname()[1])
        self.url = f"ws://127.0.0.1:{self.port}/v1/realtime?intent=transcription"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def _answer(self, websocket: ServerConnection) -> None:
        assert websocket.request
        headers = {name.lower(): value for name, value in websocket.request.headers.raw_items()}
        call = Call(websocket, websocket.request.path, headers)
        self.calls.append(call)
        try:
            call.send("session.created", session={})
            for message in websocket:
                self._handle(call, json.loads(message))
        except ConnectionClosed:
            pass
        call.is_closed = True

    def _handle(self, call: Call, event: dict[str, Any]) -> None:
        match event["type"]:
            case "session.update":
                call.sessions.append(event["session"])
                sound = event["session"]["audio"]["input"]
                if not self.has_vad and sound["turn_detection"]:
                    param = "session.audio.input.turn_detection"
                    message = "Turn detection is not supported for this transcription model."
                    call.send("error", error={"message": message, "param": param})
                elif not self.has_vad and sound["format"]["rate"] != 24_000:
                    call.send("error", error={"message": "integer below minimum value"})
                else:
                    call.send("session.updated", session=event["session"])
            case "input_audio_buffer.append":
                call.first_audio_at = call.first_audio_at or time.time()
                audio = base64.b64decode(event["audio"])
                call.sizes.append(len(audio))
                call.audio += audio
            case "input_audio_buffer.clear":
                call.send("input_audio_buffer.cleared")
            case "input_audio_buffer.commit":
                self._commit(call, event.get("event_id"))

    def _commit(self, call: Call, event_id: object) -> None:
        if call.commits[-1:] == [len(call.audio)]:
            error = {"code": "input_audio_buffer_commit_empty", "message": "too small"}
            return call.send("error", error=error | {"event_id": event_id})
        call.commits.append(len(call.audio))
        item_id = f"item_{len(call.commits)}"
        text = f"phrase {len(call.commits)}"
        call.send(f"{TRANSCRIPTION}.delta", item_id=item_id, delta=text[:6])
        call.send("input_audio_buffer.committed", item_id=item_id, previous_item_id=None)
        return call.send(f"{TRANSCRIPTION}.completed", item_id=item_id, transcript=text)

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join(10)


OpenEar = Callable[..., Ear]


@pytest.fixture
def open_ear() -> Iterator[OpenEar]:
    ears: list[Ear] = []

    def open_one(has_vad: bool = True) -> Ear:
        ears.append(Ear(has_vad))
        return ears[-1]

    yield open_one
    for ear in ears:
        ear.close()
