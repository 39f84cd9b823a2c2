#!/usr/bin/env -S uv run --script
# For uv: `uv run NAME.py` installs what this block lists.
# /// script
# requires-python = ">=3.11"
# dependencies = ["websockets>=15,<18", "pygame-ce>=2.5.2,<3"]
# ///
"""Lesson 4: draw across the network

What you learn
    A window must be drawn 60 times a second, and a network answers whenever it likes.
    One program can do both: after each picture, "await asyncio.sleep()" lets messages
    travel until the next picture is due. Anywhere else it must never wait.
Before you start
    Lesson 2 in a first terminal, and once:
    python -m pip install "websockets<18" "pygame-ce<3"   (without pygame: they clash)
Run it
    In a second terminal:   python pygame_websocket.py
    Another server:         WEBSOCKET_URL=ws://192.168.1.20:8765 python pygame_websocket.py
    To watch the wire:      TRACE=1 python pygame_websocket.py
You should see
    A dark window. Draw with the mouse: each stroke travels to the server and is painted
    when it comes back. Stop the server: your strokes are faint until it is back.
    Each ping message from lesson 2 draws a ring. Press Esc to leave.
Try next
    Let it rain. In paint(), below the line with "drawing.paper", add
    drawing.paper.scroll(0, 1)
    Then make lesson 1 a chat room, as its "Try next" says, and open two windows on it:
    both share one paper.
"""

import asyncio
import json
import logging
import os
import sys
import time
import uuid
from collections import deque
from statistics import median

import pygame
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

URL = os.environ.get("WEBSOCKET_URL") or "ws://127.0.0.1:8765"
REMEDY = "Start one in another terminal:  python websocket_server_echo_ping.py"
WIDTH, HEIGHT = 960, 600  # of the window, in pixels
FPS = 60  # frames per second
BRUSH = 5  # radius in pixels
FAINT = 45  # brightness, in percent, of a stroke that waits for a connection
RING_SECONDS = 1.0  # how long a ring is seen
RETRY_SECONDS = 0.5  # between two attempts to connect
SILENCE_SECONDS = 2  # no pong for this long: the server has gone
NIGHT, PANEL, WHITE, GREEN, AMBER = "#10121c", "#1b1f2e", "#eef1fa", "#4ade80", "#fbbf24"
Point = tuple[int, int]


class Drawing:
    """What the window and the network share."""

    def __init__(self) -> None:
        self.paper = pygame.Surface((WIDTH, HEIGHT))
        self.paper.fill(NIGHT)
        self.waiting: dict[str, float] = {}  # strokes that aren't back yet: when each was sent
        self.outbox: asyncio.Queue[str] = asyncio.Queue()  # strokes that send() is to send
        self.round_trips: deque[float] = deque(maxlen=60)  # the last 60, in milliseconds
        self.trouble = "Connecting ..."  # why there is no connection; empty while there is one
        self.last_ping = ("", -RING_SECONDS)  # its text, and when it came


async def run_window(drawing: Drawing) -> None:
    """Show picture after picture until the window is closed."""
    screen, font = pygame.display.set_mode((WIDTH, HEIGHT)), pygame.Font(None, 22)
    pygame.display.set_caption("Lesson 4: draw across the network (Esc to leave)")
    pygame.mouse.set_visible(False)
    shown_at = deque([time.perf_counter()], maxlen=FPS)  # times of the last pictures
    next_frame = shown_at[0]
    while True:
        fps = len(shown_at) / (time.perf_counter() - shown_at[0])
        paint(screen, font, drawing, fps)
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                return
            if event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE:
                return
            if event.type == pygame.MOUSEBUTTONDOWN and event.button == 1:
                add_stroke(drawing, event.pos, event.pos)
            if event.type == pygame.MOUSEMOTION and event.buttons[0]:
                x, y = event.pos
                add_stroke(drawing, (x - event.rel[0], y - event.rel[1]), (x, y))
        now = time.perf_counter()
        shown_at.append(now)
        next_frame = max(next_frame + 1 / FPS, now - 0.1)  # late? Skip pictures, don't hurry
        await asyncio.sleep(max(0, next_frame - now))  # now the network has its turn


def add_stroke(drawing: Drawing, start: Point, end: Point) -> None:
    """Send a stroke. It is painted when it comes back."""
    hue, name = hue_now(), uuid.uuid4().hex
    text = json.dumps({"type": "stroke", "id": name, "from": start, "to": end, "hue": hue})
    drawing.waiting[text] = time.perf_counter()
    drawing.outbox.put_nowait(text)
    if drawing.trouble:
        paint_stroke(drawing, start, end, hue, FAINT)


async def stay_connected(drawing: Drawing) -> None:
    """Connect, talk, and start over whenever the connection ends."""
    while True:
        try:
            # proxy=None: go straight to the server. A proxy would not find this computer.
            connection = await connect(
                URL, proxy=None, ping_interval=1, ping_timeout=SILENCE_SECONDS, close_timeout=0.3
            )
        except ConnectionRefusedError:
            drawing.trouble = f"No server is running at {URL} (connection refused).\n{REMEDY}"
        except (OSError, ValueError, InvalidHandshake, InvalidURI) as error:
            drawing.trouble = f"Cannot connect to {URL} ({error})."
        else:
            drawing.trouble = ""
            await talk(connection, drawing)
            drawing.trouble = f"The connection ended (close code {connection.close_code})."
            for stroke in map(json.loads, drawing.waiting):  # sent, but not back
                paint_stroke(drawing, stroke["from"], stroke["to"], stroke["hue"], FAINT)
        await asyncio.sleep(RETRY_SECONDS)


