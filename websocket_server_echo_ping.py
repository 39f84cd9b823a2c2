#!/usr/bin/env -S uv run --script
# uv reads this block: `uv run NAME.py` needs no set-up.
# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets>=15,<18"]
# ///
"""Lesson 2: a server that speaks first and notices who is gone

What you learn
    "Ping" means two things. A ping frame is part of the protocol: the other side's
    library answers with a pong frame, and your program never sees it. The time in
    between is the round trip; no pong means that nobody is there any more.
    A ping message is text like any other, and you decide what it says.
Before you start
    Lesson 1, and once: python -m pip install "websockets>=15,<18"
Run it
    In a terminal:          python websocket_server_echo_ping.py
    In a second terminal:   python websocket_client_example.py
    To watch the wire:      TRACE=1 python websocket_server_echo_ping.py
You should see
    127.0.0.1:50312 connected
    127.0.0.1:50312 ping frame, pong after 0.3 ms; ping message 1
    and in the client, every 3 seconds, a ping message with that round trip.
Try next
    A message can carry anything. In ping(), below the line with "message = ", add
            message["clients"] = len(connection.server.connections)
    Restart the server and open two clients: each now reads how many there are.
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
PING_SECONDS = float(os.environ.get("PING_SECONDS") or 3)  # from one ping to the next
PONG_SECONDS = float(os.environ.get("PONG_SECONDS") or 10)  # no pong for this long: it is gone


async def ping(connection: ServerConnection, client: str) -> None:
    """Ping one client again and again: a frame that measures, then a message that tells."""
    for number in itertools.count(1):
        async with asyncio.timeout(PONG_SECONDS):
            pong = await connection.ping()  # the ping frame is on its way
            milliseconds = round(1000 * await pong, 1)  # the pong frame is here
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
    """Ping and echo at the same time, until the client leaves or no longer answers."""
    host, port = connection.remote_address[:2]
    client = f"{host}:{port}"
    print(f"{client} connected")
    try:
        async with asyncio.TaskGroup() as tasks:  # when one of the two fails, it cancels the other
            tasks.create_task(ping(connection, client))
            tasks.create_task(echo(connection, client))
    except* ConnectionClosed:
        pass  # it left, or vanished without saying goodbye
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
        ping_interval=None,  # the library would ping too, but where you can't see it
        compression=None,  # compressing a message takes longer than sending it as it is
        close_timeout=1,  # how many seconds Ctrl-C waits for the clients to say goodbye
        # A web page that asks for a subprotocol hangs up unless the server picks one.
        select_subprotocol=lambda _, offered: offered[0] if offered else None,
    ) as server:
        print(f"Listening on ws://{HOST}:{PORT} (Ctrl-C to stop)")
        await server.serve_forever()


# ---- The rest is plumbing, the same as in lesson 1: you can skip it. ----

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
