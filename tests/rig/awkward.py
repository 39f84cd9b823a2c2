"""Services that do what the rules allow, or nearly, and what no lesson would wish for."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

TRANSCRIPTION = "conversation.item.input_audio_transcription"


class Caller:
    """One connection of a lesson's, seen from the service."""

    def __init__(self, websocket: ServerConnection, number: int) -> None:
        self.websocket = websocket
        self.number = number  # 1 is the first that came
        self.audio = 0  # characters of base64 that it has sent

    def tell(self, kind: str, **fields: object) -> None:
        self.websocket.send(json.dumps({"type": kind, "event_id": "e", **fields}))

    def hear(self, kind: str, audio: float = float("inf")) -> dict[str, Any]:
        """Wait for an event of a kind, or until so many characters of audio have come."""
        while True:
            event: dict[str, Any] = json.loads(self.websocket.recv())
            self.audio += len(event.get("audio", ""))
            if event["type"] == kind or self.audio >= audio:
                return event

    def greet(self, has_vad: bool = True) -> None:
        """Go through the opening; without VAD as OpenAI's live models do."""
        self.tell("session.created", session={})
        if not has_vad:
            self.hear("session.update")
            param = "session.audio.input.turn_detection"
            self.tell(
                "error", error={"message": "No VAD.", "code": "invalid_value", "param": param}
            )
        self.hear("session.update")
        self.tell("session.updated", session={})

    def hear_all(self) -> int:
        """Wait for the end of the recording; return how many turns were committed before."""
        turns = 0
        while (event := json.loads(self.websocket.recv()))["type"] != "input_audio_buffer.clear":
            turns += event["type"] == "input_audio_buffer.commit"
        return turns

    def answer_the_end(self) -> None:
        self.tell("input_audio_buffer.cleared")

    def commit(self, *items: str) -> None:
        for item in items:
            self.tell("input_audio_buffer.committed", item_id=item, previous_item_id=None)

    def write(self, item: str, text: str) -> None:
        self.tell(f"{TRANSCRIPTION}.completed", item_id=item, content_index=0, transcript=text)


Behaviour = Callable[[Caller], None]


@contextmanager
def awkward(behave: Behaviour, refuse: dict[int, int] | None = None) -> Iterator[str]:
    """Run a service with a behaviour; refuse may name an HTTP status for the connection N."""
    count = 0
    counting = threading.Lock()

    def answer(websocket: ServerConnection, request: Request) -> Response | None:
        nonlocal count
        with counting:
            count += 1
        if status := (refuse or {}).get(count):
            return websocket.respond(status, "not now\n")
        return None

    def talk(websocket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            behave(Caller(websocket, count))

    with serve(talk, "127.0.0.1", 0, process_request=answer, max_size=2**24) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        port = server.socket.getsockname()[1]
        yield f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription"
        server.shutdown()
        thread.join()
