"""README.md and docs/*.md are executable: their commands, outputs, messages, names and links hold.

In a block marked "console" the first line is a command and the rest is what it prints; that is run,
with the service or the server that it needs. Digits may differ, "..." stands for anything.
"""

import ast
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from microphone import Microphone
from running_lessons import ROOT, RunLesson, free_port, lesson_environment
from running_service import StartService
from speech import HELLO as SAMPLE
from speech import silence, write_wav
from websockets.sync.client import connect
from wires import lesson_server, wait_until

README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
FILES = [
    str(path.relative_to(ROOT))
    for path in ROOT.rglob("*.*")
    if not re.match(r"\.(venv|git/|\w+_cache)", str(path.relative_to(ROOT)))
]
LESSONS = sorted(path.name for path in ROOT.glob("*.py"))
MAKEFILE = (ROOT / "Makefile").read_text()
COMPOSE = (ROOT / "compose.yml").read_text()
ECHO, PING = "websocket_server_echo.py", "websocket_server_echo_ping.py"
CLIENT, PYGAME = "websocket_client_example.py", "pygame_websocket.py"
SERVICE, SINGLE = "fastapi_example.py", "simple_transcription_test.py"
LIVE, BROWSER = "simple_audio_transcription.py", "speech_to_text_webrtc.py"
READ_BY_OTHERS = {  # settings that no lesson reads, and who does
    "COMPOSE_PROFILES": "Docker Compose",
    "PYTHONASYNCIODEBUG": "asyncio",
    "REQUESTS_CA_BUNDLE": "requests",
    "SSL_CERT_FILE": "Python's ssl",
    "SOAK": "the tests",
    "STREAMLIT_BROWSER_SERVER_ADDRESS": "Streamlit",
}

# ------------------------------------------------------------------------ what a document says


@dataclass
class Block:
    """A block of code: its kind ("sh", "console", ...) and its lines."""

    kind: str
    lines: list[str] = field(default_factory=list)


def blocks(document: str) -> list[Block]:
    """Return the blocks of a document, fenced or indented."""
    found: list[Block] = []
    is_fenced = False
    for line in (ROOT / document).read_text().splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
            if is_fenced:
                found.append(Block(line[3:].strip()))
        elif is_fenced:
            found[-1].lines.append(line)
        elif line.startswith("    "):
            if not found or found[-1].kind != "indented" or not found[-1].lines[-1]:
                found.append(Block("indented"))
            found[-1].lines.append(line[4:])
        elif found and found[-1].kind == "indented":
            found[-1].lines.append("")  # the block is over
    return found


