#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets>=15,<18"]
# ///
"""Lesson 3: a WebSocket client to type in

What you learn
    A client sends and receives at the same time: one part waits for your keyboard,
    another for the network, and neither may hold up the other. And connections
    break: a good client says so, waits, and tries again, each time a little later.
Before you start
    Lesson 1 or 2 in a first terminal; python -m pip install "websockets>=15,<18"
Run it
    In a second terminal:   python websocket_client_example.py
    Another server:         python websocket_client_example.py ws://127.0.0.1:9000
    Without a keyboard:     echo hello | python websocket_client_example.py
    To watch the wire:      TRACE=1 python websocket_client_example.py
You should see
    Connected to ws://127.0.0.1:8765 (Ctrl-C leaves)
    >>> hello                      what you type goes out
    <<< hello                      what arrives
    Stop the server, type on, start it again: your lines go out then.
Try next
    When did it arrive? Write  import time  below import threading, and replace
        show(f"<<< {text}")
    by  show(f"{time.strftime('%H:%M:%S')} <<< {text}")
"""

import asyncio
import logging
import os
import re
import shutil
import sys
import threading
import unicodedata
from contextlib import suppress
from io import TextIOWrapper

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

URL = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765"
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds before trying again; doubled each time
ECHO_SECONDS = 5  # so long the end of a pipe waits for its last echoes
CLOSE_SECONDS = 0.3  # so long a server may take over its goodbye
REMEDY = "Does a server run (python websocket_server_echo.py)? Is it really ws:// or wss:// there?"
AT_TERMINAL = sys.stdin.isatty() and sys.stdout.isatty()  # a person, not a pipe


def show(text: str) -> None:
    """Print text; at a terminal above the line that is being typed, which stays whole."""
    if sys.stdout.isatty():  # whatever a server sends, it must not command the terminal
        text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "·", text)
    if not AT_TERMINAL:
        try:
            return print(text, flush=True)
        except BrokenPipeError:  # whoever read our answers has enough, as head has
            os._exit(0)
    columns = shutil.get_terminal_size().columns
    if any(unicodedata.east_asian_width(letter) in "WF" for letter in text):
        columns //= 2  # 字 and 🙂 are two columns wide
    for line in text.split("\n"):
        for start in range(0, len(line) or 1, columns):
            # Remember the cursor, open an empty row above, fill it, return to the cursor.
            row = line[start : start + columns]
            print(f"\x1b7\n\x1b[A\r\x1b[L{row}\x1b8\x1b[B", end="", flush=True)


class Lines:
    """What was typed, and how far it has come."""

    def __init__(self) -> None:
        self.unsent: asyncio.Queue[str | None] = asyncio.Queue(1000)  # None: the end of a pipe
        self.unechoed: list[str] = []  # sent, but not back yet
        self.ended = False


def read_keyboard(lines: Lines, program: asyncio.Task[None]) -> None:
    """Hand over what is typed; input() blocks, so this runs in a thread beside the event loop."""
    loop = program.get_loop()
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            line = input(">>> " if AT_TERMINAL else "")
            asyncio.run_coroutine_threadsafe(lines.unsent.put(line), loop).result()
    if AT_TERMINAL:
        loop.call_soon_threadsafe(program.cancel)  # Ctrl-D leaves, as Ctrl-C does
    else:
        asyncio.run_coroutine_threadsafe(lines.unsent.put(None), loop)


async def send(connection: ClientConnection, lines: Lines) -> None:
    """Send each line as it is typed; say goodbye after the last."""
    with suppress(ConnectionClosed):
        line = await lines.unsent.get()
        while line is not None:
            lines.unechoed.append(line)
            await connection.send(line)
            line = await lines.unsent.get()
        lines.ended = True
        if lines.unechoed:
            await asyncio.sleep(ECHO_SECONDS)
        await connection.close()


async def talk(connection: ClientConnection, lines: Lines) -> None:
    """Show each message as it arrives, while a second task sends."""
    sending = asyncio.create_task(send(connection, lines))
    try:
        async for message in connection:
            text = message if isinstance(message, str) else f"{len(message)} bytes"
            show(f"<<< {text}")
            if text in lines.unechoed:
                lines.unechoed.remove(text)
            if lines.ended and not lines.unechoed:
                break
    except ConnectionClosed:
        pass  # whoever called will look after that
    finally:
        sending.cancel()  # when one of two partners ends, so must the other
        await connection.close()


def leave(sentence: str, status: int = 0) -> None:
    """End at once; the usual way would wait for the thread that waits for the keyboard."""
    print(sentence, file=sys.stderr if status else sys.stdout, flush=True)
    os._exit(status)


async def stay_connected(lines: Lines) -> None:
    """Connect and talk, and connect again after every loss, until the input ends."""
    wait, was_connected = FIRST_WAIT, False
    while not lines.ended:
        try:
            # proxy=None: a proxy for web pages could not find a server on this computer.
            async with connect(URL, proxy=None, close_timeout=CLOSE_SECONDS) as connection:
                show(f"Connected to {URL} (Ctrl-C leaves)")
                wait, was_connected = FIRST_WAIT, True
                await talk(connection, lines)
            trouble = f"Connection ended (close code {connection.close_code})."
        except (OSError, InvalidHandshake, InvalidURI, ValueError) as problem:
            trouble = f"Cannot reach {URL}. {REMEDY} ({type(problem).__name__}: {problem})"
            nobody_listens = isinstance(problem, ConnectionRefusedError)
            if not was_connected and not (nobody_listens and AT_TERMINAL):
                leave(trouble, 1)
        if lines.unechoed:
            trouble += f" Never came back: {len(lines.unechoed)}, at last {lines.unechoed[-1]!r}."
        if not lines.ended:
            show(f"{trouble} Next try in {wait:g} s.")
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


async def run_client() -> None:
    """Run keyboard and conversation side by side until one of them ends."""
    lines = Lines()
    program = asyncio.create_task(stay_connected(lines))
    threading.Thread(target=read_keyboard, args=(lines, program), daemon=True).start()
    try:
        await program
    except asyncio.CancelledError:
        leave("\nLeft.")
    if lines.unechoed:
        leave(f"Lines that never came back: {len(lines.unechoed)}.", 1)


def trace(note: logging.LogRecord) -> bool:
    """Print what travels: > goes out, < comes in, = is the state. The library notes it all."""
    text = re.sub(r"^(. GET [^?]+\?)\S*", r"\1...", note.getMessage())
    # An address, after its question mark, and most headers may hold a key: those stay unseen.
    has_key = re.match(r"(?i)[<>] (?!Upgrade|Connection|Sec-WebSocket-[KVA])\S+: ", text)
    if note.levelno == logging.DEBUG and text.isprintable() and not has_key:
        show(f"{note.relativeCreated:6.0f} ms {text}")
    return note.levelno > logging.INFO  # warnings and errors go their usual way


def main() -> None:
    """Prepare keyboard and screen for every alphabet, then start."""
    if URL in ("-h", "--help"):
        return print(__doc__)
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    if os.name == "nt":
        os.system("")  # noqa: S605, S607 (makes a Windows terminal obey the codes in show())
    if os.environ.get("TRACE") == "1":
        logging.getLogger("websockets.client").setLevel(logging.DEBUG)
        logging.getLogger("websockets.client").addFilter(trace)
    asyncio.run(run_client())


if __name__ == "__main__":
    main()
