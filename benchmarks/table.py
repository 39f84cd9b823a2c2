"""The table: what was measured, the budget, and whether it is met; printed and kept as JSON."""

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs/performance.json"
PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- the table, written by make bench -->\n", "<!-- end of the table -->\n"
LIBRARIES = ["websockets", "aiohttp", "faster-whisper", "ctranslate2", "streamlit"]
LIBRARIES += ["moonshine-voice"]  # the embedded engine


@dataclass
class Row:
    """One line of the table. Its figure is the median of several runs."""

    part: str
    what: str
    value: float
    unit: str
    at_most: float | None
    at_least: float | None
    runs: list[float]
    note: str
    load: float  # of the machine, by then: the average number of processes that wanted to run
    before: float | None = None  # what the last run of the benchmark measured

    @property
    def budget(self) -> str:
        if self.at_most is not None:
            return f"≤ {show(self.at_most)} {self.unit}"
        return "" if self.at_least is None else f"≥ {show(self.at_least)} {self.unit}"

    @property
    def is_met(self) -> bool | None:
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    @property
    def verdict(self) -> str:
        return {None: "", True: "met", False: "NOT met"}[self.is_met]


def show(number: float) -> str:
    """Return a number with three figures, or all in front of the point."""
    digits = 0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2
    if 0 < abs(number) < 0.1:
        digits = 3
    return f"{number:,.{digits}f}"


@dataclass
class Report:
    """Collects the rows, and prints each at once, because the whole takes a while."""

    part: str = ""
    rows: list[Row] = field(default_factory=list)
    latencies: list[dict[str, Any]] = field(default_factory=list)  # for the picture

    def add(
        self,
        what: str,
        runs: Sequence[float],
        unit: str,
        at_most: float | None = None,
        at_least: float | None = None,
        note: str = "",
    ) -> None:
        figures = [round(float(run), 5) for run in runs]
        load = round(os.getloadavg()[0], 2)
        value = statistics.median(figures)
        row = Row(self.part, what, value, unit, at_most, at_least, figures, note, load)
        self.rows.append(row)
        print(f"  {what}: {show(row.value)} {unit}  {row.budget}  {row.verdict}", flush=True)
        if note:
            print(f"      {note}", flush=True)


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def save(report: Report, parts: Sequence[str], seconds: float) -> dict[str, Any]:
    """Put what was measured in the place of what was measured before, and return all of it."""
    old: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    measured = {row["what"]: row["value"] for row in old.get("rows", [])}
    for row in report.rows:
        row.before = measured.get(row.what)
    done = {row.part for row in report.rows}
    rows = [Row(**row) for row in old.get("rows", []) if row["part"] not in done] + report.rows
    rows.sort(key=lambda row: parts.index(row.part) if row.part in parts else len(parts))
    points = {
        (point["name"], point["streams"]): point
        for point in [*old.get("latencies", []), *report.latencies]
    }
    result = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "seconds": round(seconds),
        "machine": machine(),
        "latencies": list(points.values()),
        "rows": [asdict(row) for row in rows],
    }
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if PAGE.exists():
        head, _, rest = PAGE.read_text().partition(BEGIN)
        _, _, tail = rest.partition(END)
        PAGE.write_text(f"{head}{BEGIN}{as_markdown(rows)}{END}{tail}")
    return result


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the table for docs/performance.md."""
    lines = ["| what | measured | before | budget | | load |", "|---|--:|--:|--:|---|--:|"]
    for row in rows:
        before = "" if row.before is None else show(row.before)
        value = f"{show(row.value)} {row.unit}"
        verdict = f"**{row.verdict}**" if row.is_met is False else row.verdict
        cells = [row.what, value, before, row.budget, verdict, f"{row.load:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def as_text(rows: Sequence[Row]) -> str:
    """Return the table as it is printed."""
    cells = [(row.what, f"{show(row.value)} {row.unit}", row.budget, row.verdict) for row in rows]
    cells.insert(0, ("what", "measured", "budget", ""))
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    return "\n".join(
        f"{what:<{widths[0]}}  {value:>{widths[1]}}  {budget:>{widths[2]}}  {verdict}".rstrip()
        for what, value, budget, verdict in cells
    )
