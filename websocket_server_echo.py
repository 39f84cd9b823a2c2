#!/usr/bin/env -S uv run --script
# For uv: `uv run NAME.py` installs what this block lists.
# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets>=15,<18"]
# ///
"""Lesson 1: a WebSocket server that sends back what it hears

What you learn
    A WebSocket is an open line between two programs: both can send text or bytes at
    any time. A server runs one function for each client, side by side. Where it says
    "await" it waits for one of them, and the others go on meanwhile.
Before you start
    Python 3.11 or newer, and once: python -m pip install "websockets<18" prompt-toolkit
Run it
    In a terminal:          python websocket_server_echo.py
    In a second terminal:   python websocket_client_example.py
    To let classmates in:   HOST=0.0.0.0 python websocket_server_echo.py
    To watch the wire:      TRACE=1 python websocket_server_echo.py
You should see
    Listening on ws://127.0.0.1:8765 (Ctrl-C to stop)
    127.0.0.1:50312 connected
    127.0.0.1:50312 said 'hello'
    127.0.0.1:50312 left (close code 1000)
Try next
    Make it a chat room. In echo(), write this in place of the line with "await":
            broadcast(connection.server.connections, message)
    and this in place of the first import of websockets, at the very left:
    from websockets.asyncio.server import ServerConnection, broadcast, serve
    Restart the server and open two clients: each shows what the other says.
"""

import asyncio
import errno
import logging
import os
import sys
from contextlib import suppress
from io import TextIOWrapper

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

HOST = os.environ.get("HOST") or "127.0.0.1"  # only this computer; 0.0.0.0 lets classmates in
PORT = int(os.environ.get("PORT") or 8765)


async def echo(connection: ServerConnection) -> None:
    """Talk with one client until it leaves."""
    host, port = connection.remote_address[:2]
    client = f"{host}:{port}"
    print(f"{client} connected")
    with suppress(ConnectionClosed):  # a client that vanishes without a goodbye is no error
        async for message in connection:
            if isinstance(message, str):
                print(f"{client} said {message[:60]!r}")
            else:
                print(f"{client} said {len(message)} bytes")
            await connection.send(message)
    print(f"{client} left (close code {connection.close_code})")  # 1000 is a normal goodbye


async def run_server() -> None:
    """Wait for clients until Ctrl-C."""
    async with serve(
        echo,  # to be called for each client
        HOST,
        PORT,
        compression=None,  # compressing a message takes longer than sending it as it is
        close_timeout=1,  # seconds that Ctrl-C waits for the clients to say goodbye
        # Some web pages ask for a subprotocol, and hang up if the server doesn't name it.
        select_subprotocol=lambda _, offered: offered[0] if offered else None,
    ) as server:
        print(f"Listening on ws://{HOST}:{PORT} (Ctrl-C to stop)")
        await server.serve_forever()


# ---- The rest starts all this. It is plumbing: you can skip it. ----

if __name__ == "__main__":
    if isinstance(sys.stdout, TextIOWrapper):  # show each line at once, also in Git Bash
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    if os.environ.get("TRACE") == "1":  # the library's own log: > is sent, < is received
        logging.basicConfig(format="%(relativeCreated)6.0f ms %(message)s", stream=sys.stdout)
        logging.getLogger("websockets").setLevel(logging.DEBUG)
    if HOST not in ("127.0.0.1", "localhost", "::1"):
        print("Warning: everyone on your network can connect. Stop the server after class.")
    try:
        asyncio.run(run_server())
    except KeyboardInterrupt:
        print("\nStopped.")
    except OSError as error:
        reason = "port already in use" if error.errno == errno.EADDRINUSE else error.strerror
        sys.exit(
            f"Cannot listen on {HOST}:{PORT} ({reason}). Stop the other server, or try\n"
            "    PORT=8766 python websocket_server_echo.py\n"
            "    $env:PORT=8766; python websocket_server_echo.py   (in PowerShell)"
        )
