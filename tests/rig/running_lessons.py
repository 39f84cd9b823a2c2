"""The repository's folder, and its lessons run as a student runs them."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

ROOT = Path(__file__).parents[2]
STRICT_PYTHON = [sys.executable, "-W", "error::DeprecationWarning"]
RunLesson = Callable[..., "subprocess.CompletedProcess[str]"]
OpenLesson = Callable[..., "pexpect.spawn[str]"]
LESSONS = sorted(
    path.name for path in ROOT.glob("*.py") if path.read_text().startswith("#!/usr/bin/env -S uv")
)
ONLY_PYTHON = "ONLY_PYTHON"  # set by make check: what needs other programs is skipped


def need(*tools: str) -> None:
    """Skip the test where a tool is missing; with CI=true that is a failure instead."""
    if ONLY_PYTHON in os.environ:
        pytest.skip(f"needs {', '.join(tools)} (make test runs it)")
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        reason = f"needs {', '.join(missing)} (make test installs it)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


def need_default_ports() -> None:
    """Skip the test where another program uses a port at which lessons look for a service."""
    for port in (10300, 8000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                reason = f"another program uses port {port}"
                pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


def chromium() -> str:
    """Return the path of Chromium or, where that is no package, as on Ubuntu, of Google Chrome."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path or ONLY_PYTHON in os.environ:
        need("chromium")
    return str(path)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lesson_environment(env: dict[str, str] | None = None) -> dict[str, str]:
    """Return the machine's environment without anything that would change a lesson's defaults."""
    settings = {"HOST", "PORT", "API_KEY", "OPENAI_API_KEY", "WEBSOCKET_URL", "SERVICE_URL"}
    settings |= {"TRANSCRIPTION_LANGUAGE", "TRANSCRIPTION_MODEL", "DEBUG", "TRACE", "CI"}
    settings |= {"COLUMNS", "LINES"}  # which pytest-xdist sets: a terminal tells its own size
    settings |= {"ALLOWED_HOSTS", "ALLOWED_ORIGINS"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in settings and not name.startswith(("WHISPER_", "MAX_", "DELTA_"))
    }
    return kept | {"PYTHONUNBUFFERED": "1"} | (env or {})


@pytest.fixture
def run_lesson() -> RunLesson:
    """Run a lesson to its end, with no terminal: run_lesson("NAME.py", *arguments, env, input)."""

    def run(
        name: str,
        *arguments: str,
        env: dict[str, str] | None = None,
        input: str = "",  # noqa: A002 (subprocess calls it so)
        timeout: float = 60,
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*STRICT_PYTHON, name, *arguments],
            cwd=ROOT,
            env=lesson_environment(env),
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def open_lesson() -> Iterator[OpenLesson]:
    """Start a lesson at a terminal of its own; what it prints is awaited with .expect()."""
    opened: list[pexpect.spawn[str]] = []

    def start(
        name: str,
        *arguments: str,
        env: dict[str, str] | None = None,
        columns: int = 100,
        cwd: Path = ROOT,
    ) -> "pexpect.spawn[str]":
        terminal = pexpect.spawn(
            STRICT_PYTHON[0],
            [*STRICT_PYTHON[1:], name, *arguments],
            cwd=str(cwd),
            # Nobody here would answer when prompt_toolkit (CPR) asks where the cursor is.
            env=lesson_environment({"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"} | (env or {})),
            dimensions=(30, columns),
            encoding="utf-8",
            codec_errors="replace",
            timeout=20,
        )
        opened.append(terminal)
        return terminal

    yield start
    for terminal in opened:
        terminal.close(force=True)


def printed(terminal: "pexpect.spawn[str]") -> str:
    """Return what a lesson printed before that which was expected last."""
    assert isinstance(terminal.before, str)
    return terminal.before


def found(terminal: "pexpect.spawn[str]") -> str:
    """Return the first group of the pattern that was expected last."""
    assert isinstance(terminal.match, re.Match)
    return str(terminal.match.group(1))
