"""OpenAI's own Python SDK against lesson 5; runs in a virtual environment of its own.

Uses nothing but what OpenAI itself accepts. Prints what it got as one line of JSON.
Usage: openai_lesson_client.py HTTP_URL WAV (24 kHz mono PCM16) NUMBER_OF_TURNS
"""

import asyncio
import json
import sys
import wave
from base64 import b64encode
from pathlib import Path
from typing import Any

import openai


async def listen(client: openai.AsyncOpenAI, path: str, turns: int) -> list[dict[str, Any]]:
    """Stream a recording to a transcription session; return all events up to the last text."""
    with wave.open(path) as recording:
        pcm = recording.readframes(recording.getnframes())
    events = []
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        sound: Any = {
            "format": {"type": "audio/pcm", "rate": 24000},
            "transcription": {"model": "gpt-4o-transcribe"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 500},
        }
        await connection.session.update(
            session={"type": "transcription", "audio": {"input": sound}}
        )
        for start in range(0, len(pcm), 4800):
            audio = b64encode(pcm[start : start + 4800]).decode()
            await connection.input_audio_buffer.append(audio=audio)
        async with asyncio.timeout(60):
            async for event in connection:
                events.append(event.model_dump())
                turns -= event.type.endswith(".completed")
                if not turns:
                    break
        await connection.input_audio_buffer.commit()  # there is nothing left
        events.append((await connection.recv()).model_dump())
    return events


async def main() -> None:
    url, path, turns = sys.argv[1:]
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none needed here")
    speech = client.audio.transcriptions
    answers: dict[str, Any] = {"models": [model.id async for model in client.models.list()]}
    answers["text"] = (await speech.create(file=Path(path), model="whisper-1")).text
    requests: dict[str, Any] = {
        "no audio": {"file": b"no audio"},
        "srt": {"file": Path(path), "response_format": "srt"},
        "prompt": {"file": Path(path), "prompt": "A talk about boats."},
    }
    for name, request in requests.items():
        try:
            await speech.create(model="whisper-1", **request)
        except openai.BadRequestError as error:
            answers[name] = [error.message, error.param]
    answers["events"] = await listen(client, path, int(turns))
    print(json.dumps(answers))


asyncio.run(main())
