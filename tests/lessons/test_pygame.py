"""Lesson 4 in a real window: strokes travel, delays are visible, and nothing freezes it."""

import asyncio
import importlib.util
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from running_lessons import ROOT, RunLesson, free_port
from screen import Screen, Window, running_screen
from websockets.sync.server import ServerConnection, serve
from wires import lesson_server, slow_line, wait_until

LESSON = "pygame_websocket.py"
ECHO, PING = "websocket_server_echo.py", "websocket_server_echo_ping.py"
STROKE = [(100 + 20 * step, 300) for step in range(20)]
MIDDLE = [(110 + 20 * step, 300) for step in range(18)]  # between the points of the mouse
LATER = [(100 + 20 * step, 450) for step in range(20)]
LATER_MIDDLE = [(110 + 20 * step, 450) for step in range(18)]
NO_FREEZE = 0.5  # seconds; a frame is due every 0.017 s, the rest is for a busy machine
OpenWindow = Callable[..., Window]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def screen() -> Iterator[Screen]:
    with running_screen() as running:
        yield running


@pytest.fixture
def open_window(screen: Screen, tmp_path: Path) -> Iterator[OpenWindow]:
    """Open the lesson's window: open_window(port of the server)."""
    opened: list[Window] = []

    def start(port: int, lesson: Path = ROOT / LESSON) -> Window:
        log = tmp_path / f"frames-{len(opened)}.log"
        opened.append(Window(screen, lesson, log, {"WEBSOCKET_URL": f"ws://127.0.0.1:{port}"}))
        return opened[-1]

    yield start
    for window in opened:
        window.process.kill()
        window.process.wait()


def test_a_stroke_appears_when_it_comes_back(
    open_window: OpenWindow, tmp_path: Path, port: int
) -> None:
    with lesson_server(tmp_path, ECHO, port):
        window = open_window(port)
        window.reads(f"Connected to ws://127.0.0.1:{port}")
        window.reads("round trip – ms")
        window.mouse(*STROKE)
        wait_until(lambda: window.is_painted(*MIDDLE), "the stroke")
        window.reads("0 on their way")
        assert re.search(r"round trip \d+\.\d ms +\d+ FPS", window.text())


def test_a_stroke_does_not_appear_before_it_is_back(
    open_window: OpenWindow, tmp_path: Path, port: int
) -> None:
    """Through a line that takes 300 ms longer."""
    with lesson_server(tmp_path, ECHO, port), slow_line(port, delay=0.15) as slow_port:
        window = open_window(slow_port)
        window.reads("Connected")
        x, y = window.corner
        window.screen.xdotool("mousemove", x + 200, y + 300)
        pressed = time.monotonic()
        window.screen.xdotool("mousedown", 1)
        window.reads("1 on their way")
        window.screen.xdotool("mouseup", 1)
        window.screen.xdotool("mousemove", x + 700, y + 500)
        assert not window.is_painted((200, 300))
        assert "1 on their way" in window.text()  # that picture was taken in time
        wait_until(lambda: window.is_painted((200, 300)), "the dot")
        assert time.monotonic() - pressed > 0.3
        shown = re.search(r"round trip (\d+\.\d) ms", window.text())
        assert shown and 300 <= float(shown[1]) < 500


def test_the_panel_can_be_read(open_window: OpenWindow, tmp_path: Path, port: int) -> None:
    with lesson_server(tmp_path, PING, port, {"PING_SECONDS": "0.2"}):
        window = open_window(port)
        window.reads("Connected")
        window.mouse(*STROKE)
        window.reads("0 on their way")
        folder = os.environ.get("SCREENSHOTS")
        picture = window.photograph(Path(folder, "connected.png") if folder else None)
        panel = picture.convert("L").crop((52, 20, 360, 76))
        dark, bright = panel.getextrema()
        assert isinstance(dark, int) and isinstance(bright, int) and bright - dark > 100
        light = picture.getpixel((36, 36))
        assert isinstance(light, tuple) and light[1] > 180 > light[0]  # green: connected


def test_picture(open_window: OpenWindow, tmp_path: Path, port: int) -> None:
    """Take the README's picture: PICTURES=docs puts it where it looks for it."""
    path = ROOT / os.environ.get("PICTURES", str(tmp_path)) / "drawing.png"
    turns = [step / 12 for step in range(200)]
    flower = [(8 * turn + 60 * math.sin(4 * turn), turn) for turn in turns]  # radius, angle
    curve = [
        (
            round(480 + 1.5 * (80 + radius) * math.cos(turn)),
            round(330 + (80 + radius) * math.sin(turn)),
        )
        for radius, turn in flower
    ]
    with lesson_server(tmp_path, PING, port):
        window = open_window(port)
        window.reads("Connected")
        window.mouse(*curve)
        window.reads("0 on their way")
        before = window.text()
        wait_until(lambda: "ping" in window.text() != before, "the ring of a ping")
        window.photograph().convert("RGB").quantize(64).save(path, optimize=True)
    assert path.stat().st_size < 60_000
    with Image.open(path) as picture:
        assert picture.size == (960, 600) and len(picture.getcolors(256) or []) > 30