async def talk(connection: ClientConnection, drawing: Drawing) -> None:
    """Send and receive at the same time, until the connection ends."""
    try:
        async with asyncio.TaskGroup() as tasks:  # when one of them fails, it stops the other
            tasks.create_task(send(connection, drawing))
            tasks.create_task(receive(connection, drawing))
    except* ConnectionClosed:
        pass  # not an error: stay_connected() tries again
    finally:
        await connection.close()


async def send(connection: ClientConnection, drawing: Drawing) -> None:
    """Send each stroke that isn't back yet, then each new one as soon as it is drawn."""
    drawing.outbox = asyncio.Queue()
    for text in drawing.waiting:
        drawing.outbox.put_nowait(text)
    while True:
        text = await drawing.outbox.get()
        drawing.waiting[text] = time.perf_counter()
        await connection.send(text)
        await asyncio.sleep(0)  # give the window its turn, even with a thousand strokes


async def receive(connection: ClientConnection, drawing: Drawing) -> None:
    """Paint each stroke that comes back, and light up for each ping."""
    while True:
        text = await connection.recv()
        now = time.perf_counter()
        if text in drawing.waiting:  # it was drawn in this window
            sent_at = drawing.waiting.pop(str(text))
            drawing.round_trips.append(1000 * (now - sent_at))
        try:
            match json.loads(text):
                case {"type": "ping", "number": number}:
                    drawing.last_ping = (f"ping {number}"[:9], now)
                case {"type": "stroke", "from": start, "to": end, "hue": hue}:
                    paint_stroke(drawing, start, end, hue)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            print(f"Skipped a message: {error}")  # a server may send anything


# ---- The rest is painting and plumbing: you can skip it. ----


def hue_now() -> int:
    """Return the brush's hue: once around the color wheel in 9 seconds."""
    return int(40 * time.perf_counter()) % 360


def paint_stroke(drawing: Drawing, start: Point, end: Point, hue: int, light: int = 100) -> None:
    """Paint a stroke as a row of discs, because a line has square ends."""
    first, last = pygame.Vector2(start), pygame.Vector2(end)
    steps = 1 + min(int(first.distance_to(last)), WIDTH + HEIGHT)
    color = pygame.Color.from_hsva(hue % 360, 65, light, 100)
    for step in range(steps + 1):
        pygame.draw.aacircle(drawing.paper, color, first.lerp(last, step / steps), BRUSH)


def paint(screen: pygame.Surface, font: pygame.Font, drawing: Drawing, fps: float) -> None:
    """Paint one picture: paper, panel, ring, brush."""
    screen.blit(drawing.paper, (0, 0))
    state = drawing.trouble or f"Connected to {URL}"
    round_trip = f"{median(drawing.round_trips):.1f}" if drawing.round_trips else "–"
    facts = f"round trip {round_trip} ms     {fps:.0f} FPS     {len(drawing.waiting)} on their way"
    label = font.render(f"{state}\n{facts}", True, WHITE)
    panel = label.get_rect(topleft=(56, 28))
    pygame.draw.rect(screen, PANEL, panel.inflate(56, 24).move(-12, 0), border_radius=12)
    pygame.draw.aacircle(screen, AMBER if drawing.trouble else GREEN, (36, 36), 6)
    screen.blit(label, panel)
    number, came = drawing.last_ping
    age = (time.perf_counter() - came) / RING_SECONDS
    if age < 1:  # the ring grows and fades
        color, center = pygame.Color(GREEN).lerp(NIGHT, age), (WIDTH - 72, 72)
        pygame.draw.aacircle(screen, color, center, 32 + 24 * age, 3)
        label = font.render(number, True, color)
        screen.blit(label, label.get_rect(center=center))
    brush = pygame.Color.from_hsva(hue_now(), 65, 100, 100)
    pygame.draw.aacircle(screen, brush, pygame.mouse.get_pos(), BRUSH + 3, 1)
    pygame.display.flip()


async def run() -> None:
    """Run the window and the network side by side until the window is closed."""
    drawing = Drawing()
    tasks = [asyncio.create_task(run_window(drawing)), asyncio.create_task(stay_connected(drawing))]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    pygame.quit()  # close the window now, whatever the network is waiting for
    done.pop().result()  # raises its error, if there was one


if __name__ == "__main__":
    pygame.display.init()  # not pygame.init(), which would also open the speakers
    pygame.font.init()
    if pygame.display.get_driver() == "offscreen":
        sys.exit("There is no screen. Run this at the computer itself, not over SSH.")
    if os.environ.get("TRACE") == "1":  # the library's own log: > is sent, < is received
        logging.basicConfig(format="%(relativeCreated)6.0f ms %(message)s", stream=sys.stdout)
        logging.getLogger("websockets").setLevel(logging.DEBUG)
    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        pass
    except ExceptionGroup as mistakes:
        raise mistakes.exceptions[0] from None  # easier to read than the whole group
    print("Stopped.")
