"""TRACE=1 shows what travels, in each lesson that has a WebSocket.

Lessons 1 to 4 have no keys and show everything. The others never show a key.
"""

import ast
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from browser import StartApp, Visit
from running_lessons import ROOT, RunLesson, free_port
from running_service import StartService, until
from speech import HELLO, PHRASES, silence, spoken, write_wav
from websockets.asyncio.client import connect
from websockets.exceptions import NegotiationError
from websockets.sync.client import connect as connect_sync
from wires import RunningLesson, lesson_server, wait_until

ECHO, PING = "websocket_server_echo.py", "websocket_server_echo_ping.py"
CLIENT, PYGAME = "websocket_client_example.py", "pygame_websocket.py"
LIVE = "simple_audio_transcription.py"
BROWSER = "speech_to_text_webrtc.py"
LESSONS = [ECHO, PING, CLIENT, PYGAME, LIVE, BROWSER]
SECRET = "correct-horse-battery-staple"
WITH_KEYS = {  # every place of a handshake in which people put keys
    "Authorization": f"Bearer {SECRET}",
    "Cookie": f"session={SECRET}",
    "X-Api-Key": SECRET,
    "Sec-WebSocket-Protocol": f"realtime, {SECRET}",
}
QUERY = f"intent=transcription&api_key={SECRET}"
Signs = tuple[str, str]
CLIENT_SENDS: Signs = (">", "<")  # how the client's and the server's messages begin, seen from here
SERVER_SENDS: Signs = ("<", ">")


def handshake(path: str, sender: Signs) -> list[str]:
    """Return what a handshake looks like from one of its two sides."""
    request, answer = sender
    return [
        f"{request} GET {path}( HTTP/1.1)?",
        rf"(?i){request} Upgrade: websocket",
        rf"(?i){request} Sec-WebSocket-Key: [\w+/]+==",
        rf"{answer} HTTP/1.1 101 Switching Protocols",
        rf"{answer} Sec-WebSocket-Accept: [\w+/]+=",
        "= connection is OPEN",
    ]


def assert_shows(output: str, *lines: str) -> None:
    """See that these lines stand there in this order, each with its time, and no key does."""
    position = 0
    for line in lines:
        flags, pattern = re.match(r"(\(\?i\))?(.*)", line, re.DOTALL).groups("")  # type: ignore[union-attr]
        found = re.compile(rf"{flags}(?m:^) *\d+ ms {pattern}\s*(?m:$)").search(output, position)
        assert found, f"{line!r} is not there, or not in its place:\n{output[position:]}"
        position = found.end()
    assert SECRET not in output
    assert not re.search(r"(?i)\b(authorization|cookie|x-api-key|sec-websocket-protocol): ", output)


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_docstring_says_it_in_the_same_words(lesson: str) -> None:
    tree = ast.parse((ROOT / lesson).read_text())
    assert re.search(rf"TRACE=1 python {lesson}", ast.get_docstring(tree) or "")
    assert re.search(r"[Tt]o watch the wire", ast.get_docstring(tree) or "")


@pytest.mark.parametrize("lesson", [ECHO, PING])
def test_a_server_shows_handshake_message_ping_and_close(lesson: str, tmp_path: Path) -> None:
    port = free_port()
    with lesson_server(tmp_path, lesson, port, {"TRACE": "1"}) as server:
        with connect_sync(f"ws://127.0.0.1:{port}/a/b") as client:
            client.ping(b"are you there").wait(20)
            for message in ("grüß dich", b"\x00\xff"):
                client.send(message)
                while client.recv(20) != message:
                    pass  # a ping message of lesson 2
            client.close(4001, "enough")
        server.says("left")
    assert_shows(
        server.printed(),
        *handshake("/a/b", SERVER_SENDS),
        r"< PING 'are you there' \[text, 13 bytes\]",
        r"> PONG 'are you there' \[text, 13 bytes\]",
        r"< TEXT 'grüß dich' \[11 bytes\]",
        r"> TEXT 'grüß dich' \[11 bytes\]",
        r"< BINARY 00 ff \[2 bytes\]",
        r"< CLOSE 4001 \(private use\) enough \[8 bytes\]",
        "= connection is CLOSED",
    )
    own_ping = r"> PING .+ \[\w+, 4 bytes\]"
    assert bool(re.search(own_ping, server.printed())) == (lesson == PING)


def test_the_client_shows_both_directions(run_lesson: RunLesson, tmp_path: Path) -> None:
    port = free_port()
    with lesson_server(tmp_path, PING, port):
        url = f"ws://127.0.0.1:{port}"
        shown = run_lesson(CLIENT, url, env={"TRACE": "1"}, input="hello\n").stdout
    assert_shows(
        shown,
        *handshake("/", CLIENT_SENDS),
        r"> TEXT 'hello' \[5 bytes\]",
        r"< TEXT 'hello' \[5 bytes\]",
        r"> CLOSE 1000 \(OK\) \[2 bytes\]",
        r"< CLOSE 1000 \(OK\) \[2 bytes\]",
    )
    assert_shows(shown, r"< PING .+ \[\w+, 4 bytes\]", r"> PONG .+ \[\w+, 4 bytes\]")