def prose(document: str) -> str:
    """Return a document without its blocks."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(), flags=re.M | re.S)
    return re.sub(r"^    .*$", "", text, flags=re.M)


def spans(document: str) -> list[str]:
    """Return what stands between `backticks`."""
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose(document))]


PROGRAMS = (
    r"(?:(?:python3?|py|pip|make|docker|uv|sh|git|sudo|brew|streamlit|export|echo|openssl"
    r"|Set-ExecutionPolicy) |\.venv\S*[/\\]\S|\. \.venv)"
)
SETTING = r"(?:\$env:)?([A-Z][A-Z_]+)=(\"[^\"]*\"|'[^']*'|[^\s;]*)"


def commands(document: str) -> list[str]:
    """Return every line and every span that is a command, with the settings before it."""
    lines = [line.removeprefix("$ ") for block in blocks(document) for line in block.lines]
    is_command = re.compile(rf"(?:{SETTING}[; ] ?)*{PROGRAMS}")
    return [text for text in lines + spans(document) if is_command.match(text)]


# -------------------------------------------------------------------- what a command may say


def settings_read_by(name: str) -> set[str]:
    """Return the environment variables that a lesson, or compose.yml, looks at."""
    if name == "docker":
        return set(re.findall(r"\$\{([A-Z_]+)", COMPOSE))
    text = (ROOT / name).read_text()
    read = re.findall(
        r"(?:environ(?:\.get|\.setdefault)?[(\[]|whole_number\()\s*\"([A-Z_]+)\"", text
    )
    return set(read)


def flags_of(lesson: str) -> set[str]:
    return set(re.findall(r"add_argument\(\"(--[a-z-]+)\"", (ROOT / lesson).read_text()))


def check(command: str) -> None:
    """Fail if a command names anything that does not exist."""
    for part in re.split(r" \| ", command):
        names = set()
        while found := re.match(rf"(?:export )?{SETTING}[; ]*", part):
            names.add(found[1])
            part = part[found.end() :]
        program = check_words(shlex.split(part.replace("\\", "/"))) if part else ""
        known = settings_read_by(program) if program else all_settings()
        assert names <= known | set(READ_BY_OTHERS), (command, names - known)


def check_words(words: list[str]) -> str:
    """Check one command; return the lesson that it runs, "docker", or nothing."""
    words = [word for word in words if word not in ("sudo", "-3.13")]
    program, *rest = words
    match Path(program).name:
        case "uv" | "streamlit" if rest == ["run"]:
            pass  # as a name for that way to start a lesson
        case "python" if rest[:2] == ["-X", "importtime"]:
            pass
        case "python" if rest[0] == "-c":
            compile(rest[1], "<command>", "exec")
        case "python" if rest == ["samples/demo.py"]:
            assert (ROOT / rest[0]).is_file()
        case "python" | "python3" | "py" | "uv" | "streamlit" if rest and rest[0] != "-m":
            lesson, *arguments = rest[1:] if rest[0] == "run" else rest
            assert lesson in LESSONS, words
            if program == "streamlit":
                assert all(word.startswith("--server.") for word in arguments if word[:2] == "--")
            else:
                flags = {word for word in arguments if word.startswith("--")}
                assert flags <= flags_of(lesson), words
            if "--file" in arguments:
                file = arguments[arguments.index("--file") + 1]
                assert (ROOT / file).is_file() or file in MADE_UP, words
            return lesson
        case "python" | "python3" | "py" if rest:
            assert rest[1] in ("venv", "pytest", "pip", "service"), words
            assert rest[1] != "venv" or re.fullmatch(r"\.venv\S*", rest[2]), words
        case "pip":
            for word, value in pairwise(rest):
                assert word != "-r" or (ROOT / value).is_file(), words
            assert rest[0] in ("install", "wheel"), words
        case "make":
            for target in (word for word in rest if "=" not in word):
                assert re.search(rf"^{target}:", MAKEFILE, re.M), words
        case "docker" if rest:
            check_compose(rest)
            return "docker"
        case "apt-get":
            packages = {"make", *re.findall(r"[\w-]+", MAKEFILE)}
            assert rest[0] in ("install", "update") and set(rest[1:]) <= packages, words
        case "brew":
            assert rest[0] == "install" and {*rest[1:]} <= {"portaudio", "python@3.13"}, words
            assert "brew install portaudio" in MAKEFILE
        case "sh":
            assert (ROOT / rest[0]).is_file(), words
        case "git":
            assert rest[0] == "checkout" and rest[1] in {*LESSONS, *MADE_UP}, words
        case "" | "Activate.ps1":
            assert "activate" in words[-1].lower(), words
        case "grep" | "echo" | "openssl" | "Set-ExecutionPolicy" | "docker" | "sh" | "systemctl":
            pass
        case _:
            raise AssertionError(f"{words}: what is this?")
    return ""


def check_compose(words: list[str]) -> None:
    assert words.pop(0) == "compose", words
    services = set(re.findall(r"^  ([\w-]+):$", COMPOSE, re.M))
    profiles = set(re.findall(r"profiles: \[(\w+)\]", COMPOSE))
    while words[0].startswith("--"):
        assert words.pop(0) == "--profile"
        assert words.pop(0) in profiles | {"*"}
    verb = words.pop(0)
    assert verb in ("up", "down", "pull", "build", "logs", "exec", "version", "stop", "kill"), verb
    if "--scale" in words:
        assert words[words.index("--scale") + 1].split("=")[0] in services
    plain = [word for word in words if not word.startswith("-") and "=" not in word]
    if verb == "down":
        plain = []  # --rmi all
    if verb == "exec":
        plain = plain[:1]
    assert set(plain) <= services, words


def all_settings() -> set[str]:
    of_make = set(re.findall(r"\$[({]+([A-Z_]+)", MAKEFILE))
    return of_make.union(*(settings_read_by(name) for name in [*LESSONS, "docker"]))


@pytest.mark.parametrize("document", NAMES)
class TestEveryDocument:
    def test_every_command_is_right(self, document: str) -> None:
        for command in commands(document):
            check(command)

    def test_every_file_it_names_exists(self, document: str) -> None:
        text = re.sub(r"https?://[^\s)]+", "", (ROOT / document).read_text())
        for name in re.findall(r"\.?\b[\w/-]+\.(?:py|txt|yml|toml|wav|sh|md|png)\b", text):
            assert any(f"/{path}".endswith(f"/{name}") for path in FILES) or name in MADE_UP, name

    def test_every_setting_it_names_is_read_somewhere(self, document: str) -> None:
        constants = set(
            re.findall(r"^([A-Z][A-Z_]+) =", "\n".join(map(read_lesson, LESSONS)), re.M)
        )
        known = all_settings() | constants | set(READ_BY_OTHERS)
        lines = [line for block in blocks(document) for line in block.lines]
        alone = [line for line in lines if re.fullmatch(SETTING, line)]  # for a file .env
        for span in spans(document) + alone:
            for name in re.findall(rf"(?:^|[ ;])({SETTING}|[A-Z]+_[A-Z_]+$)", span):
                assert (name[1] or name[0]) in known, span

    def test_every_link_leads_somewhere(self, document: str) -> None:
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / document).read_text()):
            path, _, anchor = link.partition("#")
            target = ((ROOT / document).parent / path).resolve() if path else ROOT / document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link

    def test_every_block_says_what_it_is(self, document: str) -> None:
        known = {"sh", "powershell", "console", "mermaid", "indented", "diff", "text", ""}
        assert {block.kind for block in blocks(document)} <= known


@pytest.mark.parametrize(
    "wrong",
    [
        "python websocket_server.py",
        "python simple_transcription_test.py --minutes 5",
        "python websocket_server_echo.py --port 8766",
        "PROT=8766 python websocket_server_echo.py",
        '$env:WEBSOCKET_URL="ws://127.0.0.1"; python simple_transcription_test.py',
        "export OPEN_API_KEY=...",
        "python simple_transcription_test.py --file samples/song.wav",
        "pip install -r requirement.txt",
        "sudo apt-get install portaudio20-dev",
        "make coffee",
        "docker compose up whisper",
        "docker compose --profile room up",
        "echo hello | python websocket_client.py",
    ],
)
def test_a_command_that_is_wrong_would_be_noticed(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check(wrong)


MADE_UP = {  # files that need not exist
    "NAME.py",  # any
    "websockets.py",  # one that had better not
    "silence.wav",  # one that a lab makes
}


def read_lesson(name: str) -> str:
    return (ROOT / name).read_text()


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_lesson_stands_in_the_table_with_its_command() -> None:
    rows = re.findall(
        r"^\| (\d) \| \[(.+?)\]\((.+?)\) \| .+? \| `(.+?)` \|", README.read_text(), re.M
    )
    assert [row[0] for row in rows] == list("12345678")
    assert sorted(row[1] for row in rows) == LESSONS
    for number, name, link, command in rows:
        assert name == link and command == f"python {name}"
        assert read_lesson(name).split('"""')[1].startswith(f"Lesson {number}: ")


