"""What a process costs, and how long a program takes to say its first word."""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid: int) -> float:
    """Return what a process has used of the processor, all of its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mib(pid: int) -> float:
    """Return the resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def started(
    command: list[str], first_line: str, env: dict[str, str] | None = None, patience_s: float = 60
) -> Iterator[tuple["subprocess.Popen[bytes]", float]]:
    """Run a program; yield it and how many seconds it took to write a line that matches."""
    with tempfile.TemporaryFile() as output:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            text = ""
            while not re.search(first_line, text, re.MULTILINE):
                assert time.perf_counter() - begin < patience_s, text
                assert process.poll() is None or first_line == "$", text
                time.sleep(0.002)
                text = os.pread(output.fileno(), 100_000, 0).decode(errors="replace")
            yield process, time.perf_counter() - begin
        finally:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


def run_time(command: list[str], env: dict[str, str] | None = None) -> float:
    """Return how many seconds a program runs."""
    begin = time.perf_counter()
    silence = subprocess.DEVNULL
    subprocess.run(command, env=env, check=True, stdout=silence, stderr=silence)
    return time.perf_counter() - begin
