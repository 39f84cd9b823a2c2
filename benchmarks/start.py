"""How soon each program says its first word, against importing its libraries and no more."""

import ast
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from live import running_service
from microphone import Microphone
from processes import processor_seconds, run_time, started
from running_lessons import ROOT, free_port, lesson_environment
from running_service import MICRO_WHISPER
from table import Report

RUNS = 5
NOT_NEEDED = {"record", "list_devices", "show_page"}  # functions that run only after the first line


def imports(lesson: Path) -> str:
    """Return all import statements of a lesson, those inside of functions too."""

    def find(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield ast.unparse(child)
            elif getattr(child, "name", "") not in NOT_NEEDED:
                yield from find(child)

    return "\n".join(find(ast.parse(lesson.read_text())))


def first_lines(microphone: dict[str, str], echo: int, service: str) -> dict[str, tuple[str, ...]]:
    """Return how each lesson is started here, and how what it says first begins."""
    window = ["tests/rig/watched_window.py", "pygame_websocket.py", "/dev/stdout"]
    return {
        "lesson 1": ("^Listening", "websocket_server_echo.py"),
        "lesson 2": ("^Listening", "websocket_server_echo_ping.py"),
        "lesson 3": ("^.+", "websocket_client_example.py", f"ws://127.0.0.1:{echo}"),
        "lesson 4": (r"^\[", *window),  # its first frame, for it says nothing
        "lesson 5": ("^Speech model", "fastapi_example.py"),
        "lesson 6": ("^✓", "simple_transcription_test.py", "--file", "samples/speech.wav"),
        "lesson 7": ("^ ", "simple_audio_transcription.py", "--list-devices"),
        "lesson 8": ("Local URL|browser", "speech_to_text_webrtc.py"),
    }


def measure(report: Report) -> None:
    engines = {"the embedded engine": "", "the micro Whisper": MICRO_WHISPER}
    readiness: dict[str, list[float]] = {name: [] for name in engines}
    used: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(RUNS):
        for name, model in engines.items():
            begin = time.perf_counter()
            with running_service(WHISPER_MODEL=model) as service:
                readiness[name].append(time.perf_counter() - begin)
                used[name].append(processor_seconds(service.process.pid))
    for name, times in readiness.items():
        note = f"{statistics.median(used[name]):.2f} s of processor time"
        report.add(f"service, start to ready with {name}", times, "s", 1.5, note=note)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        microphone = Microphone(folder / "pulse")
        stack.callback(microphone.unplug)
        ready = []
        for _ in range(RUNS):
            env = lesson_environment({"PORT": str(free_port())})
            command = [sys.executable, str(ROOT / "fastapi_example.py")]
            with started(command, "Uvicorn running", env) as (_, seconds):
                ready.append(seconds)
        report.add("lesson 5, start to ready", ready, "s")
        service = stack.enter_context(running_service())
        echo = free_port()
        command = [sys.executable, str(ROOT / "websocket_server_echo.py")]
        stack.enter_context(started(command, "^Listening", lesson_environment({"PORT": str(echo)})))
        lessons = first_lines(microphone.environment, echo, service.http_url)
        for name, (first_line, *arguments) in lessons.items():
            script = next(part for part in arguments if not part.startswith("tests/"))
            statements = imports(ROOT / script)
            extra, libraries = [], []
            for _ in range(RUNS):
                env = lesson_environment(microphone.environment)
                env |= {"SERVICE_URL": service.http_url, "PORT": str(free_port())}
                env |= {"SDL_VIDEODRIVER": "dummy", "STREAMLIT_SERVER_HEADLESS": "true"}
                env |= {"STREAMLIT_SERVER_PORT": env["PORT"], "PYTHONIOENCODING": "utf-8"}
                libraries.append(run_time([sys.executable, "-c", statements], env))
                with started([sys.executable, *arguments], first_line, env) as (_, seconds):
                    extra.append(seconds - libraries[-1])
            note = f"importing its libraries takes {statistics.median(libraries):.2f} s"
            what = f"{name}: start to its first line, less importing its libraries"
            report.add(what, extra, "s", 0.2, note=note)
