"""What README.md and docs/ quote is printed, and every message that they explain comes.

In a block marked "console", the first line is a command and the rest is what it prints. That is
run, together with the server that it needs. Digits may differ, and "..." stands for anything.
"""

import ast
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from documents import NAMES, blocks, messages, read
from microphone import Microphone
from running_lessons import LESSONS, ROOT, RunLesson, free_port, lesson_environment, need
from running_service import StartService
from speech import silence, write_wav
from websockets.sync.client import connect
from wires import RunningLesson, lesson_server, wait_until

MAKEFILE = read("Makefile")
ECHO, PING = "websocket_server_echo.py", "websocket_server_echo_ping.py"
CLIENT, PYGAME = "websocket_client_example.py", "pygame_websocket.py"
SERVER, SINGLE = "fastapi_example.py", "simple_transcription_test.py"
LIVE, BROWSER = "simple_audio_transcription.py", "speech_to_text_webrtc.py"
SAMPLE = "samples/speech.wav"

# ------------------------------------------------------------------------- what is printed


DIFFERS = [  # what is quoted, and what may be printed in its place
    (r"^ *\d+ ms ", r" *\d+ ms "),
    (r"[\da-f]{2}(?: [\da-f]{2}){3} \[binary", r".+ \[\w+"),  # four bytes that may look like text
    (r"\.\.\.$", ".*"),
    (r"\b(?:10|ten) minutes", r"(?:10|ten) minutes"),  # a model may write it in either way
    (r"\d+", r"\d+"),
]
ANY_OF_THEM = re.compile("|".join(f"({quoted})" for quoted, _ in DIFFERS))


def as_pattern(lines: list[str]) -> str:
    """Return a regular expression for quoted lines; a line of "..." stands for any lines."""
    return "".join(r"(?:.*\n)*?" if line == "..." else line_as_pattern(line) for line in lines)


def line_as_pattern(line: str) -> str:
    pattern, end = "", 0
    for found in ANY_OF_THEM.finditer(line):
        assert found.lastindex
        pattern += re.escape(line[end : found.start()]) + DIFFERS[found.lastindex - 1][1]
        end = found.end()
    return pattern + re.escape(line[end:]) + "\n"


SESSIONS = [
    (document, block.lines[0].removeprefix("$ "), block.lines[1:])
    for document in NAMES
    for block in blocks(document)
    if block.kind == "console"
]


@contextmanager
def what_it_needs(command: str, folder: Path) -> Iterator[None]:
    """Run the server that a command talks to, at the port where the command looks for it."""
    with ExitStack() as servers:
        if CLIENT in command:
            servers.enter_context(lesson_server(folder, ECHO, 8765))
        elif SINGLE in command or LIVE in command:
            server = RunningLesson(folder / "lesson5.log", SERVER, {})
            servers.callback(server.kill)
            server.says("Uvicorn running on http://127.0.0.1:8000 ")
        yield


def say_hello(replies: int) -> None:
    """Be the client in the second terminal: say hello, wait for the replies, and leave."""
    with connect("ws://127.0.0.1:8765", proxy=None) as client:
        client.send("hello")
        for _ in range(replies):
            client.recv(20)


