"""Other people's computers: odd folders, narrow and plain terminals, old encodings and line ends.

What can be tried here is tried with every lesson; what only Windows could show is forbidden.
"""

import ast
import io
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pexpect
import pytest
import requests
from running_lessons import LESSONS, ROOT, OpenLesson, free_port
from running_service import MICRO_WHISPER, Service, until
from speech import silence, spoken, write_wav
from websockets.sync.client import connect
from wires import lesson_server

Lesson: TypeAlias = "pexpect.spawn[str]"
COLUMNS = 40
BINARY = {"bin", "png", "wav", "mp3", "mp4", "mov", "ts", "au", "ogg", "opus", "webm"}

SURROUNDINGS = {
    "a terminal without colours": {"TERM": "dumb", "NO_COLOR": "1"},
    "no language set": {"LANG": "C", "LC_ALL": ""},
    "a list of languages for menus": {"LANGUAGE": "sv_SE:sv:en_US:en"},
    "an output that knows only ASCII": {"PYTHONIOENCODING": "ascii"},
    "the encoding of Windows": {"PYTHONIOENCODING": "cp1252"},
    "a system without UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
UMLAUTS, PLAIN = ("Übungen für Jörg & Zoë", "Größe 1.wav"), ("exercises (new)", "size 1.wav")


class Trial:
    """A lesson at a narrow terminal, started in a folder with an odd name."""

    def __init__(self, terminal: Lesson, folder: Path, settings: dict[str, str]) -> None:
        self.terminal, self.folder, self.settings = terminal, folder, settings
        self.output = io.StringIO()
        terminal.logfile_read = self.output

    def says(self, pattern: str) -> None:
        self.terminal.expect(pattern)

    def ends_well(self, last_words: str, press_ctrl_c: bool = True) -> str:
        """See that it ends with these words and without a fault; return all that it printed."""
        if press_ctrl_c:
            self.terminal.sendintr()
        self.terminal.expect(pexpect.EOF)
        output = str(self.output.getvalue())
        assert self.terminal.wait() == 0, output
        assert "Traceback" not in output and "UnicodeEncodeError" not in output, output
        assert re.search(last_words, output), output
        return output


Everywhere = Callable[..., list[Trial]]


@pytest.fixture
def everywhere(open_lesson: OpenLesson, tmp_path: Path) -> Everywhere:
    """Start a lesson in all surroundings at once: everywhere(name, *arguments, env=..., port=...).

    RECORDING among the arguments is a file that says hello world; port is the name of the setting
    which gives each of them a port of its own.
    """

    def start(
        name: str, *arguments: str, env: dict[str, str] | None = None, port: str = ""
    ) -> list[Trial]:
        trials: list[Trial] = []
        for surroundings in SURROUNDINGS.values():
            # A system without UTF-8 cannot even read a name with umlauts.
            folder, recording = PLAIN if "PYTHONUTF8" in surroundings else UMLAUTS
            place = tmp_path / folder / str(len(trials))
            place.mkdir(parents=True)
            ends = "\r\n" if surroundings.get("PYTHONIOENCODING") == "cp1252" else "\n"
            (place / name).write_text(
                (ROOT / name).read_text(encoding="utf-8"), encoding="utf-8", newline=ends
            )
            write_wav(place / recording, np.append(spoken("hello world"), silence(0.5)))
            words = [recording if word == "RECORDING" else word for word in arguments]
            settings = (env or {}) | ({port: str(free_port())} if port else {})
            terminal = open_lesson(
                name, *words, env=settings | surroundings, columns=COLUMNS, cwd=place
            )
            trials.append(Trial(terminal, place, settings))
        return trials

    return start


@pytest.mark.parametrize("name", ["websocket_server_echo.py", "websocket_server_echo_ping.py"])
def test_the_echo_servers_work_everywhere(name: str, everywhere: Everywhere) -> None:
    for server in everywhere(name, port="PORT"):
        server.says("Listening on")
        with connect(f"ws://127.0.0.1:{server.settings['PORT']}", proxy=None) as client:
            client.send("grüße 🙂")
            while (answer := client.recv()) != "grüße 🙂":
                assert "ping" in answer
        server.says("said 'gr.{1,10}e")
        server.ends_well("Stopped")


def test_the_client_works_everywhere(everywhere: Everywhere, tmp_path: Path) -> None:
    port = free_port()
    with lesson_server(tmp_path, "websocket_server_echo.py", port):
        clients = everywhere("websocket_client_example.py", f"ws://127.0.0.1:{port}")
        for client, surroundings in zip(clients, SURROUNDINGS.values(), strict=True):
            client.says("Connected to")
            only_ascii = "PYTHONUTF8" in surroundings or "ascii" in surroundings.values()
            for line in ("gruesse" if only_ascii else "grüße 🙂", "hello"):
                client.terminal.send(f"{line}\r")
                client.says(f"<<< {line[:2]}")
            client.ends_well("Left")


def test_the_window_opens_everywhere(everywhere: Everywhere, tmp_path: Path) -> None:
    port = free_port()
    with lesson_server(tmp_path, "websocket_server_echo.py", port) as server:
        env = {"WEBSOCKET_URL": f"ws://127.0.0.1:{port}", "SDL_VIDEODRIVER": "dummy"}
        windows = everywhere("pygame_websocket.py", env=env)
        server.says(rf"(?s)(?: connected\n.*?){{{len(windows)}}}")
        for window in windows:
            window.ends_well("Stopped")


def test_the_service_works_everywhere(everywhere: Everywhere) -> None:
    env = {"WHISPER_MODEL": MICRO_WHISPER}
    for service in everywhere("fastapi_example.py", env=env, port="PORT"):
        service.says("Uvicorn running on")
        url = f"http://127.0.0.1:{service.settings['PORT']}"
        until(lambda url=url: answers(f"{url}/v1/models"))  # type: ignore[misc]
        recording = next(service.folder.glob("*.wav"))
        with recording.open("rb") as file:
            form = {"file": (recording.name, file)}
            answer = requests.post(f"{url}/v1/audio/transcriptions", files=form, timeout=60)
        assert answer.json()["text"] == "hello world"
        service.ends_well("Speech model")


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=20).ok
    except requests.ConnectionError:
        return False


