"""A screen without a monitor (Xvfb), with a mouse and a keyboard (xdotool) and a camera."""

import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageGrab
from running_lessons import ROOT, STRICT_PYTHON, lesson_environment, need
from wires import PATIENCE, wait_until
from Xlib import display  # type: ignore[import-untyped]
from Xlib.protocol.event import ClientMessage  # type: ignore[import-untyped]

Point = tuple[int, int]


class Screen:
    """One Xvfb display."""

    def __init__(self, name: str) -> None:
        self.name = name

    def xdotool(self, *arguments: object) -> str:
        return subprocess.run(
            ["xdotool", *map(str, arguments)],
            env={**os.environ, "DISPLAY": self.name},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        ).stdout

    def photograph(self) -> Image.Image:
        return ImageGrab.grab(xdisplay=self.name)


@contextmanager
def running_screen() -> Iterator[Screen]:
    """Run Xvfb on a display number of its own choice."""
    need("Xvfb", "xdotool")
    reading, writing = os.pipe()
    xvfb = subprocess.Popen(
        # -noreset: else it starts anew, and is deaf for a moment, when its last client has left
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1000x640x24", "-noreset"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as answer:
        number = answer.readline().strip()
    yield Screen(f":{number}")
    xvfb.terminate()
    xvfb.wait(PATIENCE)


class Window:
    """A lesson's window: what it shows, and a hand at its mouse and keyboard."""

    def __init__(self, screen: Screen, lesson: Path, log: Path, env: dict[str, str]) -> None:
        self.screen, self.log = screen, log
        self.output = log.with_suffix(".output")
        environment = lesson_environment({"DISPLAY": screen.name, "SDL_AUDIODRIVER": "dummy"} | env)
        environment.pop("SDL_VIDEODRIVER", None)
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*STRICT_PYTHON, ROOT / "tests/rig/watched_window.py", lesson, log],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: self.find() and self.frames(), "the window")
        self.id = self.find()
        place = dict(
            line.split("=")
            for line in screen.xdotool("getwindowgeometry", "--shell", self.id).split()
        )
        self.corner = int(place["X"]), int(place["Y"])
        screen.xdotool("windowfocus", "--sync", self.id)

    def find(self) -> str:
        found = self.screen.xdotool("search", "--onlyvisible", "--pid", self.process.pid)
        return found.split()[-1] if found else ""

    def frames(self, since: float = 0) -> list[tuple[float, list[str]]]:
        """Return when each frame was shown, and the texts in it."""
        if not self.log.exists():
            return []
        complete = self.log.read_text(encoding="utf-8").rpartition("\n")[0]
        frames = [json.loads(line) for line in complete.splitlines()]
        return [(when, texts) for when, texts in frames if when >= since]

    def text(self) -> str:
        """Return the texts of the latest frame."""
        return " | ".join(self.frames()[-1][1])

    def reads(self, text: str) -> None:
        """Wait until this stands in the window."""
        wait_until(lambda: text in self.text(), f"{text!r} in the window")

    def mouse(self, *points: Point, pause: float = 0.02) -> None:
        """Draw from point to point with the left button pressed."""
        x, y = self.corner
        for number, point in enumerate(points):
            self.screen.xdotool("mousemove", "--sync", x + point[0], y + point[1])
            if number == 0:
                self.screen.xdotool("mousedown", 1)
            time.sleep(pause)  # a hand takes its time
        self.screen.xdotool("mouseup", 1)
        self.screen.xdotool("mousemove", x + 900, y + 560)  # out of the way

    def key(self, name: str) -> None:
        # Not with --window: if the key closes the window at once, it would stay pressed for ever.
        self.screen.xdotool("windowfocus", "--sync", self.id)
        self.screen.xdotool("key", name)

    def close(self) -> None:
        """Do what a desktop does when someone clicks the window's close button."""
        connection = display.Display(self.screen.name)
        window = connection.create_resource_object("window", int(self.id))
        atoms = [connection.intern_atom(name) for name in ("WM_PROTOCOLS", "WM_DELETE_WINDOW")]
        request = ClientMessage(
            window=window, client_type=atoms[0], data=(32, [atoms[1], 0, 0, 0, 0])
        )
        window.send_event(request)
        connection.sync()  # not flush(): the screen forgets what it has not read when we hang up
        connection.close()

    def photograph(self, path: Path | None = None) -> Image.Image:
        """Take a picture of the window as a person sees it."""
        x, y = self.corner
        picture = self.screen.photograph().crop((x, y, x + 960, y + 600))
        if path:
            picture.save(path)
        return picture

    def is_painted(self, *points: Point) -> bool:
        """Say whether there is bright colour at every one of these points."""
        picture = self.photograph().convert("RGB")
        pixels = [picture.getpixel(point) for point in points]
        return all(isinstance(pixel, tuple) and max(pixel) > 200 for pixel in pixels)

    def longest_frame(self, since: float) -> float:
        """Return the longest time in seconds for which the picture stood still."""
        times = [when for when, _ in self.frames(since)]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def ended_well(self) -> None:
        """See that the program ends at once, with status 0 and without a traceback."""
        started = time.monotonic()
        assert self.process.wait(PATIENCE) == 0, self.output.read_text()
        assert time.monotonic() - started < 2
        assert "Traceback" not in self.output.read_text()