@pytest.mark.parametrize(("document", "command", "quoted"), SESSIONS)
def test_what_is_quoted_is_what_is_printed(
    document: str, command: str, quoted: list[str], tmp_path: Path
) -> None:
    if command == "make demo":
        command = "python samples/demo.py"  # what make runs once everything is set up
        assert f"\t@{command.replace('python', '$(BIN)/python')}" in MAKEFILE
    log, pattern = tmp_path / "output", as_pattern(quoted)
    environment = lesson_environment(
        {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    )

    with what_it_needs(command, tmp_path), log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            if ECHO in command or PING in command or SERVER in command:  # they never end
                if SERVER not in command:
                    wait_until(lambda: "Listening" in log.read_text(), "the server")
                    say_hello(replies=2 if PING in command else 1)
                wait_until(lambda: re.search(pattern, log.read_text()), "what is quoted")
            else:
                assert process.wait(150) == 0, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            process.wait(30)
    assert re.search(pattern, log.read_text()), log.read_text()


# ------------------------------------------------------------- when something goes wrong


@dataclass
class Student:
    """A person for whom things go wrong. What a program then says is returned."""

    folder: Path
    run_lesson: RunLesson
    start_service: StartService
    request: pytest.FixtureRequest

    def run(self, lesson: str, *arguments: str, **env: str) -> str:
        ended = self.run_lesson(lesson, *arguments, env=env, input="hello\n")
        return ended.stdout + ended.stderr

    def python(self, *arguments: str) -> str:
        command = [sys.executable, *arguments]
        env = lesson_environment()
        ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        return ended.stdout + ended.stderr

    def has_a_file(self, name: str, text: str = "") -> Path:
        (self.folder / name).write_text(text)
        return self.folder / name

    def microphone(self) -> dict[str, str]:
        microphone: Microphone = self.request.getfixturevalue("microphone")
        return microphone.environment


def in_a_notebook(student: Student) -> str:
    run = f"import runpy; runpy.run_path({ECHO!r}, run_name='__main__')"
    return student.python("-c", f"import asyncio\nasync def cell(): {run}\nasyncio.run(cell())")


def in_a_terminal_that_knows_no(program: str, student: Student) -> str:
    ended = subprocess.run(
        [str(shutil.which("bash")), "-c", f"{program} {ECHO}"],
        env={"PATH": str(student.folder)},
        capture_output=True,
        text=True,
    )
    return ended.stderr


def with_make_and_an_old_python(student: Student) -> str:
    need("make")
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, student.folder)
    old = student.has_a_file("old", "#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["make", f"PYTHON={old}", "demo"]
    ended = subprocess.run(command, cwd=student.folder, capture_output=True, text=True)
    assert ended.returncode
    return ended.stdout


def beside_a_file_called_websockets(student: Student) -> str:
    student.has_a_file("websockets.py")
    return student.python(str(student.has_a_file(ECHO, read(ECHO))))


def without_pyaudio(student: Student, lesson: str) -> str:
    student.has_a_file("pyaudio.py", """raise ModuleNotFoundError("No module named 'pyaudio'")""")
    service = student.start_service()
    env = {"SERVICE_URL": service.http_url, "WEBSOCKET_URL": service.url}
    return student.run(lesson, "--seconds", "1", PYTHONPATH=str(student.folder), **env)


def at_a_taken_port(student: Student, lesson: str) -> str:
    with socket.create_server(("127.0.0.1", 0)) as other:
        return student.run(lesson, PORT=str(other.getsockname()[1]))


def a_service_at_a_taken_port(student: Student) -> str:
    with socket.create_server(("127.0.0.1", 0)) as other:
        return student.python("-m", "service", "--port", str(other.getsockname()[1]))


def a_window_without_a_server(student: Student) -> str:
    log = student.folder / "frames"
    command = [sys.executable, "tests/rig/watched_window.py", PYGAME, str(log)]
    env = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    env |= {"WEBSOCKET_URL": f"ws://127.0.0.1:{free_port()}"}
    window = subprocess.Popen(command, cwd=ROOT, env=lesson_environment(env))
    try:
        wait_until(lambda: log.exists() and "refused" in log.read_text(), "a frame that says it")
    finally:
        window.kill()
        window.wait()
    return log.read_text()


def with_a_wrong_key(student: Student) -> str:
    service = student.start_service(API_KEY="right")
    return student.run(LIVE, "--file", SAMPLE, WEBSOCKET_URL=service.url, API_KEY="wrong")


def without_a_certificate(student: Student) -> str:
    service = student.start_service()
    return student.run(SINGLE, SERVICE_URL=service.http_url.replace("http", "https"))


def with_an_old_python(student: Student) -> str:
    command = ["-m", "pip", "download", "--no-deps", "--python-version=3.10", "-d", "."]
    command += ["--only-binary=:all:", "-r", str(ROOT / "requirements.txt")]
    return student.python(*command)


def at_a_wrong_address(student: Student) -> str:
    service = student.start_service()
    return student.run(LIVE, "--file", SAMPLE, WEBSOCKET_URL=service.url.partition("?")[0] + "s")


def when_the_service_goes_away(student: Student) -> str:
    service = student.start_service()
    log = student.folder / "output"
    env = lesson_environment({"WEBSOCKET_URL": service.url})
    with log.open("w") as output:
        command = [sys.executable, LIVE, "--file", SAMPLE]
        lesson = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output)
    try:
        wait_until(lambda: "[0:00]" in log.read_text(), "the first phrase")
        service.kill()
        wait_until(lambda: "Lost" in log.read_text(), "the message")
    finally:
        lesson.kill()
        lesson.wait()
    return log.read_text()


def with_a_muted_microphone(student: Student, lesson: str, seconds: str) -> str:
    service = student.start_service()
    env = student.microphone() | {"SERVICE_URL": service.http_url, "WEBSOCKET_URL": service.url}
    return student.run(lesson, "--seconds", seconds, **env)


def with_a_recording_of_nothing(student: Student) -> str:
    wav = write_wav(student.folder / "nothing.wav", silence(2))
    return student.run(SINGLE, "--file", str(wav), SERVICE_URL=student.start_service().http_url)


def without_a_screen(student: Student) -> str:
    return student.run(PYGAME, DISPLAY="", WAYLAND_DISPLAY="", SDL_VIDEODRIVER="offscreen")