def test_the_window_shows_its_wire_in_the_terminal(tmp_path: Path) -> None:
    port = free_port()
    env = {"TRACE": "1", "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    env |= {"WEBSOCKET_URL": f"ws://127.0.0.1:{port}"}
    with lesson_server(tmp_path, PING, port) as server:
        window = RunningLesson(tmp_path / "window.log", PYGAME, env)
        try:
            window.says(r"> PING ")  # its own, after a second
            server.ctrl_c()
            window.says("= connection is CLOSED")
            assert window.ctrl_c() == 0
        finally:
            window.kill()
    assert_shows(
        window.printed(),
        *handshake("/", CLIENT_SENDS),
        r"< TEXT '{\"type\": \"ping\", \"number\": 1, .+}' \[\d+ bytes\]",
        r"> PING .+ \[\w+, 4 bytes\]",
        r"< PONG .+ \[\w+, 4 bytes\]",
        r"< CLOSE 1001 \(going away\) \[2 bytes\]",
    )


# What the clients of lessons 7 and 8 send, and the service of lesson 5 gets: (sent, received).
EVENTS = [
    r"{1} TEXT '.+\"session.created\".+",
    r"{0} TEXT '.+\"session.update\".+",
    r"{0} TEXT '{{\"type\": \"input_audio_buffer.append\", \"audio\": \".+\"}}' \[\d+ bytes\]",
    r"{1} TEXT '.+\.delta\".+\"delta\": \"set.*",
    r"{1} TEXT '.+\.completed\".+\"transcript\": \"set a timer for three minutes\".+",
]


def events(sender: Signs) -> list[str]:
    return [line.format(*sender) for line in EVENTS]


def test_the_service_and_the_live_lesson_show_two_sides_of_one_wire(
    start_service: StartService, run_lesson: RunLesson
) -> None:
    service = start_service(TRACE="1", API_KEY=SECRET)
    address = f"ws://127.0.0.1:{service.port}/v1/realtime?{QUERY}"
    env = {"TRACE": "1", "WEBSOCKET_URL": address, "API_KEY": SECRET}
    ended = run_lesson(LIVE, "--file", HELLO, env=env)
    assert (ended.stderr, ended.returncode) == ("", 0)
    until(lambda: " > CLOSE 1000" in service.output)
    for output, sender in ((ended.stdout, CLIENT_SENDS), (service.output, SERVER_SENDS)):
        sent, received = sender
        ping = [rf"{sent} PING .+ \[\w+, 4 bytes\]", rf"{received} PONG .+ \[\w+, 4 bytes\]"]
        close = rf"{sent} CLOSE 1000 \(OK\) \[2 bytes\]"
        start = handshake(r"/v1/realtime\?\.\.\.", sender)
        if output == ended.stdout:
            del start[0]  # the lesson hides all of that line, because an address may hold a key
        assert_shows(output, *start, *events(sender), *ping, close)
        assert max(map(len, output.splitlines())) < 500
    assert re.findall(r"^\[\d:\d\d\] (.*)", ended.stdout, re.MULTILINE) == PHRASES


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer not-{SECRET}"}, WITH_KEYS])
async def test_the_service_traces_no_key_wherever_a_client_puts_it(
    start_service: StartService, headers: dict[str, str]
) -> None:
    service = start_service(TRACE="1", API_KEY=f"my-{SECRET}")
    url = f"{service.url}&key={SECRET}"
    connection = connect(url, additional_headers=headers, user_agent_header=SECRET)
    with suppress(NegotiationError):  # the service picks "realtime", which connect() didn't offer
        async with connection as student:
            await student.wait_closed()
    until(lambda: " > CLOSE 3000" in service.output)
    assert_shows(
        service.output,
        *handshake(r"/v1/realtime\?\.\.\.", SERVER_SENDS),
        r"> TEXT '.+\"invalid_api_key\".+",
        r"> CLOSE 3000 \(registered\) invalid_request_error.invalid_api_key \[\d+ bytes\]",
    )


def test_the_browser_lesson_shows_its_wire_to_the_service_and_not_what_is_typed(
    start_service: StartService, start_app: StartApp, visit: Visit, tmp_path: Path
) -> None:
    service = start_service(API_KEY=SECRET)
    app = start_app(TRACE="1", WEBSOCKET_URL="", OPENAI_API_KEY=f"sk-{SECRET}")
    said = np.concatenate([silence(2, 48_000), spoken(PHRASES[1], 48_000)])
    wav = write_wav(tmp_path / "said.wav", said, 48_000)
    visitor = visit(says=wav)
    visitor.open(app.url)
    visitor.choose("Another", f"{service.url}&api_key={SECRET}", SECRET)
    visitor.start()
    visitor.expect_said(PHRASES[1])
    wait_until(lambda: "> PING" in app.output(), "a ping, which comes every 10 s")
    visitor.stop()
    wait_until(lambda: "= connection is CLOSED" in app.output(), "the end of the connection")
    output = app.output()
    assert_shows(
        output,
        *handshake("", CLIENT_SENDS)[1:],  # it hides the line with the address
        *events(CLIENT_SENDS),
        r"> CLOSE 1000 \(OK\) \[2 bytes\]",
    )
    assert_shows(output, r"> PING .+ \[\w+, 4 bytes\]", r"< PONG .+ \[\w+, 4 bytes\]")
    assert output.count("= connection is OPEN") == 1  # once, however often the page was drawn