def test_pings_light_up(open_window: OpenWindow, tmp_path: Path, port: int) -> None:
    with lesson_server(tmp_path, PING, port, {"PING_SECONDS": "2"}):
        window = open_window(port)
        ring = (960 - 130, 0, 960, 140)

        def greenness() -> int:
            return sum(green > 60 for green in window.photograph().crop(ring).tobytes()[1::3])

        for number in (2, 3):
            window.reads(f"ping {number}")
            wait_until(lambda: greenness() > 50, "the ring")
            wait_until(lambda: "ping" not in window.text(), "its fading away")
            assert greenness() == 0


def test_sixty_frames_a_second_and_a_prompt_answer(
    open_window: OpenWindow, tmp_path: Path, port: int
) -> None:
    """Wide limits: on a machine of its own it is 60 frames and less than 1 ms."""
    with lesson_server(tmp_path, PING, port):
        window = open_window(port)
        window.reads("Connected")
        started = time.monotonic()
        for row in range(3):
            window.mouse(*[(x, y + 40 * row) for x, y in STROKE])
        seconds = time.monotonic() - started
        frames = len(window.frames(started))
        window.reads("0 on their way")
        trip = re.search(r"round trip (\d+\.\d) ms", window.text())
        print(f"{frames / seconds:.1f} FPS, {trip and trip[0]}")
        assert 45 < frames / seconds < 63
        assert trip and float(trip[1]) < 15


def is_faint(window: Window, *points: tuple[int, int]) -> bool:
    """Say whether a color that is not bright is at every one of these points."""
    picture = window.photograph().convert("HSV")
    pixels = [picture.getpixel(point) for point in points]
    return all(isinstance(pixel, tuple) and 60 < pixel[2] < 150 for pixel in pixels)


def test_strokes_are_faint_while_there_is_no_server_and_solid_later(
    open_window: OpenWindow, tmp_path: Path, port: int
) -> None:
    with lesson_server(tmp_path, ECHO, port) as first:
        window = open_window(port)
        window.reads("Connected")
        window.mouse(*STROKE)
        wait_until(lambda: window.is_painted(*MIDDLE), "the stroke")
        started = time.monotonic()
        first.kill()
        window.reads(f"No server is running at ws://127.0.0.1:{port} (connection refused).")
        window.reads(f"Start one in another terminal:  python {PING}")
        window.mouse(*LATER)
        window.reads("20 on their way")
        wait_until(lambda: is_faint(window, *LATER_MIDDLE), "the faint stroke")
    with lesson_server(tmp_path, ECHO, port):
        window.reads("Connected")
        wait_until(lambda: window.is_painted(*LATER_MIDDLE), "the stroke, solid now")
        window.reads("0 on their way")
        assert window.is_painted(*MIDDLE)
        assert window.longest_frame(started) < NO_FREEZE


def test_a_server_that_hangs_freezes_nothing_and_is_noticed(
    open_window: OpenWindow, tmp_path: Path, port: int
) -> None:
    with lesson_server(tmp_path, ECHO, port) as server:
        window = open_window(port)
        window.reads("Connected")
        started = time.monotonic()
        server.process.send_signal(signal.SIGSTOP)
        window.mouse(*STROKE)
        wait_until(lambda: "Connected" not in window.text(), "that it is noticed")
        wait_until(lambda: is_faint(window, *MIDDLE), "the stroke that was on its way, faint")
        server.process.send_signal(signal.SIGCONT)
        window.reads("Connected")
        wait_until(lambda: window.is_painted(*MIDDLE), "what was drawn while it hung")
        assert window.longest_frame(started) < NO_FREEZE


