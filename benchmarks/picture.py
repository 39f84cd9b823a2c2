"""Draw docs/latency.png: how soon the text comes, by the number of people who speak."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from table import ROOT

PICTURE = ROOT / "docs/latency.png"
SIZE, SCALE = (900, 520), 2  # drawn twice as large and made smaller: that smooths the lines
LEFT, TOP, RIGHT, BOTTOM = 80, 60, 870, 450
INK, GRID = "#1b1f2e", "#d9dce6"
COLORS = {"service": "#1668dc", "wyoming-faster-whisper": "#d9822b"}


def draw(latencies: Sequence[dict[str, Any]]) -> None:
    """Draw p50 and p95 of each service; both axes are logarithmic."""
    if not latencies:
        return
    image = Image.new("RGB", (SIZE[0] * SCALE, SIZE[1] * SCALE), "white")
    pen = ImageDraw.Draw(image)
    streams = sorted({int(point["streams"]) for point in latencies})
    highest = max(float(point["p95"]) for point in latencies)
    ticks = [n for n in (250, 500, 1000, 2000, 4000, 8000, 16000, 32000) if n / 2 < highest]

    def place(count: float, ms: float) -> tuple[float, float]:
        x = math.log(count / streams[0]) / (math.log(streams[-1] / streams[0]) or 1)
        y = math.log(ms / ticks[0]) / math.log(ticks[-1] / ticks[0])
        return (LEFT + x * (RIGHT - LEFT)) * SCALE, (BOTTOM - y * (BOTTOM - TOP)) * SCALE

    def write(x: float, y: float, text: str, size: int = 15, color: str = INK) -> None:
        font = ImageFont.load_default(size * SCALE)
        pen.text((x * SCALE, y * SCALE), text, color, font, anchor="mm")

    for ms in ticks:
        x, y = place(streams[0], ms)
        pen.line((x, y, RIGHT * SCALE, y), GRID, SCALE)
        write(LEFT - 34, y / SCALE, f"{ms:,}")
    for count in streams:
        x, y = place(count, ticks[0])
        pen.line((x, y, x, TOP * SCALE), GRID, SCALE)
        write(x / SCALE, BOTTOM + 18, str(count))
    write(SIZE[0] / 2, 26, "End of speech to final text, in ms: median and, dashed, 95 %", 18)
    write(SIZE[0] / 2, BOTTOM + 44, "people who speak at the same time")
    for row, (name, color) in enumerate(COLORS.items()):
        points = sorted(
            (point for point in latencies if point["name"] == name), key=lambda p: p["streams"]
        )
        if not points:
            continue
        for kind in ("p50", "p95"):
            path = [place(point["streams"], point[kind]) for point in points]
            for start, end in pairwise(path):
                dashes = max(2, int(math.dist(start, end) / (8 * SCALE)))
                for n in range(0, dashes, 2 if kind == "p95" else 1):
                    dash = [
                        begin + (stop - begin) * part / dashes
                        for part in (n, n + 1)
                        for begin, stop in zip(start, end, strict=True)
                    ]
                    pen.line(dash, color, 3 * SCALE)
            for x, y in path:
                pen.ellipse((x - 8, y - 8, x + 8, y + 8), color)
        write(LEFT + 130, TOP + 22 + 22 * row, name, color=color)
    image.resize(SIZE, Image.Resampling.LANCZOS).quantize(64).save(PICTURE, optimize=True)
