"""Run a pygame lesson and write down each frame: when it was shown and what stood in it.

python watched_window.py LESSON.py LOG: one line of JSON for each frame.
"""

import json
import runpy
import sys
import time
from pathlib import Path

import pygame

lesson, log = sys.argv[1], Path(sys.argv[2]).open("w", buffering=1, encoding="utf-8")  # noqa: SIM115
texts: list[str] = []
show = pygame.display.flip


class WatchedFont(pygame.Font):
    """A font that notes what it writes."""

    def render(self, text: str, *arguments: object) -> pygame.Surface:  # type: ignore[override]
        texts.append(text)
        return super().render(text, *arguments)  # type: ignore[arg-type]


def watched_flip() -> None:
    """Show the frame and note it."""
    show()
    log.write(json.dumps([time.monotonic(), texts]) + "\n")
    texts.clear()


pygame.Font = WatchedFont  # type: ignore[misc]
pygame.display.flip = watched_flip
sys.argv = [lesson]
runpy.run_path(lesson, run_name="__main__")
