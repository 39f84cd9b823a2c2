#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets>=15,<18", "pygame-ce>=2.5.2,<3"]
# ///
"""Lesson 4: draw across the network, and see how long it takes

What you learn
    A window must be drawn 60 times a second, and a network answers when it likes.
    One thread does both: each frame ends with await asyncio.sleep() until the next
    is due, and in that time messages travel. Nothing in a frame may ever wait.
Before you start
    Lesson 2 in a first terminal; python -m pip install "websockets>=15,<18" "pygame-ce<3"
Run it
    In a second terminal:   python pygame_websocket.py
    Another server:         WEBSOCKET_URL=ws://192.168.1.20:8765 python pygame_websocket.py
    To watch the wire:      TRACE=1 python pygame_websocket.py
You should see
    A dark window. Draw with the mouse: each stroke goes to the server and is painted
    when it comes back. Top left: connection, round trip, frames per second (FPS).
    Each ping message of lesson 2 sends out a ring. Stop the server, draw on, start it
    again: now your strokes arrive. Esc ends.
Try next
    Let it rain. Below the line  screen.blit(drawing.paper, (0, 0))  add
        drawing.paper.scroll(0, 1)
    Then do "Try next" of lesson 1 and open two windows on its server: one canvas.
"""

import asyncio
import json
import logging
import os
import re
import statistics
import time
import uuid
from collections import deque
from contextlib import suppress

import pygame
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.uri import parse_uri

URL = os.environ.get("WEBSOCKET_URL") or "ws://127.0.0.1:8765"
SIZE = (960, 600)  # of the window, in pixels
FPS = 60  # frames per second
BRUSH = 5  # radius in pixels
RING_SECONDS = 1.0  # how long a ping is seen
RETRY_SECONDS = 0.5  # from one attempt to connect to the next
SILENCE_SECONDS = 2  # a server that answers no ping frame for so long is taken for gone
FAR = 2000  # pixels; no mouse of ours gets there
MAX_WAITING = 20_000  # strokes to keep while there is no connection: minutes of drawing
NIGHT, PANEL, GREY, WHITE = "#10121c", "#1b1f2e", "#8c94ad", "#eef1fa"
GREEN, AMBER = "#4ade80", "#fbbf24"


class Drawing:
    """What the window and the network share."""

    def __init__(self) -> None:
        self.paper = pygame.Surface(SIZE)
        self.paper.fill(NIGHT)
        self.waiting: dict[str, str] = {}  # id and text of each stroke that is not back yet
        self.unsent: asyncio.Queue[str] = asyncio.Queue()  # the ids of those still to be sent
        self.sent_at: dict[str, float] = {}
        self.round_trips: deque[float] = deque(maxlen=60)  # the latest, in milliseconds
        self.connected = False
        self.last_ping = (0, -RING_SECONDS)  # its number and when it came


def vivid(hue: int) -> pygame.Color:
    """Return the bright colour at this angle of the colour wheel."""
    return pygame.Color.from_hsva(hue % 360, 65, 100, 100)


def hue_now() -> int:
    """Return the angle at which the brush is now: once around the wheel in 9 seconds."""
    return int(40 * time.perf_counter()) % 360


def take(drawing: Drawing, event: pygame.Event) -> None:
    """Turn a press or a movement of the mouse into a stroke, to be painted when it is back."""
    if len(drawing.waiting) < MAX_WAITING:
        x, y = event.pos
        dx, dy = event.rel if event.type == pygame.MOUSEMOTION else (0, 0)
        name, start = uuid.uuid4().hex, (x - dx, y - dy)
        stroke = {"type": "stroke", "id": name, "from": start, "to": (x, y), "hue": hue_now()}
        drawing.waiting[name] = json.dumps(stroke)
        drawing.unsent.put_nowait(name)


def receive(drawing: Drawing, text: str | bytes) -> None:
    """Paint a stroke, light up for a ping, pass over all else that a server may send."""
    now = time.perf_counter()
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return
    match message:
        case {"type": "ping", "number": int(number)}:
            drawing.last_ping = (number % 10_000, now)  # more digits find no room in the ring
        case {
            "type": "stroke",
            "id": str(name),
            "from": [int(x1), int(y1)],
            "to": [int(x2), int(y2)],
            "hue": int(hue),
        } if max(map(abs, (x1, y1, x2, y2))) < FAR:
            if drawing.waiting.pop(name, None):  # ours; another window's has its own clock
                drawing.round_trips.append(1000 * (now - drawing.sent_at.pop(name, now)))
            start, end = pygame.Vector2(x1, y1), pygame.Vector2(x2, y2)
            steps = 1 + int(start.distance_to(end))
            for step in range(steps + 1):  # a row of discs has rounder ends than a line
                point = start.lerp(end, step / steps)
                pygame.draw.aacircle(drawing.paper, vivid(hue), point, BRUSH)


async def send(connection: ClientConnection, drawing: Drawing) -> None:
    """Send each stroke as soon as it is drawn; first all that did not come back before."""
    drawing.unsent = asyncio.Queue()
    for name in drawing.waiting:
        drawing.unsent.put_nowait(name)
    with suppress(ConnectionClosed):
        while True:
            name = await drawing.unsent.get()
            if name in drawing.waiting:  # after a loss, another window may have brought it back
                drawing.sent_at[name] = time.perf_counter()
                await connection.send(drawing.waiting[name])
            await asyncio.sleep(0)  # a thousand strokes at once must not hold up a frame


