#!/usr/bin/env -S uv run --script
# For uv: `uv run NAME.py` installs what this block lists.
# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets>=15,<18"]
# ///
"""Lesson 2: a server that speaks first and notices who has gone

What you learn
    "Ping" means two things. A ping frame is built into WebSockets: the library on the
    other side answers it with a pong frame, and the program there never sees either.
    From ping to pong is the round trip; no pong means that nobody is there anymore.
    A ping message is text like any other, and you decide what it says.
Before you start
    Lesson 1. Stop its server with Ctrl-C: only one program can have the port.
Run it
    In a terminal:          python websocket_server_echo_ping.py
    In a second terminal:   python websocket_client_example.py
    To watch the wire:      TRACE=1 python websocket_server_echo_ping.py
You should see
    127.0.0.1:50312 connected
    127.0.0.1:50312 ping frame, pong after 0.3 ms; ping message 1
    and in the client, every 3 seconds: <<< {"type": "ping", "number": 1, ...}
Try next
    A message can carry anything. In ping(), below the line with "message = ", add
            message["clients"] = len(connection.server.connections)
    Restart the server and open two clients: each now shows how many there are.
"""

import asyncio
import errno
import itertools
import json
import logging
import os
import sys
from io import TextIOWrapper

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

HOST = os.environ.get("HOST") or "127.0.0.1"  # only this computer; 0.0.0.0 lets classmates in
PORT = int(os.environ.get("PORT") or 8765)
PING_SECONDS = float(os.environ.get("PING_SECONDS") or 3)  # between two pings
PONG_SECONDS = float(os.environ.get("PONG_SECONDS") or 10)  # no pong by then: the client has gone


async def ping(connection: ServerConnection, client: str) -> None:
    """Ping one client again and again: measure the round trip, then tell the client."""
    for number in itertools.count(1):  # 1, 2, 3, ...
        async with asyncio.timeout(PONG_SECONDS):  # raises TimeoutError
            pong = await connection.ping()  # the ping frame is on its way
            seconds = await pong  # the pong frame is here
            milliseconds = round(1000 * seconds, 1)
            message = {"type": "ping", "number": number, "round_trip_ms": milliseconds}
            await connection.send(json.dumps(message))
        print(f"{client} ping frame, pong after {milliseconds} ms; ping message {number}")
        await asyncio.sleep(PING_SECONDS)


async def echo(connection: ServerConnection, client: str) -> None:
    """Send back what one client says, as in lesson 1."""
    while True:
        message = await connection.recv()
        short = repr(message[:60]) if isinstance(message, str) else f"{len(message)} bytes"
        print(f"{client} said {short}")
        await connection.send(message)


async def talk(connection: ServerConnection) -> None:
    """Ping and echo at the same time, until the client leaves or stops answering."""
    host, port = connection.remote_address[:2]
    client = f"{host}:{port}"
    print(f"{client} connected")
    try:
        async with asyncio.TaskGroup() as tasks:  # when one of them fails, it stops the other
            tasks.create_task(ping(connection, client))
            tasks.create_task(echo(connection, client))
    except* ConnectionClosed:  # the * is for errors from a TaskGroup
        pass  # it left, or vanished without a goodbye
    except* TimeoutError:
        print(f"{client} does not answer")
        connection.transport.abort()  # hang up without a goodbye: nobody would hear it
    print(f"{client} left (close code {connection.close_code})")


async def run_server() -> None:
    """Serve until Ctrl-C."""
    async with serve(
        talk,
        HOST,
        PORT,
        ping_interval=None,  # switch off the library's own pings, which nobody sees
        compression=None,  # compressing a message takes longer than sending it as it is
        close_timeout=1,  # seconds that Ctrl-C waits for the clients to say goodbye
        # Some web pages ask for a subprotocol, and hang up if the server doesn't name it.
        select_subprotocol=lambda _, offered: offered[0] if offered else None,
    ) as server:
        print(f"Listening on ws://{HOST}:{PORT} (Ctrl-C to stop)")
        await server.serve_forever()


# ---- The rest is the same as in lesson 1: you can skip it. ----

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
            "    PORT=8766 python websocket_server_echo_ping.py\n"
            "    $env:PORT=8766; python websocket_server_echo_ping.py   (in PowerShell)"
        )
