"""OpenAI's own Python SDK against the service; runs in a virtual environment of its own.

The SDK wants an older websockets than the lessons. Prints what it got as one line of JSON.
Usage: openai_client.py HTTP_URL WAV (16 kHz mono PCM16)
"""

import asyncio
import base64
import json
import sys
import wave
from pathlib import Path
from typing import Any

import openai


async def realtime(client: openai.AsyncOpenAI, path: str) -> list[dict[str, Any]]:
    """Stream a recording to a transcription session; return the events up to the last text."""
    with wave.open(path) as recording:
        pcm = recording.readframes(recording.getnframes())
    events = []
    query = {"intent": "transcription"}
    async with client.realtime.connect(extra_query=query) as connection:
        sound: Any = {
            "format": {"type": "audio/pcm", "rate": 16000},  # an extension of the service
            "transcription": {"model": "gpt-transcribe"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 500},
        }
        await connection.session.update(
            session={"type": "transcription", "audio": {"input": sound}}
        )
        for start in range(0, len(pcm), 3200):
            audio = base64.b64encode(pcm[start : start + 3200]).decode()
            await connection.input_audio_buffer.append(audio=audio)
            await asyncio.sleep(0.02)
        await connection.input_audio_buffer.commit()
        last = None
        async with asyncio.timeout(60):
            async for event in connection:
                events.append(event.model_dump())
                last = event.item_id if event.type == "input_audio_buffer.committed" else last
                is_text = event.type.endswith(".completed") and event.item_id == last
                if is_text and event.transcript in ("", "goodbye"):
                    return events
    return events


async def main() -> None:
    url, path = sys.argv[1:]
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none needed here")
    answers: dict[str, Any] = {"version": openai.__version__}
    for response_format in ("json", "text", "srt", "verbose_json", "vtt"):
        with Path(path).open("rb") as file:
            result: Any = await client.audio.transcriptions.create(
                file=file, model="whisper-1", response_format=response_format
            )
        answers[response_format] = result if isinstance(result, str) else result.model_dump()
    answers["models"] = [model.id async for model in client.models.list()]
    try:
        await client.audio.transcriptions.create(file=b"no audio", model="whisper-1")
    except openai.BadRequestError as error:
        answers["error"] = error.message
    answers["events"] = await realtime(client, path)
    print(json.dumps(answers))


asyncio.run(main())
