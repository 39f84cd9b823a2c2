"""Lesson 3 at a terminal, typed into; in a pipe; and while its server comes and goes."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pexpect
import pyte
import pytest
import trustme
from running_lessons import (
    ROOT,
    STRICT_PYTHON,
    OpenLesson,
    RunLesson,
    free_port,
    lesson_environment,
    need,
)
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from wires import PATIENCE, lesson_server, wait_until

LESSON = "websocket_client_example.py"
ECHO, PING = "websocket_server_echo.py", "websocket_server_echo_ping.py"
AT_ONCE = 3.0  # seconds; one is the promise, the rest is for a busy machine
COLUMNS, ROWS = 60, 30


class Terminal(pyte.Screen):
    """A screen that tells a program where its cursor is, as every terminal does."""

    answer: Callable[[str], int]

    def write_process_input(self, data: str) -> None:
        self.answer(data)


class Person:
    """Somebody who types at the lesson's terminal and reads its screen."""

    def __init__(self, terminal: "pexpect.spawn[str]") -> None:
        self.terminal = terminal
        self.screen = Terminal(COLUMNS, ROWS)
        self.screen.answer = terminal.send
        self.stream = pyte.Stream(self.screen)

    def types(self, text: str) -> None:
        self.terminal.send(text)

    def rows(self) -> list[str]:
        """Return what the screen shows now, without the empty rows."""
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                self.stream.feed(self.terminal.read_nonblocking(2**16, timeout=0.05))
        return [row.rstrip() for row in self.screen.display if row.strip()]

    def sees(self, *last_rows: str) -> None:
        """Wait until these are the last rows on the screen, character by character."""
        deadline = time.monotonic() + PATIENCE
        while (shown := self.rows()[-len(last_rows) :]) != list(last_rows):
            assert time.monotonic() < deadline, f"{shown} instead of {list(last_rows)}"

    def sees_somewhere(self, text: str) -> None:
        wait_until(lambda: text in "".join(self.rows()), f"{text!r} on the screen")

    def is_at_the_end_of(self, row: str) -> None:
        """Wait until the cursor is behind this row, where the next letter will appear."""

        def cursor() -> tuple[str, int]:
            self.rows()
            return self.screen.display[self.screen.cursor.y].rstrip(), self.screen.cursor.x

        wait_until(lambda: cursor() == (row, len(row)), f"the cursor at the end of {row!r}")

    def leaves(self, key: str) -> None:
        """Press Ctrl-C or Ctrl-D: the lesson ends at once, with a word and without an error."""
        pressed = time.monotonic()
        self.terminal.sendcontrol(key)
        wait_until(lambda: self.rows() and not self.terminal.isalive(), "the end")
        assert time.monotonic() - pressed < AT_ONCE
        assert self.rows()[-1] == "Left."
        assert "Traceback" not in "".join(self.rows())
        assert self.terminal.exitstatus == 0