async def stay_connected(drawing: Drawing) -> None:
    """Keep a connection to the server, whatever happens to it."""
    while True:
        try:
            # proxy=None: a proxy for web pages could not find a server on this computer.
            async with connect(
                URL, proxy=None, ping_interval=1, ping_timeout=SILENCE_SECONDS, close_timeout=0.3
            ) as connection:
                drawing.connected = True
                sending = asyncio.create_task(send(connection, drawing))
                try:
                    async for message in connection:
                        receive(drawing, message)
                finally:  # when one of two partners ends, so must the other
                    sending.cancel()
                    await connection.close()
        except (OSError, InvalidHandshake, ConnectionClosed):
            pass  # the window shows it, and we try again
        drawing.connected = False
        await asyncio.sleep(RETRY_SECONDS)


def paint(screen: pygame.Surface, font: pygame.Font, drawing: Drawing, fps: float) -> None:
    """Paint one frame: paper, panel, ping, brush."""
    screen.blit(drawing.paper, (0, 0))
    if drawing.connected:
        light, state = GREEN, f"connected to {URL}"
    else:
        light, state = AMBER, f"no answer from {URL}: python websocket_server_echo_ping.py"
    round_trip = f"{statistics.median(drawing.round_trips):.1f}" if drawing.round_trips else "–"
    facts = f"round trip {round_trip} ms     {fps:.0f} FPS     {len(drawing.waiting)} on their way"
    lines = [font.render(state, True, WHITE), font.render(facts, True, GREY)]
    panel = pygame.Rect(16, 16, 56 + max(line.get_width() for line in lines), 64)
    pygame.draw.rect(screen, PANEL, panel, border_radius=12)
    pygame.draw.aacircle(screen, light, (36, 36), 6)
    for row, line in enumerate(lines):
        screen.blit(line, (52, 26 + 24 * row))
    number, came = drawing.last_ping
    age = (time.perf_counter() - came) / RING_SECONDS
    if age < 1:  # the ring grows and fades
        color = pygame.Color(GREEN).lerp(NIGHT, age)
        center = (SIZE[0] - 72, 72)
        pygame.draw.aacircle(screen, color, center, 32 + 24 * age, 3)
        label = font.render(f"ping {number}", True, color)
        screen.blit(label, label.get_rect(center=center))
    brush = vivid(hue_now())
    pygame.draw.aacircle(screen, brush, pygame.mouse.get_pos(), BRUSH + 3, 1)
    pygame.display.flip()


async def run_window(drawing: Drawing) -> None:
    """Show frame after frame until the window is closed."""
    screen, font = pygame.display.set_mode(SIZE), pygame.Font(None, 22)
    pygame.display.set_caption("Lesson 4: draw across the network (Esc ends)")
    pygame.mouse.set_visible(False)
    frames = deque([time.perf_counter()], maxlen=FPS)
    next_frame = frames[0]
    while True:
        paint(screen, font, drawing, len(frames) / (time.perf_counter() - frames[0]))
        for event in pygame.event.get():  # after painting: so the strokes leave at once
            if event.type == pygame.QUIT:
                return
            if event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE:
                return
            if event.type == pygame.MOUSEBUTTONDOWN and event.button == 1:
                take(drawing, event)
            if event.type == pygame.MOUSEMOTION and event.buttons[0]:  # with the left one pressed
                take(drawing, event)
        now = time.perf_counter()
        frames.append(now)
        next_frame = max(next_frame + 1 / FPS, now - 0.1)  # after a stall, do not race to catch up
        await asyncio.sleep(max(0, next_frame - now))  # now the network has its turn


async def run() -> None:
    """Run the window and the network side by side until the window is closed."""
    drawing = Drawing()
    async with asyncio.TaskGroup() as tasks:
        network = tasks.create_task(stay_connected(drawing))
        await run_window(drawing)
        pygame.quit()  # the window goes at once, whatever the network is waiting for
        network.cancel()


def trace(note: logging.LogRecord) -> bool:
    """Print what travels: > goes out, < comes in, = is the state. The library notes it all."""
    text = re.sub(r"^(. GET [^?]+\?)\S*", r"\1...", note.getMessage())
    # An address, after its question mark, and most headers may hold a key: those stay unseen.
    has_key = re.match(r"(?i)[<>] (?!Upgrade|Connection|Sec-WebSocket-[KVA])\S+: ", text)
    if note.levelno == logging.DEBUG and text.isprintable() and not has_key:
        print(f"{note.relativeCreated:6.0f} ms {text}")
    return note.levelno > logging.INFO  # warnings and errors go their usual way


def main() -> None:
    """Open the window; end without a traceback."""
    try:
        parse_uri(URL).host.encode("idna")  # what a name may be is known only here
    except (InvalidURI, ValueError):
        raise SystemExit(f"WEBSOCKET_URL={URL} is wrong. Right: ws://127.0.0.1:8765") from None
    pygame.display.init()  # and not pygame.init(), which would ask for the loudspeaker, too
    pygame.font.init()
    if pygame.display.get_driver() == "offscreen":
        raise SystemExit("There is no screen. Run this at the computer itself, not over SSH.")
    if os.environ.get("TRACE") == "1":
        logging.getLogger("websockets.client").setLevel(logging.DEBUG)
        logging.getLogger("websockets.client").addFilter(trace)
    with suppress(KeyboardInterrupt):
        asyncio.run(run())
    print("Stopped.")


if __name__ == "__main__":
    main()
