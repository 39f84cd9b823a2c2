#!/usr/bin/env -S uv run --script
# For uv: `uv run NAME.py` installs what this block lists.
# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets>=15,<18", "prompt-toolkit>=3.0.50,<4"]
# ///
"""Lesson 3: a WebSocket client that you type into

What you learn
    A client sends and receives at the same time: one task waits for your keyboard,
    another for the network, and neither holds up the other:
    keyboard > outbox > send() > server > receive() > screen
    Connections break: a good client says so, and keeps trying.
Before you start
    Lesson 1 or 2 in a first terminal, and once:
    python -m pip install "websockets<18" prompt-toolkit
Run it
    In a second terminal:   python websocket_client_example.py
    Another server:         python websocket_client_example.py ws://192.168.1.20:8765
    From a pipe:            echo hello | python websocket_client_example.py
    To watch the wire:      TRACE=1 python websocket_client_example.py
You should see
    Connected to ws://127.0.0.1:8765 (Ctrl-C to leave)
    >>> hello                      what you type goes out
    <<< hello                      what arrives
    Stop the server, type on, and start it again: now your lines go out.
Try next
    Give yourself a name. In send(), write this in place of the line with "send(line)":
        await connection.send(f"Ada: {line}")
    Then make lesson 1 a chat room, as its "Try next" says, and open two clients.
"""

import asyncio
import logging
import os
import sys

from prompt_toolkit import PromptSession
from prompt_toolkit.patch_stdout import patch_stdout
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

URL = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765"
RETRY_SECONDS = 1  # between two attempts to connect
LAST_SECONDS = 1  # how long to wait for the last answers when a pipe ends
AT_TERMINAL = sys.stdin.isatty() and sys.stdout.isatty()  # or is one of them a pipe?


async def talk(connection: ClientConnection, outbox: asyncio.Queue[str]) -> None:
    """Send and receive at the same time, until the connection ends."""
    try:
        async with asyncio.TaskGroup() as tasks:  # when one of them fails, it stops the other
            tasks.create_task(send(connection, outbox))
            tasks.create_task(receive(connection))
    except* ConnectionClosed:
        pass  # not an error: stay_connected() tries again
    finally:
        await connection.close()


async def send(connection: ClientConnection, outbox: asyncio.Queue[str]) -> None:
    """Send each line as soon as it is typed."""
    while True:
        line = await outbox.get()
        outbox.task_done()
        await connection.send(line)


async def receive(connection: ClientConnection) -> None:
    """Show each message as soon as it arrives."""
    while True:
        message = await connection.recv()
        print(f"<<< {message!s}")


async def stay_connected(outbox: asyncio.Queue[str]) -> None:
    """Connect, talk, and start over whenever the connection ends."""
    last_trouble = ""
    while True:
        try:
            # proxy=None: go straight to the server. A proxy would not find this computer.
            connection = await connect(URL, proxy=None, close_timeout=1)
        except (OSError, ValueError, InvalidHandshake, InvalidURI) as error:
            trouble = explain(error)
            if not AT_TERMINAL:  # nobody is there to start a server
                raise ConnectionError(trouble) from None
        else:
            print(f"Connected to {URL} (Ctrl-C to leave)")
            last_trouble = ""
            await talk(connection, outbox)
            trouble = f"The connection ended (close code {connection.close_code})."
        if trouble != last_trouble:  # say it once, not at every attempt
            print(f"{trouble}\nRetrying ...")
        last_trouble = trouble
        await asyncio.sleep(RETRY_SECONDS)


async def read_keyboard(outbox: asyncio.Queue[str]) -> None:
    """Pass on each typed line, until Ctrl-C or Ctrl-D raises EOFError."""
    prompt: PromptSession[str] = PromptSession(">>> ", interrupt_exception=EOFError)
    while True:
        line = await prompt.prompt_async()  # like input(), but the rest goes on meanwhile
        outbox.put_nowait(line)


async def run_client() -> None:
    """Run the network and the keyboard at the same time."""
    outbox: asyncio.Queue[str] = asyncio.Queue()  # lines that are typed but not sent yet
    reading = read_keyboard(outbox) if AT_TERMINAL else read_pipe(outbox)
    await asyncio.gather(stay_connected(outbox), reading)


# ---- The rest is plumbing: you can skip it. ----


async def read_pipe(outbox: asyncio.Queue[str]) -> None:
    """Pass on each line of a pipe, then give the last answers time to arrive."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        outbox.put_nowait(line.removesuffix("\n"))
    await outbox.join()  # wait until send() has taken every line
    await asyncio.sleep(LAST_SECONDS)
    raise EOFError


def explain(error: Exception) -> str:
    """Say why there is no connection, and what to do about it."""
    if isinstance(error, ConnectionRefusedError):
        remedy = "Start one in another terminal:  python websocket_server_echo.py"
        return f"No server is running at {URL} (connection refused).\n{remedy}"
    remedy = "Is the server running? Does the address start with ws:// or wss://?"
    return f"Cannot connect to {URL} ({error}).\n{remedy}"


def main() -> None:
    """Run until Ctrl-C, Ctrl-D or the end of a pipe."""
    if URL in ("-h", "--help"):
        return print(__doc__)
    with patch_stdout():  # what is printed appears above the line that you are typing
        if os.environ.get("TRACE") == "1":  # the library's own log: > is sent, < is received
            logging.basicConfig(format="%(relativeCreated)6.0f ms %(message)s", stream=sys.stdout)
            logging.getLogger("websockets").setLevel(logging.DEBUG)
        try:
            asyncio.run(run_client())
        except (EOFError, KeyboardInterrupt):
            print("Left.")
        except ConnectionError as error:
            sys.exit(str(error))
        except ExceptionGroup as mistakes:
            raise mistakes.exceptions[0] from None  # easier to read than the whole group


if __name__ == "__main__":
    main()
