#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets>=15,<18"]
# ///
"""Lesson 1: a WebSocket server that sends back all it hears

What you learn
    A WebSocket is a line between two programs: after a short handshake both may
    speak at any time, in messages of text or of bytes. A server is one function,
    which the library runs once for each client, all of them side by side.
Before you start
    Python 3.11 or newer, and once: python -m pip install "websockets>=15,<18"
Run it
    In a terminal:          python websocket_server_echo.py
    In a second terminal:   python websocket_client_example.py
    To let classmates in:   HOST=0.0.0.0 python websocket_server_echo.py
    To watch the wire:      TRACE=1 python websocket_server_echo.py
You should see
    Listening at ws://127.0.0.1:8765 (Ctrl-C stops)
    127.0.0.1:50312 came
    127.0.0.1:50312 said 'hello'
    127.0.0.1:50312 left (close code 1000)
Try next
    Make it a chat room: from websockets.asyncio.server import broadcast, too, and in
    echo() replace
        await connection.send(message)
    by  broadcast(connection.server.connections, message)
    Start the server again and two clients: what one types, both now read.
"""

import asyncio
import logging
import os
import re
import socket
import sys
from contextlib import suppress
from io import TextIOWrapper

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

HOST = os.environ.get("HOST") or "127.0.0.1"  # this computer only; 0.0.0.0 opens it to the network
PORT = os.environ.get("PORT") or "8765"
MAX_BYTES = 2**20  # of one message; who sends more is cut off with close code 1009
CLOSE_SECONDS = 1  # so long a client may take over its goodbye


async def echo(connection: ServerConnection) -> None:
    """Talk with one client, from its handshake until it leaves.

    RFC 6455, section 7.4.1, says what the close codes mean: 1000 is a goodbye in good order.
    """
    host, port = connection.remote_address[:2]
    client = f"{host}:{port}"
    print(f"{client} came")
    with suppress(ConnectionClosed):  # it vanished without a goodbye: that is no error here
        async for message in connection:
            # repr() disarms codes with which a stranger's text could command the terminal.
            short = repr(message[:60]) if isinstance(message, str) else f"{len(message)} bytes"
            print(f"{client} said {short}")
            await connection.send(message)
    print(f"{client} left (close code {connection.close_code})")


def network_address() -> str:
    """Return the address at which classmates find this computer."""
    if HOST != "0.0.0.0":  # noqa: S104 (which means all addresses; only compared here)
        return HOST
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which way that would go
        return str(probe.getsockname()[0])
    return "ADDRESS-OF-THIS-COMPUTER"  # there is no network just now


async def run_server() -> None:
    """Serve until Ctrl-C."""
    # Without origins= any web page may connect. It hears only its own words: nothing can leak.
    # compression=None: to squeeze every message takes longer than to send it as it is.
    server = await serve(
        echo, HOST, int(PORT), compression=None, max_size=MAX_BYTES, close_timeout=CLOSE_SECONDS
    )
    address = f"[{HOST}]" if ":" in HOST else HOST  # IPv6 needs brackets, or port and host mix
    print(f"Listening at ws://{address}:{PORT} (Ctrl-C stops)")
    if HOST not in ("127.0.0.1", "localhost", "::1"):
        print(f"Give classmates this address: ws://{network_address()}:{PORT}")
        print("Warning: everybody in your network can connect now. Stop it after class.")
    try:
        await server.wait_closed()
    finally:
        server.close()  # says goodbye with close code 1001; a client that hangs must not hold us up
        await asyncio.wait([asyncio.create_task(server.wait_closed())], timeout=CLOSE_SECONDS)


def trace(note: logging.LogRecord) -> bool:
    """Print what travels: > goes out, < comes in, = is the state. The library notes it all."""
    text = re.sub(r"^(. GET [^?]+\?)\S*", r"\1...", note.getMessage())
    # An address, after its question mark, and most headers may hold a key: those stay unseen.
    has_key = re.match(r"(?i)[<>] (?!Upgrade|Connection|Sec-WebSocket-[KVA])\S+: ", text)
    if note.levelno == logging.DEBUG and text.isprintable() and not has_key:
        print(f"{note.relativeCreated:6.0f} ms {text}")
    return note.levelno > logging.INFO  # warnings and errors go their usual way


def main() -> None:
    """Run the server; whatever stops it, end with a sentence."""
    if isinstance(sys.stdout, TextIOWrapper):  # show each line at once, even through a pipe
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    # Who does not speak WebSocket is turned away; older libraries print a page about each.
    logging.getLogger("websockets.server").addFilter(lambda log: "handshake" not in log.msg)
    if os.environ.get("TRACE") == "1":
        logging.getLogger("websockets.server").setLevel(logging.DEBUG)
        logging.getLogger("websockets.server").addFilter(trace)
    try:
        asyncio.run(run_server())
    except KeyboardInterrupt:
        print("\nStopped.")
    except (OSError, OverflowError, ValueError) as problem:
        raise SystemExit(
            f"Cannot listen at {HOST}:{PORT}: {problem}\n"
            "Is that port taken, or no number up to 65535? Choose another:\n"
            "    PORT=8766 python websocket_server_echo.py\n"
            "    in PowerShell: $env:PORT=8766; python websocket_server_echo.py"
        ) from None


if __name__ == "__main__":
    main()
