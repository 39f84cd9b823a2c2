"""Lesson 1 sends back exactly what it hears, to every client, whatever other clients do."""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import aiohttp
import pytest
from playwright.sync_api import sync_playwright
from running_lessons import RunLesson, chromium, free_port
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect as connect_now
from wires import RunningLesson, flood_until_stuck, frame, lesson_server, raw_websocket, vanish

LESSON = "websocket_server_echo.py"
MEGABYTE = 1_000_000
TEXTS = ["hello", "", "日本語 Ünïcödé", "🙂👩‍👩‍👧 \0 \x1b[31m\r\n", "x" * MEGABYTE]
BINARIES = [b"", b"\0\xff" * 8, bytes(range(256)) * 64, b"\xf0\x9f" * (MEGABYTE // 2)]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(tmp_path: Path, port: int) -> Iterator[RunningLesson]:
    with lesson_server(tmp_path, LESSON, port) as running:
        yield running


@pytest.fixture
def page_address(tmp_path: Path) -> Iterator[str]:
    """Serve an empty web page; its origin is not that of the echo server."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>A page</title>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{site.server_port}/"
        site.shutdown()


def test_the_websockets_library_gets_back_exactly_what_it_sent(
    server: RunningLesson, port: int
) -> None:
    with connect_now(f"ws://127.0.0.1:{port}", proxy=None) as client:
        for text in TEXTS:
            client.send(text)
            assert client.recv() == text
        for data in BINARIES:
            client.send(data)
            assert client.recv() == data


def test_a_message_in_fragments_comes_back_whole(server: RunningLesson, port: int) -> None:
    with connect_now(f"ws://127.0.0.1:{port}", proxy=None) as client:
        client.send(["one ", "", "two ", "three 🙂"])
        assert client.recv() == "one two three 🙂"
        client.send([b"\1", b"\2\3"])
        assert client.recv() == b"\1\2\3"


def test_aiohttp_gets_back_exactly_what_it_sent(server: RunningLesson, port: int) -> None:
    async def converse() -> None:
        url = f"ws://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as client:
            for text in TEXTS:
                await client.send_str(text)
                assert await client.receive_str() == text
            for data in BINARIES:
                await client.send_bytes(data)
                assert await client.receive_bytes() == data

    asyncio.run(converse())


def test_no_compression_is_agreed_on(server: RunningLesson, port: int) -> None:
    """It would cost most of the speed. The client here asks for it."""

    async def ask() -> int:
        url = f"ws://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url, compress=15) as one:
            return one.compress

    assert asyncio.run(ask()) == 0


@pytest.mark.parametrize("subprotocols", [[], ["any-protocol", "another"]])
def test_a_web_page_gets_back_exactly_what_it_sent(
    subprotocols: list[str], server: RunningLesson, port: int, page_address: str
) -> None:
    """A browser that asks for subprotocols hangs up unless the server picks one of them."""
    conversation = """async ([url, subprotocols, texts, binaries]) => {
        const socket = new WebSocket(url, subprotocols);
        socket.binaryType = "arraybuffer";
        const next = (name) => new Promise((resolve, reject) => {
            socket.addEventListener(name, resolve, {once: true});
            socket.addEventListener("error", () => reject("refused"), {once: true});
        });
        await next("open");
        const heard = {protocol: socket.protocol, texts: [], binaries: []};
        for (const text of texts) {
            socket.send(text);
            heard.texts.push((await next("message")).data);
        }
        for (const numbers of binaries) {
            socket.send(new Uint8Array(numbers));
            heard.binaries.push([...new Uint8Array((await next("message")).data)]);
        }
        socket.close(1000);
        heard.code = (await next("close")).code;
        return heard;
    }"""
    binaries = [list(data) for data in BINARIES[:3]]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(page_address)
        url = f"ws://127.0.0.1:{port}"
        heard = page.evaluate(conversation, [url, subprotocols, TEXTS, binaries])
        browser.close()
    protocol = subprotocols[0] if subprotocols else ""
    assert heard == {"protocol": protocol, "texts": TEXTS, "binaries": binaries, "code": 1000}


def test_two_hundred_clients_at_once_each_get_their_own_words(
    server: RunningLesson, port: int
) -> None:
    async def one(number: int, everybody_is_here: asyncio.Barrier) -> None:
        async with connect(f"ws://127.0.0.1:{port}", proxy=None, open_timeout=60) as client:
            await everybody_is_here.wait()
            for turn in range(5):
                await client.send(f"client {number}, turn {turn}")
                assert await client.recv() == f"client {number}, turn {turn}"

    async def all_of_them() -> None:
        barrier = asyncio.Barrier(200)
        await asyncio.gather(*(one(number, barrier) for number in range(200)))

    asyncio.run(all_of_them())


@pytest.mark.skipif(
    version("websockets") < "17", reason="older libraries print a traceback for each"
)
def test_programs_that_do_not_speak_websocket_are_turned_away(
    server: RunningLesson, port: int
) -> None:
    """The server fixture also checks that none of them leaves a traceback."""
    for nonsense in (b"\x16\x03\x01 not HTTP at all\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b""):
        stranger = socket.create_connection(("127.0.0.1", port))
        stranger.sendall(nonsense)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(1000):
            pass  # until the server hangs up
        stranger.close()


def test_rude_clients_do_not_disturb_others(server: RunningLesson, port: int) -> None:
    """The server fixture also checks that none of them leaves a traceback."""
    with connect_now(f"ws://127.0.0.1:{port}", proxy=None) as neighbour:
        crashed = raw_websocket(port)
        crashed.sendall(frame(1, b"I am about to crash"))
        server.says("I am about to crash")
        vanish(crashed)
        server.says(r"left \(close code 1006\)")

        for broken, close_code in ((b"\x83\x80\0\0\0\0", 1002), (frame(1, b"\xff\xfe"), 1007)):
            confused = raw_websocket(port)
            confused.sendall(broken)
            assert confused.recv(4)[2:] == close_code.to_bytes(2)  # told why, in a close frame
            name = "{}:{}".format(*confused.getsockname())
            confused.close()
            server.says(f"{name} left")

        silent = raw_websocket(port)  # and it stays for the rest of the test
        greedy = raw_websocket(port)
        flood_until_stuck(greedy)

        neighbour.send("still here?")
        assert neighbour.recv() == "still here?"
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has hung up on the silent one
            silent.recv(1)
    silent.close()
    greedy.close()


def test_ctrl_c_does_not_wait_for_a_client_that_says_no_goodbye(
    server: RunningLesson, port: int
) -> None:
    silent = raw_websocket(port)
    pressed = time.monotonic()
    assert server.ctrl_c() == 0
    assert time.monotonic() - pressed < 5  # it takes two; without the limit it takes ten or more
    silent.close()


def test_ctrl_c_says_goodbye_to_every_client(server: RunningLesson, port: int) -> None:
    with connect_now(f"ws://127.0.0.1:{port}", proxy=None) as client:
        client.send("hello")
        assert client.recv() == "hello"
        assert server.ctrl_c() == 0
        assert list(client) == []  # ends, and without an error
        assert client.close_code == 1001


def test_a_message_over_the_limit_closes_only_its_sender_s_connection(
    server: RunningLesson, port: int
) -> None:
    with connect_now(f"ws://127.0.0.1:{port}", proxy=None) as client:
        with pytest.raises(ConnectionClosedError):
            client.send("x" * (2**20 + 1))
            client.recv()
        assert client.close_code == 1009
    with connect_now(f"ws://127.0.0.1:{port}", proxy=None) as other:
        other.send("still here?")
        assert other.recv() == "still here?"


def test_it_prints_who_came_what_they_said_and_who_left(server: RunningLesson, port: int) -> None:
    with connect_now(f"ws://127.0.0.1:{port}", proxy=None) as client:
        name = f"127.0.0.1:{client.local_address[1]}"
        messages: list[str | bytes] = ["hello", b"12345", "y" * 5000, "\x1b[2J"]
        for message in messages:
            client.send(message)
            client.recv()
    server.says(rf"{name} left \(close code 1000\)")
    said = [line for line in server.printed().splitlines() if line.startswith(name)]
    assert said[:3] == [f"{name} connected", f"{name} said 'hello'", f"{name} said 5 bytes"]
    assert len(said[3]) < 100  # shortened
    assert said[4] == f"{name} said '\\x1b[2J'"  # and it can't clear the screen


def test_what_it_prints_appears_at_once_even_in_a_pipe(tmp_path: Path, port: int) -> None:
    """To Python some terminals are pipes, for example Git Bash on Windows."""
    with (
        lesson_server(tmp_path, LESSON, port, {"PYTHONUNBUFFERED": ""}) as server,
        connect_now(f"ws://127.0.0.1:{port}", proxy=None) as client,
    ):
        client.send("hello")
        server.says("said 'hello'")


def test_a_port_in_use_gets_a_sentence_and_the_command_for_another_one(
    server: RunningLesson, port: int, run_lesson: RunLesson
) -> None:
    second = run_lesson(LESSON, env={"PORT": str(port)})
    assert second.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port} (port already in use)." in second.stderr
    assert f"PORT=8766 python {LESSON}" in second.stderr
    assert "Traceback" not in second.stderr


def test_an_address_of_another_computer_gets_a_sentence(run_lesson: RunLesson) -> None:
    result = run_lesson(LESSON, env={"PORT": str(free_port()), "HOST": "192.0.2.77"})
    assert result.returncode == 1
    assert "Cannot listen on 192.0.2.77:" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers at all of 127.0.0.0/8")
def test_only_host_0000_opens_it_to_other_addresses_and_then_it_warns(tmp_path: Path) -> None:
    port = free_port()
    with lesson_server(tmp_path, LESSON, port) as closed, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))
    assert "Warning" not in closed.printed()

    with lesson_server(tmp_path, LESSON, port, {"HOST": "0.0.0.0"}) as opened:
        opened.says("Warning: everyone on your network can connect")
        with connect_now(f"ws://127.0.0.2:{port}", proxy=None) as classmate:
            classmate.send("from next door")
            assert classmate.recv() == "from next door"
