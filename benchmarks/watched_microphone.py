"""Run lesson 7 and write down when audio came from PyAudio and when it had gone to the socket.

python watched_microphone.py LOG: a JSON object; positions are seconds of audio.
"""

import atexit
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import pyaudio
from websockets.asyncio.client import ClientConnection

LESSON = Path(__file__).parent.parent / "simple_audio_transcription.py"
log, sys.argv[1:] = Path(sys.argv[1]), []
heard: list[tuple[float, float]] = []  # when, and how much until then
sent: list[tuple[float, float]] = []
open_device, send_message = pyaudio.PyAudio.open, ClientConnection.send


def watched_open(self: pyaudio.PyAudio, **options: Any) -> object:  # noqa: ANN401
    callback, rate = options["stream_callback"], options["rate"]

    def watched_callback(pcm: bytes, count: int, *rest: object) -> object:
        heard.append((time.perf_counter(), count / rate + (heard[-1][1] if heard else 0)))
        return callback(pcm, count, *rest)

    return open_device(self, **options | {"stream_callback": watched_callback})


async def watched_send(self: ClientConnection, message: str) -> None:
    await send_message(self, message)
    if "input_audio_buffer.append" in message:
        seconds = len(json.loads(message)["audio"]) * 3 / 4 / 2 / 24_000
        sent.append((time.perf_counter(), seconds + (sent[-1][1] if sent else 0)))


pyaudio.PyAudio.open = watched_open  # type: ignore[method-assign,assignment]
ClientConnection.send = watched_send  # type: ignore[method-assign,assignment]
atexit.register(lambda: log.write_text(json.dumps({"heard": heard, "sent": sent})))
runpy.run_path(str(LESSON), run_name="__main__")
