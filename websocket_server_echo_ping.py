#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets>=15,<18"]
# ///
"""Lesson 2: a server that speaks first, and knows who is still there

What you learn
    "Ping" names two things. A ping frame belongs to the protocol: the other side's
    library answers it with a pong frame, unseen; the time between the two is the
    round trip, and no pong means that nobody is there. A ping message is text like
    any other: your own programs see it, and you decide what it says.
Before you start
    Lesson 1, and once: python -m pip install "websockets>=15,<18"
Run it
    In a terminal:          python websocket_server_echo_ping.py
    In a second terminal:   python websocket_client_example.py
    To watch the wire:      TRACE=1 python websocket_server_echo_ping.py
You should see
    127.0.0.1:50312 came
    127.0.0.1:50312 ping frame, pong after 0.3 ms; ping message 1
    and in the client every 3 seconds a ping message with that round trip.
Try next
    The message can carry anything. In ping(), below the line "number": number, add
        "clients": len(connection.server.connections),
    Start the server again and two clients: both now read how many they are.
"""

import asyncio
import itertools
import json
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
PING_SECONDS = float(os.environ.get("PING_SECONDS") or 3)  # from one ping to the next
PONG_SECONDS = float(os.environ.get("PONG_SECONDS") or 10)  # who stays silent for so long is gone
MAX_BYTES = 2**20  # of one message; who sends more is cut off with close code 1009
CLOSE_SECONDS = 1  # so long a client may take over its goodbye


async def ping(connection: ServerConnection, client: str) -> None:
    """Ping one client again and again: first a frame, to measure, then a message, to tell.

    RFC 6455, section 5.5.2, describes the frame; the message is an invention of this lesson.
    """
    try:
        for number in itertools.count(1):
            async with asyncio.timeout(PONG_SECONDS):
                pong = await connection.ping()  # the frame is on its way
                milliseconds = round(1000 * await pong, 1)  # its answer is here
                message = {
                    "type": "ping",
                    "number": number,
                    "round_trip_ms": milliseconds,
                }
                await connection.send(json.dumps(message))
            print(f"{client} ping frame, pong after {milliseconds} ms; ping message {number}")
            await asyncio.sleep(PING_SECONDS)
    except ConnectionClosed:
        pass  # it left, and echo() says so
    except TimeoutError:
        print(f"{client} does not answer")
        connection.transport.abort()  # no goodbye: nobody is there to hear it


async def echo(connection: ServerConnection) -> None:
    """Talk with one client, from its handshake until it leaves."""
    host, port = connection.remote_address[:2]
    client = f"{host}:{port}"
    print(f"{client} came")
    pinger = asyncio.create_task(ping(connection, client))
    try:
        async for message in connection:
            # repr() disarms codes with which a stranger's text could command the terminal.
            short = repr(message[:60]) if isinstance(message, str) else f"{len(message)} bytes"
            print(f"{client} said {short}")
            await connection.send(message)
    except ConnectionClosed:
        pass  # it vanished without a goodbye: that is no error here
    finally:
        pinger.cancel()  # two tasks serve one client: when one ends, so must the other
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
    # ping_interval=None: the library would ping as well, but here we do it before your eyes.
    server = await serve(
        echo,
        HOST,
        int(PORT),
        compression=None,
        max_size=MAX_BYTES,
        close_timeout=CLOSE_SECONDS,
        ping_interval=None,
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
            "    PORT=8766 python websocket_server_echo_ping.py\n"
            "    in PowerShell: $env:PORT=8766; python websocket_server_echo_ping.py"
        ) from None


if __name__ == "__main__":
    main()