def test_every_command_of_make_stands_in_the_readme() -> None:
    text = README.read_text()
    packages = re.findall(r"PACKAGES := ((?:.*\\\n)*.*)", MAKEFILE)
    assert len(packages) == 2
    for names in packages:
        assert "apt-get install " + " ".join(re.findall(r"[\w-]+", names)) in text
    for command in (
        "brew install portaudio",
        "python3 -m venv .venv",
        ".venv/bin/pip install -r requirements.txt",
        ".venv/bin/python samples/demo.py",
        ".venv/bin/pip install -r tests/requirements.txt",
        "python3 -m venv .venv-openai",
        '.venv-openai/bin/pip install "openai[realtime]"',
        ".venv/bin/python -m pytest",
    ):
        assert command in text, command


@pytest.mark.parametrize("number", [7, 8])
def test_the_picture_of_a_lesson_names_functions_that_it_has(number: int) -> None:
    section = (
        README.read_text().partition(f"\n## How lesson {number} works\n")[2].partition("\n## ")[0]
    )
    text = read_lesson({7: LIVE, 8: BROWSER}[number])
    names = re.findall(r"(\w+)\(\)", section)
    assert len(names) >= 6
    for name in names:
        assert re.search(rf"def {name}\(", text), name
    milliseconds = re.search(r"CHUNK_MS = (\d+)", text)
    assert not milliseconds or f"{milliseconds[1]} ms" in section