NOWHERE = {"PULSE_SERVER": "unix:/nowhere"}  # a computer without a sound server
WAYS: dict[str, list[Callable[[Student], str]]] = {  # how a message begins: what brings it about
    "make: command not found": [lambda s: in_a_terminal_that_knows_no("make", s)],
    "Python 3.11 or newer": [with_make_and_an_old_python],
    "No matching distribution found for": [with_an_old_python],
    "python: command not found": [lambda s: in_a_terminal_that_knows_no("python", s)],
    "ModuleNotFoundError: No module": [lambda s: s.python("-I", "-S", ECHO)],
    "'websockets' is not a package": [beside_a_file_called_websockets],
    "asyncio.run()": [in_a_notebook],
    "No module named 'pyaudio'": [
        lambda s: without_pyaudio(s, SINGLE),
        lambda s: without_pyaudio(s, LIVE),
    ],
    "already in use": [
        lambda s: at_a_taken_port(s, ECHO),
        lambda s: at_a_taken_port(s, PING),
        lambda s: at_a_taken_port(s, SERVER),
        a_service_at_a_taken_port,
    ],
    "No server is running at": [
        lambda s: s.run(CLIENT, f"ws://127.0.0.1:{free_port()}"),
        a_window_without_a_server,
    ],
    "There is no screen": [without_a_screen],
    "No service is running at": [
        lambda s: s.run(SINGLE, "--file", SAMPLE),
        lambda s: s.run(LIVE, "--file", SAMPLE),
    ],
    "There is no transcription service at": [at_a_wrong_address],
    "refuses your API key": [with_a_wrong_key],
    "The service's certificate can't be trusted": [without_a_certificate],
    "Lost the connection": [when_the_service_goes_away],
    "The microphone is silent": [
        lambda s: with_a_muted_microphone(s, SINGLE, "1"),
        lambda s: with_a_muted_microphone(s, LIVE, "7"),
    ],
    "There is no microphone": [lambda s: s.run(LIVE, "--list-devices", **NOWHERE)],
    "The service heard no words": [with_a_recording_of_nothing],
}
ON_THE_PAGE = {  # the same for lesson 8: the test with a real browser that brings it about
    "The browser gives": "test_a_page_that_is_neither_https_nor_localhost_is_explained",
    "The browser does not let": "test_no_permission_is_explained",
    "The browser finds no": "test_no_microphone_is_explained",
    "Connection error": "test_a_page_whose_program_has_ended_says_so_and_comes_back",
}
SAID_BY_OTHERS = {  # messages that no test can bring about, and who says them
    "running scripts is disabled on this system": "PowerShell",
    "Microsoft Visual C++ 14.0 or greater is required": "pip",
    "portaudio.h: No such file or directory": "the C compiler",
    "Connection error": "Streamlit",
    "Incorrect API key provided": "OpenAI",
    "You exceeded your current quota": "OpenAI",
    "Cannot connect to the Docker daemon": "Docker",
    "port is already allocated": "Docker",
    'could not select device driver "nvidia"': "Docker",
    "is unhealthy": "Docker",
    "NET::ERR_CERT_AUTHORITY_INVALID": "Chrome",
    "HTTP ERROR 502": "Chrome",
    "Caddyfile: permission denied": "Docker",
}


@pytest.mark.parametrize("message", messages("README.md"))
def test_every_message_of_the_readme_comes_when_the_readme_says_so(
    message: str,
    run_lesson: RunLesson,
    start_service: StartService,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if way := next((way for way in WAYS if message.startswith(way)), ""):
        pattern = re.sub(r"\d+", r"\\d+", re.escape(message))
        for number, happens in enumerate(WAYS[way]):
            folder = tmp_path / str(number)
            folder.mkdir()
            said = happens(Student(folder, run_lesson, start_service, request))
            assert re.search(pattern, said), said
    elif test := next((ON_THE_PAGE[way] for way in ON_THE_PAGE if message.startswith(way)), ""):
        assert message in SAID_BY_OTHERS or any(message in text for text in strings(BROWSER))
        tests = ast.parse((ROOT / "tests/lessons/test_streamlit_lesson.py").read_text())
        functions = {node.name: node for node in tests.body if isinstance(node, ast.FunctionDef)}
        expected = [text for text in texts_in(functions[test]) if len(text) > 10]
        assert any(text in message for text in expected), expected
    else:
        assert message in SAID_BY_OTHERS


@pytest.mark.parametrize("document", NAMES[1:])
def test_every_message_of_the_other_documents_is_said_by_somebody(document: str) -> None:
    programs = [*LESSONS, *(f"service/{path.name}" for path in (ROOT / "service").glob("*.py"))]
    said = [text for program in programs for text in strings(program)]
    for message in messages(document):
        is_file = message in LESSONS
        assert is_file or message in SAID_BY_OTHERS or any(message in each for each in said), (
            message
        )


def strings(program: str) -> list[str]:
    return texts_in(ast.parse(read(program)))


def texts_in(tree: ast.AST) -> list[str]:
    """Return every text in a piece of Python, put together where it is written in parts."""
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [value for value in values if isinstance(value, str)]


def test_every_way_to_a_message_is_used() -> None:
    in_the_readme = messages("README.md")
    for way in [*WAYS, *ON_THE_PAGE]:
        assert [message for message in in_the_readme if message.startswith(way)], way
    everywhere = {message for document in NAMES for message in messages(document)}
    assert set(SAID_BY_OTHERS) <= everywhere