def test_the_single_recording_works_everywhere(everywhere: Everywhere, service: Service) -> None:
    env = {"SERVICE_URL": service.http_url}
    for lesson in everywhere("simple_transcription_test.py", "--file", "RECORDING", env=env):
        output = lesson.ends_well("hello world", press_ctrl_c=False)
        assert re.search(r"[✓?] transcript", output)  # a question mark where there is no ✓


def test_the_live_transcription_works_everywhere(everywhere: Everywhere, service: Service) -> None:
    arguments = ["--file", "RECORDING"]
    env = {"WEBSOCKET_URL": service.url}
    for lesson in everywhere("simple_audio_transcription.py", *arguments, env=env):
        output = lesson.ends_well("of audio", press_ctrl_c=False)
        assert "[0:00] hello world" in output
        for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[?\d]*\w", "", output)):
            assert len(line) <= COLUMNS


def test_the_page_opens_everywhere(everywhere: Everywhere) -> None:
    env = {"STREAMLIT_SERVER_HEADLESS": "true"}
    for page in everywhere("speech_to_text_webrtc.py", env=env, port="STREAMLIT_SERVER_PORT"):
        page.says("You can now view")
        assert answers(f"http://127.0.0.1:{page.settings['STREAMLIT_SERVER_PORT']}/")
        page.ends_well("Stopping")


# --- what only Windows or macOS could show ---

ONLY_POSIX = {  # names of modules and attributes that Windows lacks
    *("fcntl", "termios", "tty", "pty", "resource", "pwd", "grp", "uvloop", "readline"),
    *("fork", "getuid", "geteuid", "getgid", "setsid", "killpg", "openpty", "mkfifo"),
    *("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGQUIT"),
    *("alarm", "pause", "sigwait", "pthread_kill", "AF_UNIX", "SO_REUSEPORT"),
    *("add_signal_handler", "add_reader", "add_writer"),  # not on Windows' event loop
    *("connect_read_pipe", "connect_write_pipe", "set_blocking", "select"),  # not on a keyboard
}


@pytest.mark.parametrize("lesson", LESSONS)
def test_no_lesson_asks_for_what_windows_lacks(lesson: str) -> None:
    tree = ast.parse((ROOT / lesson).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Attribute(attr="stdin"), attr="readline"):
                pass  # that of a file, not the module
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.alias(name=name):
                assert name.split(".")[0] not in ONLY_POSIX, f"{name}, line {node.lineno}"
            case ast.ImportFrom(module=str(name)):
                assert name.split(".")[0] not in ONLY_POSIX, f"{name}, line {node.lineno}"
            case ast.Constant(value=str(text)) if text != ast.get_docstring(tree, clean=False):
                assert not re.search(r"(?<![\w.])/(tmp|dev|proc|etc)/", text), text
            case ast.Call(func=ast.Attribute(attr="open" | "read_text" | "write_text")):
                # else the file would be read in the encoding of the country; bytes have none
                opened = ast.unparse(node)
                is_bytes = re.match(r"(av|wave|audio|os)\.open\(|.+\.open\('[rwa]b'\)", opened)
                assert is_bytes or "encoding=" in opened, opened


def test_git_gives_every_text_the_same_line_ends_on_every_system() -> None:
    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    attributes = git("ls-files", "--eol").splitlines()
    assert attributes
    for line in attributes:
        index, _, wanted, path = line.split(maxsplit=3)
        is_binary = path.rpartition(".")[2] in BINARY
        assert index in ({"i/-text"} if is_binary else {"i/lf", "i/none"}), line
        assert (wanted == "attr/-text") == is_binary, line
