"""Take the port, load the engine, and serve until Ctrl-C."""

import logging
import os
import socket

import uvicorn
from websockets.frames import Frame

from service.app import app, new_transcriber
from service.server import HttpConnection, Server, WebSocketConnection, is_our_mistake
from service.settings import settings
from service.trace import trace


def cannot_listen(error: OSError | OverflowError) -> SystemExit:
    """Return what ends the program with a sentence."""
    cause = getattr(error, "strerror", error)  # of an OSError without its number
    return SystemExit(
        f"Cannot listen at {settings.host}:{settings.port}: {cause}.\n"
        f"If the port is already in use, choose another: --port {settings.port + 1}"
    )


def serve() -> None:
    """Take the port, load the engine, and serve until Ctrl-C."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # TCP by name: only then asyncio lets small messages leave at once, not with the next ones.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":  # there it means: also right after a restart
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        raise cannot_listen(error) from None

    app.state.transcriber = new_transcriber()
    if settings.host not in ("127.0.0.1", "::1", "localhost") and not settings.api_key:
        print("  Anyone who can reach this address can use it. Set API_KEY to change that.")
    try:
        listener.listen(settings.max_connections)  # not sooner: from now on it has to answer
    except OSError as error:  # another one began to listen while this one loaded its engine
        raise cannot_listen(error) from None
    # IPv6 needs brackets, or nobody could tell where the address ends and the port begins.
    address = f"[{settings.host}]" if ":" in settings.host else settings.host
    print(
        f"Listening on ws://{address}:{settings.port}/v1/realtime?intent=transcription", flush=True
    )

    config = uvicorn.Config(
        app,
        http=HttpConnection,
        ws=WebSocketConnection,
        backlog=settings.max_connections,  # asyncio accepts this many at once, uncounted
        log_level="warning",
        ws_per_message_deflate=False,  # audio does not shrink, it only costs time
        timeout_graceful_shutdown=3,
    )
    logging.getLogger("uvicorn.error").addFilter(is_our_mistake)
    if os.environ.get("TRACE") == "1":
        Frame.MAX_LOG_SIZE = 300  # characters to show of a message
        logging.getLogger("uvicorn.error").setLevel(logging.DEBUG)
        logging.getLogger("uvicorn.error").addFilter(trace)
    Server(config).run(sockets=[listener])
