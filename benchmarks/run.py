"""Measure everything and print one table: make bench, or make bench ONLY="echo one"."""

import os
import sys
import time
import traceback
from collections.abc import Callable

import echo
import live
import page
import picture
import pytest
import start
import table
import terminal
import upload
import window

PARTS: dict[str, Callable[[table.Report], None]] = {
    "echo": echo.measure,
    "one": live.one_stream,
    "many": live.many_streams,
    "turns": live.long_turns,
    "costs": live.costs,
    "start": start.measure,
    "upload": upload.measure,
    "window": window.measure,
    "terminal": terminal.measure,
    "page": page.measure,
}


def main() -> None:
    os.environ.pop("PYTHONPATH", None)  # that is for this program, not for the lessons
    chosen = sys.argv[1:] or list(PARTS)
    if unknown := set(chosen) - PARTS.keys():
        raise SystemExit(f"There is no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    report, begin = table.Report(), time.monotonic()
    for part in chosen:
        print(f"\n{part} (load {os.getloadavg()[0]:.2f})", flush=True)
        report.part = part
        try:
            PARTS[part](report)
        except pytest.skip.Exception as reason:
            print(f"  skipped: {reason}")
        except Exception:  # one part that breaks must not take the figures of the others along
            traceback.print_exc()
    result = table.save(report, list(PARTS), time.monotonic() - begin)
    picture.draw(result["latencies"])
    print("\n" + table.as_text(report.rows))
    missed = sum(row.is_met is False for row in report.rows)
    print(f"\n{len(report.rows)} rows, {missed} of them over budget; written to {table.RESULTS}")


if __name__ == "__main__":
    main()
