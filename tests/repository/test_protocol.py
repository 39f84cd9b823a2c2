"""docs/protocol.md is true: its session, its refusals, its events, its command."""

import asyncio
import json
import re
import shlex
import subprocess

import numpy as np
import pytest
from documents import blocks, commands, read, rows, section
from running_lessons import ROOT, need
from running_service import Client, Service, client
from speech import silence, spoken

RATE = 24_000  # Hz
PROTOCOL = read("docs/protocol.md")


def replayed(service: Service, lines: list[str]) -> list[dict[str, object]]:
    """Send the events of a session to a service. Return those that it answers with."""

    async def send(talking: Client, event: dict[str, object]) -> None:
        if event["type"] != "input_audio_buffer.append":
            await talking.websocket.send(json.dumps(event))
            return
        sound = [silence(0.5, RATE), spoken("what time is it", RATE), silence(1.5, RATE)]
        await talking.say(np.concatenate(sound), speed=1)

    async def replay() -> list[dict[str, object]]:
        async with client(service.url) as talking:
            for line in lines:
                if line.startswith("> "):
                    await talking.event("session.created")
                    await send(talking, json.loads(line[2:]))
            await talking.transcripts(1)
            return talking.events

    return asyncio.run(replay())


def test_the_session_of_the_protocol_is_what_the_service_says(service: Service) -> None:
    (block,) = (
        each.lines
        for each in blocks("docs/protocol.md")
        if each.kind == "text" and each.lines[0].startswith("< ")
    )
    quoted = [json.loads(line[2:].replace("{...}", "{}")) for line in block if line[0] == "<"]
    said = replayed(service, block)
    delta = "conversation.item.input_audio_transcription.delta"
    assert delta in [event["type"] for event in said]

    def without_deltas(events: list[dict[str, object]]) -> list[dict[str, object]]:
        return [event for event in events if event["type"] != delta]  # there may be more or fewer

    for one, other in zip(without_deltas(quoted), without_deltas(said), strict=True):
        assert list(one) == list(other) and one["type"] == other["type"]
    assert quoted[-1]["transcript"] == said[-1]["transcript"]
    by_kind = {event["type"]: list(event) for event in said}
    assert all(list(event) == by_kind[event["type"]] for event in quoted)
    deltas = (event["delta"] for event in quoted if event["type"] == delta)
    assert "".join(map(str, deltas)) == quoted[-1]["transcript"]


REFUSALS = rows(section(PROTOCOL, "What the services refuse"), "you send")


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row[0])
def test_the_service_refuses_what_the_protocol_says_that_it_refuses(
    service: Service, row: list[str]
) -> None:
    sent, code, message = (str(re.findall(r"`(.+?)`", cell)[0]) for cell in row)

    async def refused() -> dict[str, str]:
        async with client(service.url) as talking:
            await talking.event("session.created")
            await talking.websocket.send(sent)
            return dict((await talking.event("error", seconds=20))["error"])

    error = asyncio.run(refused())
    assert error["code"] == code and error["message"].startswith(message)


def test_the_protocol_lists_every_event_and_every_close_code_of_the_service() -> None:
    code = "".join(path.read_text() for path in (ROOT / "service").glob("*.py"))
    transcription = "conversation.item.input_audio_transcription"
    code = code.replace("{PREFIX}", transcription)
    kind = (
        r"((?:session|input_audio_buffer|conversation\.item(?:\.input_audio_transcription)?)\.\w+)"
    )
    sent = set(re.findall(rf'"{kind}"', code)) - {transcription}
    sent |= {f"{transcription}.{end}" for end in ("completed", "failed")}
    listed = section(PROTOCOL, "The events")
    assert set(re.findall(rf"`{kind}`", listed)) == sent
    codes = set(re.findall(r"(?:refuse|close|fail)\((\d{4})\b", code))
    assert {row[0] for row in rows(PROTOCOL, "close code")} == codes


def test_the_command_for_a_recording_works(service: Service) -> None:
    need("curl")
    (command,) = (each for each in commands("docs/protocol.md") if each.startswith("curl "))
    ended = subprocess.run(
        shlex.split(command.replace("10300", str(service.port))),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(ended.stdout)["text"]