def test_thousands_of_waiting_strokes_leave_without_holding_up_a_frame(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lesson's own functions, in this process: nobody draws that much by hand."""
    specification = importlib.util.spec_from_file_location("lesson_4", ROOT / LESSON)
    assert specification and specification.loader
    lesson = importlib.util.module_from_spec(specification)
    monkeypatch.setenv("WEBSOCKET_URL", f"ws://127.0.0.1:{port}")
    specification.loader.exec_module(lesson)
    drawing = lesson.Drawing()
    for _ in range(20_000):
        lesson.add_stroke(drawing, (99, 100), (100, 100))

    async def longest_wait_for_a_frame() -> float:
        network = asyncio.create_task(lesson.stay_connected(drawing))
        longest, frame = 0.0, time.monotonic()
        while drawing.waiting and not network.done():
            await asyncio.sleep(1 / 60)
            longest, frame = max(longest, time.monotonic() - frame), time.monotonic()
        network.cancel()
        await asyncio.wait([network])
        return longest

    with lesson_server(tmp_path, ECHO, port):
        longest = asyncio.run(longest_wait_for_a_frame())
    assert not drawing.waiting  # all of them are back
    assert longest < NO_FREEZE, longest


def test_the_window_survives_whatever_a_server_sends(open_window: OpenWindow, port: int) -> None:
    point = '"hue": 1, "from": [1, 1], "to"'
    nonsense: list[str | bytes] = [
        "hello",
        b"\xff\x00",
        "[" * 100_000,
        "null",
        "[]",
        '{"type": "stroke"}',
        '{"type": "ping", "number": "many"}',
        f'{{"type": "ping", "number": {10**4000}}}',
        f'{{"type": "stroke", "id": "a", {point}: [1e300, 1]}}',
        f'{{"type": "stroke", "id": "a", {point}: [{10**30}, 1]}}',
        f'{{"type": "stroke", "id": "a", {point}: "here"}}',
        f'{{"type": "stroke", "id": ["a"], {point}: [1, 1]}}',
        '{"type": "stroke", "hue": "red", "from": [1, 1], "to": [1, 1]}',
        '{"type": "stroke", "hue": 1, "from": [1], "to": null}',
        '{"type": "stroke", "hue": 1e400, "from": [1, 1], "to": [1e400, NaN]}',
        '{"type": "stroke", "id": "not ours", "hue": -7, "from": [500, 500], "to": [600, 500]}',
    ]

    def rude(connection: ServerConnection) -> None:
        for message in nonsense:
            connection.send(message)
        for message in connection:
            connection.send(message)

    with serve(rude, "127.0.0.1", port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        window = open_window(port)
        wait_until(lambda: window.is_painted((550, 500)), "the other window's stroke")
        window.mouse(*STROKE)
        wait_until(lambda: window.is_painted(*MIDDLE), "our own")
        server.shutdown()


@pytest.mark.parametrize("connected", [True, False])
def test_esc_and_the_close_button_end_it_at_once(
    connected: bool, open_window: OpenWindow, tmp_path: Path, port: int
) -> None:
    with lesson_server(tmp_path, ECHO, port) as server:
        closed_port = free_port()
        window = open_window(port if connected else closed_port)
        window.reads("Connected" if connected else "connection refused")
        window.key("Escape")
        window.ended_well()
        if connected:
            server.says(r"left \(close code 1000\)")
        window = open_window(port if connected else closed_port)
        window.reads("Connected" if connected else "connection refused")
        window.close()
        window.ended_well()


def test_ctrl_c_in_its_terminal_ends_it(open_window: OpenWindow, port: int) -> None:
    window = open_window(port)
    window.process.send_signal(signal.SIGINT)
    window.ended_well()
    assert window.output.read_text().endswith("Stopped.\n")


@pytest.mark.parametrize("wrong", ["127.0.0.1:8765", "ws://192.168.1..20:8765", "ws://h:99999"])
def test_a_wrong_address_is_named_in_the_window(wrong: str, screen: Screen, tmp_path: Path) -> None:
    window = Window(screen, ROOT / LESSON, tmp_path / "frames.log", {"WEBSOCKET_URL": wrong})
    try:
        window.reads(f"Cannot connect to {wrong} (")
        window.key("Escape")
        window.ended_well()
    finally:
        window.process.kill()


def test_a_mistake_in_the_code_is_shown_as_python_shows_it(
    tmp_path: Path, port: int, run_lesson: RunLesson
) -> None:
    """In the half that paints, and in the half that talks, which runs beside it."""
    source = (ROOT / LESSON).read_text(encoding="utf-8")
    env = {"SDL_VIDEODRIVER": "dummy", "WEBSOCKET_URL": f"ws://127.0.0.1:{port}"}
    with lesson_server(tmp_path, PING, port):
        for right in ("screen.blit(drawing.paper", "json.loads(text)"):
            assert right in source
            mistaken = tmp_path / LESSON
            mistaken.write_text(source.replace(right, "oops." + right), encoding="utf-8")
            result = run_lesson(str(mistaken), env=env)
            assert result.stderr.startswith("Traceback")
            assert result.stderr.splitlines()[-1] == "NameError: name 'oops' is not defined"


def test_without_a_screen_it_says_so(run_lesson: RunLesson) -> None:
    nothing = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "SDL_VIDEODRIVER": "offscreen"}
    result = run_lesson(LESSON, env=nothing)
    assert result.returncode == 1
    assert "There is no screen" in result.stderr