class Partner:
    """A server of the test's own: it keeps what it hears and says what it is told."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, echoes: bool = False) -> None:
        self.heard: list[str | bytes] = []
        self.connections: list[ServerConnection] = []
        self.echoes = echoes
        self.server = serve(self.listen, "127.0.0.1", port, ssl=tls)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def listen(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        with contextlib.suppress(ConnectionClosed):
            for message in connection:
                self.heard.append(message)
                if self.echoes:
                    connection.send(message)

    def says(self, message: str | bytes) -> None:
        wait_until(lambda: self.connections, "a client")
        self.connections[-1].send(message)

    def hears(self, *messages: str) -> None:
        wait_until(lambda: self.heard == list(messages), f"{messages} instead of {self.heard}")

    def goes(self) -> None:
        """End like a program that is killed: all its sockets close."""
        self.server.shutdown()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def url(port: int) -> str:
    return f"ws://127.0.0.1:{port}"


@pytest.fixture
def partner(port: int) -> Iterator[Partner]:
    running = Partner(port)
    yield running
    running.goes()


@pytest.fixture
def person(open_lesson: OpenLesson) -> Callable[..., Person]:
    """Start the lesson at a terminal: person(*arguments, env=...)."""

    def sit_down(*arguments: str, env: dict[str, str] | None = None) -> Person:
        env = {"PROMPT_TOOLKIT_NO_CPR": "0"} | (env or {})  # the terminal here does answer
        terminal = open_lesson(LESSON, *arguments, env=env, columns=COLUMNS)
        terminal.setwinsize(ROWS, COLUMNS)
        return Person(terminal)

    return sit_down


# --- at a terminal ---


def test_a_typed_line_is_sent_and_its_echo_shown(
    person: Callable[..., Person], tmp_path: Path, port: int, url: str
) -> None:
    with lesson_server(tmp_path, ECHO, port) as server:
        student = person(url)
        student.sees(f"Connected to {url} (Ctrl-C to leave)", ">>>")
        student.types("hello\n")
        student.sees(">>> hello", "<<< hello", ">>>")
        student.types("grüße 🙂\n")
        server.says("said 'grüße 🙂'")
        student.sees_somewhere("<<< grüße 🙂")
        student.leaves("c")
        server.says(r"left \(close code 1000\)")


def test_a_message_that_arrives_leaves_the_half_typed_line_whole(
    person: Callable[..., Person], partner: Partner, url: str
) -> None:
    student = person(url)
    student.sees(f"Connected to {url} (Ctrl-C to leave)", ">>>")
    student.types("half a")
    student.sees(">>> half a")
    partner.says("news")
    student.sees("<<< news", ">>> half a")
    student.is_at_the_end_of(">>> half a")
    student.types("\x7f\x7f\x7f\x7fway")  # four backspaces, then the rest
    student.sees("<<< news", ">>> haway")
    partner.says("more")
    student.sees("<<< news", "<<< more", ">>> haway")
    student.types("\n")
    partner.hears("haway")
    student.sees("<<< more", ">>> haway", ">>>")


def test_the_half_typed_line_stays_whole_at_the_bottom_of_a_full_screen(
    person: Callable[..., Person], partner: Partner, url: str
) -> None:
    student = person(url)
    student.sees(f"Connected to {url} (Ctrl-C to leave)", ">>>")
    student.types("half typed")
    for number in range(2 * ROWS):
        partner.says(f"message {number}")
    student.sees(
        *[f"<<< message {number}" for number in range(ROWS + 1, 2 * ROWS)], ">>> half typed"
    )
    student.is_at_the_end_of(">>> half typed")


def test_long_and_wide_messages_and_those_of_several_lines_are_shown_in_full(
    person: Callable[..., Person], partner: Partner, url: str
) -> None:
    student = person(url)
    student.sees(f"Connected to {url} (Ctrl-C to leave)", ">>>")
    student.types("half")
    partner.says("a" * COLUMNS)
    student.sees("<<< " + "a" * (COLUMNS - 4), "aaaa", ">>> half")
    partner.says("first\nsecond")
    student.sees("<<< first", "second", ">>> half")
    partner.says("字" * COLUMNS)
    wait_until(lambda: "".join(student.rows()).count("字") == COLUMNS, "every 字")
    student.sees(">>> half")
    partner.says(b"12345")
    student.sees("<<< b'12345'", ">>> half")
    partner.says("\x1b[2J\x07gone?")  # would clear the screen and ring the bell
    student.sees("<<< ?[2Jgone?", ">>> half")
    student.is_at_the_end_of(">>> half")


def test_the_same_holds_in_tmux(partner: Partner, url: str) -> None:
    """A terminal that many people use, as a second opinion."""
    need("tmux")
    tmux = ["tmux", "-L", f"steps{os.getpid()}", "-f", "/dev/null"]

    def pane() -> list[str]:
        shown = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True)
        return [row.rstrip() for row in shown.stdout.splitlines() if row.strip()]

    command = [*STRICT_PYTHON, LESSON, url]
    size = ["-x", str(COLUMNS), "-y", "8"]
    subprocess.run(
        [*tmux, "new-session", "-d", *size, *command], cwd=ROOT, env=lesson_environment()
    )
    try:
        wait_until(lambda: pane()[-1:] == [">>>"], "the prompt")
        subprocess.run([*tmux, "send-keys", "-l", "half"])
        wait_until(lambda: pane()[-1:] == [">>> half"], "the half line")
        for number in range(10):
            partner.says(f"message {number}")
        expected = [*[f"<<< message {number}" for number in range(3, 10)], ">>> half"]
        wait_until(lambda: pane() == expected, "seven messages above the half line")
        subprocess.run([*tmux, "send-keys", "BSpace", "BSpace", "llo", "Enter"])
        partner.hears("hallo")
    finally:
        subprocess.run([*tmux, "kill-server"])


@pytest.mark.parametrize("key", ["c", "d"])
def test_ctrl_c_and_ctrl_d_leave_at_once(
    key: str, person: Callable[..., Person], partner: Partner, url: str
) -> None:
    student = person(url)
    student.sees(f"Connected to {url} (Ctrl-C to leave)", ">>>")
    student.leaves(key)
    wait_until(lambda: partner.connections[0].close_code == 1000, "a goodbye with 1000")


@pytest.mark.parametrize("key", ["c", "d"])
def test_they_leave_at_once_when_nothing_is_connected(
    key: str, person: Callable[..., Person], url: str
) -> None:
    student = person(url)
    student.sees_somewhere("Retrying ...")
    student.leaves(key)


@pytest.mark.parametrize("key", ["c", "d"])
def test_they_leave_at_once_when_the_server_hangs(
    key: str, person: Callable[..., Person], tmp_path: Path, port: int, url: str
) -> None:
    with lesson_server(tmp_path, ECHO, port) as server:
        student = person(url)
        student.sees(f"Connected to {url} (Ctrl-C to leave)", ">>>")
        server.process.send_signal(signal.SIGSTOP)  # it will not answer the goodbye
        student.leaves(key)
        server.process.send_signal(signal.SIGCONT)


# --- when the server comes and goes ---


def test_a_killed_server_is_reported_and_found_again(
    person: Callable[..., Person], tmp_path: Path, port: int, url: str
) -> None:
    student = person(url)
    student.sees_somewhere(f"No server is running at {url} (connection refused).")
    student.sees_somewhere(f"Start one in another terminal:  python {ECHO}")
    with lesson_server(tmp_path, ECHO, port) as first:
        student.sees_somewhere(f"Connected to {url}")
        first.kill()
        student.sees_somewhere("The connection ended (close code 1006).")
        student.types("typed meanwhile\n")
        student.types("half")
    with lesson_server(tmp_path, ECHO, port):
        student.sees(f"Connected to {url} (Ctrl-C to leave)", "<<< typed meanwhile", ">>> half")
        student.types(" full\n")
        student.sees(">>> half full", "<<< half full", ">>>")
        student.leaves("c")


def test_it_says_once_what_is_wrong_however_often_it_retries(person: Callable[..., Person]) -> None:
    """The web server here answers each attempt to connect with an HTTP error, and counts them."""
    attempts: list[float] = []

    class Busy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            attempts.append(time.monotonic())
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        student = person(f"ws://127.0.0.1:{site.server_port}")
        student.sees_somewhere("Retrying ...")
        wait_until(lambda: student.rows() and len(attempts) >= 4, "four attempts")
        site.shutdown()
    shown = "".join(student.rows())
    assert shown.count("HTTP 404") == shown.count("Retrying ...") == 1


def test_a_mistake_in_the_code_is_shown_as_python_shows_it(
    partner: Partner, url: str, tmp_path: Path, run_lesson: RunLesson
) -> None:
    """And not wrapped into a group of exceptions, as asyncio would like to."""
    mistaken = tmp_path / LESSON
    source = (ROOT / LESSON).read_text(encoding="utf-8")
    mistaken.write_text(source.replace("{message!s}", "{mesage!s}"), encoding="utf-8")
    partner.echoes = True
    result = run_lesson(str(mistaken), url, input="hello\n")
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1].startswith("NameError: name 'mesage' is not defined")


# --- in a pipe ---


@pytest.mark.parametrize(("server", "env"), [(ECHO, {}), (PING, {"PING_SECONDS": "0.001"})])
def test_a_pipe_sends_each_line_and_ends_after_the_last_echo(
    server: str, env: dict[str, str], tmp_path: Path, port: int, url: str, run_lesson: RunLesson
) -> None:
    lines = ["hi", "", "🙂 zwei", *map(str, range(500))]
    with lesson_server(tmp_path, server, port, env):
        result = run_lesson(LESSON, url, input="\n".join(lines))
    assert result.returncode == 0, result.stderr
    echoes = [row.removeprefix("<<< ") for row in result.stdout.splitlines() if '"ping"' not in row]
    assert echoes[1:-1] == lines  # between "Connected to ..." and "Left."
    assert result.stderr == ""


def test_what_a_server_sends_cannot_command_the_terminal_behind_a_pipe(
    partner: Partner, url: str
) -> None:
    command = ["-c", f"printf 'one\\n' | {sys.executable} {LESSON} {url}"]
    terminal: pexpect.spawn[str] = pexpect.spawn(
        "sh", command, cwd=str(ROOT), env=lesson_environment(), encoding="utf-8", timeout=PATIENCE
    )
    terminal.expect("Connected")
    partner.says("\x1b[2J\x1b]0;another title\x07gone?\none")
    partner.says("one")
    terminal.expect(pexpect.EOF)
    assert "<<< ?[2J?]0;another title\x07gone?\r\none\r\n<<< one" in str(terminal.before)


def test_help_shows_the_docstring(run_lesson: RunLesson) -> None:
    result = run_lesson(LESSON, "--help")
    assert "What you learn" in result.stdout and result.returncode == 0


def test_it_ends_well_when_nobody_reads_its_output_any_more(
    tmp_path: Path, port: int, url: str
) -> None:
    """As in: python websocket_client_example.py | head -2"""
    with lesson_server(tmp_path, ECHO, port):
        head = subprocess.Popen(
            [*STRICT_PYTHON, LESSON, url],
            cwd=ROOT,
            env=lesson_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert head.stdin and head.stdout and head.stderr
        assert head.stdout.readline().startswith("Connected")
        head.stdout.close()
        head.stdin.write("one\n")
        head.stdin.close()
        assert head.wait(PATIENCE) == 0
        assert head.stderr.read() == ""


def test_ctrl_c_ends_a_pipe_that_never_ends(tmp_path: Path, port: int, url: str) -> None:
    """Ctrl-C goes to every program of a pipe."""
    with lesson_server(tmp_path, ECHO, port):
        endless = subprocess.Popen(
            ["sh", "-c", f"(echo first; sleep 100) | {sys.executable} {LESSON} {url}"],
            cwd=ROOT,
            env=lesson_environment(),
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert endless.stdout and endless.stderr
        assert [endless.stdout.readline(), endless.stdout.readline()][1] == "<<< first\n"
        os.killpg(endless.pid, signal.SIGINT)
        started = time.monotonic()
        endless.wait(PATIENCE)
        assert endless.stdout.read() == "Left.\n"
        assert endless.stderr.read() == ""
        assert time.monotonic() - started < AT_ONCE


# --- addresses ---


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:{port}",  # no ws://
        "http://127.0.0.1:{port}",
        "ws://127.0.0.1:{port}x",
        "ws://127.0.0.1:99999",
        "ws://",
        "ws://127.0.0..1:{port}",
        "wss://127.0.0.1:{port}",  # the server speaks no TLS
    ],
)
def test_a_mistyped_address_gets_the_cause_and_the_remedy(
    address: str, partner: Partner, port: int, run_lesson: RunLesson
) -> None:
    address = address.format(port=port)
    result = run_lesson(LESSON, address, input="hello\n")
    assert result.returncode == 1
    assert result.stderr.startswith(f"Cannot connect to {address} (")
    assert "Does the address start with ws:// or wss://?" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_pipe_gives_up_when_no_server_is_running(url: str, run_lesson: RunLesson) -> None:
    result = run_lesson(LESSON, url, input="hello\n")
    assert result.returncode == 1
    assert result.stderr == (
        f"No server is running at {url} (connection refused).\n"
        f"Start one in another terminal:  python {ECHO}\n"
    )


def test_a_web_server_that_does_not_speak_websocket_is_named_as_such(run_lesson: RunLesson) -> None:
    class NotFound(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        result = run_lesson(LESSON, f"ws://127.0.0.1:{site.server_port}/chat", input="hello\n")
        site.shutdown()
    assert result.returncode == 1
    assert "HTTP 404" in result.stderr


def test_wss_works_only_if_the_certificate_is_trusted(
    port: int, tmp_path: Path, run_lesson: RunLesson
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    partner = Partner(port, tls, echoes=True)
    url = f"wss://127.0.0.1:{port}"
    trusting = {"SSL_CERT_FILE": str(tmp_path / "authority.pem")}
    trusted = run_lesson(LESSON, url, input="a secret\n", env=trusting)
    stranger = run_lesson(LESSON, url, input="a secret\n")
    plain = run_lesson(LESSON, f"ws://127.0.0.1:{port}", input="a secret\n")
    partner.goes()
    assert trusted.returncode == 0 and "<<< a secret" in trusted.stdout
    assert stranger.returncode == 1 and "CERTIFICATE_VERIFY_FAILED" in stranger.stderr
    assert plain.returncode == 1 and "wss://" in plain.stderr
    assert partner.heard == ["a secret"]


def test_a_proxy_for_web_pages_is_not_used(
    tmp_path: Path, port: int, url: str, run_lesson: RunLesson
) -> None:
    nowhere = dict.fromkeys(("ALL_PROXY", "all_proxy", "HTTP_PROXY"), "socks5://127.0.0.1:1")
    with lesson_server(tmp_path, ECHO, port):
        result = run_lesson(LESSON, url, input="hello\n", env=nowhere | {"NO_PROXY": ""})
    assert result.returncode == 0, result.stderr
    assert "<<< hello" in result.stdout
