"""A transcript in every form that a client may ask for."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from service.engines import Segment
from service.errors import EngineError, error_body


def subtitles(segments: list[Segment], kind: str) -> str:
    """Return the segments as SubRip (srt) or WebVTT (vtt)."""

    def clock(seconds: float) -> str:
        minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
        text = f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds / 1000:06.3f}"
        return text.replace(".", ",") if kind == "srt" else text

    blocks = ["WEBVTT\n"] if kind == "vtt" else []
    for number, part in enumerate(segments, start=1):
        label = f"{number}\n" if kind == "srt" else ""
        blocks.append(f"{label}{clock(part.start)} --> {clock(part.end)}\n{part.text}\n")
    return "\n".join(blocks)


async def as_events(work: AsyncGenerator[Any, None], seconds: float) -> AsyncIterator[str]:
    """Yield server-sent events as OpenAI names them: the text of each turn, then all of it."""
    texts: list[str] = []
    try:
        async for parts in work:
            for part in parts:
                delta = part.text if not texts else f" {part.text}"
                texts.append(part.text)
                yield as_event({"type": "transcript.text.delta", "delta": delta})
    except EngineError as error:
        yield as_event(error_body(str(error), kind="server_error"), "event: error\n")
        return
    usage = {"type": "duration", "seconds": seconds}
    yield as_event({"type": "transcript.text.done", "text": " ".join(texts), "usage": usage})


def as_event(content: dict[str, Any], head: str = "") -> str:
    """Return one server-sent event."""
    return f"{head}data: {json.dumps(content)}\n\n"


def clamped(segments: list[Segment], seconds: float) -> list[Segment]:
    """Let no segment end after the recording, or after the next one has begun."""
    starts = [*(segment.start for segment in segments[1:]), seconds]
    for segment, limit in zip(segments, starts, strict=False):
        segment.end = max(segment.start, min(segment.end, limit, seconds))
    return segments


def in_format(
    segments: list[Segment], seconds: float, response_format: str, language: str
) -> Response:
    """Return the answer in the form that the client asked for."""
    text = " ".join(part.text for part in segments)
    facts: dict[str, Any] = {"text": text, "usage": {"type": "duration", "seconds": seconds}}
    if response_format == "text":
        return PlainTextResponse(text + "\n")
    if response_format in ("srt", "vtt"):
        return PlainTextResponse(subtitles(segments, response_format))
    if response_format == "verbose_json":
        facts |= {"task": "transcribe", "language": language, "duration": seconds}
        facts["segments"] = [{"id": number, **vars(part)} for number, part in enumerate(segments)]
    return JSONResponse(facts)