# ------------------------------------------------------------------------- what is printed


DIFFERS = [  # what is quoted, and what may be printed in its place
    (r"^ *\d+ ms ", r" *\d+ ms "),
    (r"[\da-f]{2}(?: [\da-f]{2}){3} \[binary", r".+ \[\w+"),  # four bytes that may look like text
    (r"[\w+/]{20,}=+", r"[\w+/]+=+"),
    (r"\.\.\.$", ".*"),
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
def what_it_needs(command: str, start_service: StartService, folder: Path) -> Iterator[None]:
    """Run what a command talks to, at the port where it looks for it."""
    if CLIENT in command:
        with lesson_server(folder, ECHO, 8765):
            yield
    else:
        if SINGLE in command or LIVE in command:
            start_service(WHISPER_MODEL="", PORT="8000")
        yield


def say_hello(replies: int) -> None:
    """Be the client in the second terminal: say hello, wait for the replies, and leave."""
    with connect("ws://127.0.0.1:8765", proxy=None) as client:
        client.send("hello")
        for _ in range(replies):
            client.recv(20)


@pytest.mark.parametrize(("document", "command", "quoted"), SESSIONS)
def test_what_is_quoted_is_what_is_printed(
    document: str, command: str, quoted: list[str], start_service: StartService, tmp_path: Path
) -> None:
    if command == "make demo":
        command = "python samples/demo.py"  # what make runs when all is set up
        assert f"\t@{command.replace('python', '$(BIN)/python')}" in MAKEFILE
    log, pattern = tmp_path / "output", as_pattern(quoted)
    environment = lesson_environment(
        {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    )

    with what_it_needs(command, start_service, tmp_path), log.open("w") as output:
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
            if ECHO in command or PING in command or SERVICE in command:  # they never end
                wait_until(lambda: "Listening" in log.read_text(), "the server")
                if SERVICE not in command:
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

MESSAGES = re.findall(
    r"^\| `(.+?)` \|", README.read_text().partition("\n## When something goes wrong\n")[2], re.M
)


@dataclass
class Student:
    """Somebody with whom things go wrong: what a program then says, on the way that it is run."""

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


def in_a_new_terminal(student: Student) -> str:
    ended = subprocess.run(
        [str(shutil.which("bash")), "-c", f"python {ECHO}"],
        env={"PATH": str(student.folder)},
        capture_output=True,
        text=True,
    )
    return ended.stderr


def beside_a_file_called_websockets(student: Student) -> str:
    student.has_a_file("websockets.py")
    return student.python(str(student.has_a_file(ECHO, read_lesson(ECHO))))


def without_pyaudio(student: Student) -> str:
    missing = """raise ModuleNotFoundError("No module named 'pyaudio'")"""
    student.has_a_file("pyaudio.py", missing)
    url = student.start_service().http_url
    return student.run(SINGLE, PYTHONPATH=str(student.folder), SERVICE_URL=url)


def at_a_taken_port(student: Student, lesson: str) -> str:
    with socket.create_server(("127.0.0.1", 0)) as other:
        return student.run(lesson, PORT=str(other.getsockname()[1]))


def with_a_wrong_key(student: Student) -> str:
    service = student.start_service(API_KEY="right")
    return student.run(SINGLE, SERVICE_URL=service.http_url, API_KEY="wrong")


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
        wait_until(lambda: "hello world" in log.read_text(), "the first phrase")
        service.kill()
        wait_until(lambda: "gone" in log.read_text(), "the message")
    finally:
        lesson.kill()
        lesson.wait()
    return log.read_text()


def with_a_muted_microphone(student: Student, lesson: str, seconds: str) -> str:
    service = student.start_service()
    env = student.microphone() | {"SERVICE_URL": service.http_url, "WEBSOCKET_URL": service.url}
    return student.run(lesson, "--seconds", seconds, **env)


def without_a_microphone(student: Student) -> str:
    service = student.start_service()
    return student.run(SINGLE, SERVICE_URL=service.http_url, PULSE_SERVER="unix:/nowhere")


def with_a_recording_of_nothing(student: Student) -> str:
    wav = write_wav(student.folder / "nothing.wav", silence(2))
    return student.run(SINGLE, "--file", str(wav), SERVICE_URL=student.start_service().http_url)


def without_internet(student: Student) -> str:
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(student.folder)}
    return student.run(SERVICE, WHISPER_MODEL="small-int8", PORT=str(free_port()), **env)


def without_a_screen(student: Student) -> str:
    return student.run(PYGAME, DISPLAY="", WAYLAND_DISPLAY="", SDL_VIDEODRIVER="offscreen")


NOWHERE = "127.0.0.1:9"
WAYS: dict[str, Callable[[Student], str]] = {  # how a message begins: what brings it about
    "python: command not found": in_a_new_terminal,
    "ModuleNotFoundError: No module named 'websockets'": lambda s: s.python("-I", "-S", ECHO),
    "ModuleNotFoundError: No module named 'websockets.asyncio'": beside_a_file_called_websockets,
    "RuntimeError: asyncio.run()": in_a_notebook,
    "No matching distribution found for": with_an_old_python,
    "No module named 'pyaudio'": without_pyaudio,
    "Cannot listen on 127.0.0.1:8765": lambda student: at_a_taken_port(student, ECHO),
    "Cannot listen at 127.0.0.1:8000": lambda student: at_a_taken_port(student, SERVICE),
    "No server is running": lambda student: student.run(CLIENT, f"ws://{NOWHERE}"),
    "There is no screen": without_a_screen,
    "No service is running at http:": lambda s: s.run(SINGLE, "--file", SAMPLE),
    "Nothing answers at ws:": lambda student: student.run(
        LIVE, "--file", SAMPLE, WEBSOCKET_URL=f"ws://{NOWHERE}/v1/realtime?intent=transcription"
    ),
    "Wrong or missing API key": with_a_wrong_key,
    "The service's certificate can't be trusted": without_a_certificate,
    "answers with HTTP status": at_a_wrong_address,
    "The service is gone": when_the_service_goes_away,
    "The microphone is silent (": lambda student: with_a_muted_microphone(student, SINGLE, "1"),
    "The microphone is silent.": lambda student: with_a_muted_microphone(student, LIVE, "5"),
    "No Default Input Device": without_a_microphone,
    "The service heard no words": with_a_recording_of_nothing,
    "is neither a model name": lambda student: student.run(SERVICE, WHISPER_MODEL="smal", PORT="0"),
    "Cannot download the speech model": without_internet,
}
ON_THE_PAGE = {  # the same for lesson 8: the test with a real browser that brings it about
    "The browser gives": "test_a_page_that_is_neither_https_nor_localhost_is_explained",
    "The browser does not let": "test_no_permission_is_explained",
    "The browser finds no": "test_no_microphone_is_explained",
    "Connection error": "test_a_page_whose_program_has_ended_says_so_and_comes_back",
}
OF_STREAMLIT = "Connection error"  # the one message that is not the lesson's


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_of_the_table_comes_when_the_table_says_so(
    message: str,
    run_lesson: RunLesson,
    start_service: StartService,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    begins = max((way for way in WAYS if message.startswith(way)), key=len, default="")
    if begins:
        said = WAYS[begins](Student(tmp_path, run_lesson, start_service, request))
        pattern = re.sub(r"\d+", r"\\d+", re.escape(message))
        assert re.search(pattern, said), said
        return
    test = next(test for begins, test in ON_THE_PAGE.items() if message.startswith(begins))
    assert message == OF_STREAMLIT or any(message in text for text in strings(BROWSER))
    tests = ast.parse((ROOT / "tests/lessons/test_streamlit_lesson.py").read_text())
    functions = {node.name: node for node in tests.body if isinstance(node, ast.FunctionDef)}
    expected = [text for text in texts_in(functions[test]) if len(text) > 10]
    assert any(text in message for text in expected), expected


def strings(lesson: str) -> list[str]:
    return texts_in(ast.parse(read_lesson(lesson)))


def texts_in(tree: ast.AST) -> list[str]:
    """Return every text in a piece of Python, put together where it is written in parts."""
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [value for value in values if isinstance(value, str)]


def test_the_table_has_every_way() -> None:
    assert len(MESSAGES) == len(WAYS) + len(ON_THE_PAGE)
