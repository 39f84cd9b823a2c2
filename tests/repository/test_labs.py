"""The labs of docs/labs.md: each change is made as the page says, and does what the page says.

The changes and the quoted output come from docs/labs.md itself. So a lab that no longer fits its
lesson fails here, and not in front of a class.
"""

import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import pexpect
import pytest
from microphone import Microphone
from referee import referee
from running_lessons import ROOT, OpenLesson, RunLesson, found, free_port, printed
from running_service import Service, until
from screen import Screen, Window, running_screen
from speech import spoken, write_wav
from websockets.sync.client import connect
from wires import PATIENCE, RunningLesson, lesson_server, wait_until

LABS = dict(enumerate(re.split(r"\n## \d\. ", (ROOT / "docs/labs.md").read_text())[1:], start=1))
ECHO, CLIENT = "websocket_server_echo.py", "websocket_client_example.py"
WINDOW, SERVER = "pygame_websocket.py", "fastapi_example.py"
RECORDING, LIVE = "simple_transcription_test.py", "simple_audio_transcription.py"
WAITS = 1.5  # seconds in which nothing happens, where something usually takes a millisecond
Change = tuple[str, str, str]  # lesson, old line, new line
Terminal: TypeAlias = "pexpect.spawn[str]"


def changes(lab: int) -> list[Change]:
    """Return each diff of a lab."""
    return re.findall(r"```diff\n--- (\S+)\n-(.+)\n\+(.+)\n```", LABS[lab])


def changed(folder: Path, *wanted: Change) -> Path:
    """Write a copy of the lesson in which each old line, found exactly once, is replaced."""
    lesson = wanted[0][0]
    lines = (ROOT / lesson).read_text(encoding="utf-8").split("\n")
    for name, old, new in wanted:
        assert name == lesson and lines.count(old) == 1, f"{lines.count(old)} times: {old}"
        lines[lines.index(old)] = new
    folder.mkdir(exist_ok=True)
    copy = folder / lesson
    copy.write_text("\n".join(lines), encoding="utf-8")
    return copy


def quoted(lab: int, heading: str) -> list[str]:
    """Return the lines of output that a lab quotes, first below a heading."""
    block = re.search(rf"\*\*{heading}\.\*\*(?:(?!\*\*).)*?```\n(.*?)\n```", LABS[lab], re.DOTALL)
    assert block, f"lab {lab} quotes nothing below {heading}"
    return block[1].split("\n")


def agrees(output: str, *lines: str) -> bool:
    """Tell whether the lines stand in the output in this order, whatever the numbers in them."""
    pattern = ".*".join(re.sub(r"\\?\d+", r"\\d+", re.escape(line)) for line in lines)
    return re.search(pattern, re.sub(r"\x1b.[A-Z]?|\r", "", output), re.DOTALL) is not None


@pytest.mark.parametrize("lab", LABS)
def test_a_lab_is_complete_and_can_be_undone(lab: int, tmp_path: Path) -> None:
    headings = re.findall(r"^\*\*(.+?)\.\*\*", LABS[lab], re.MULTILINE)
    assert headings == ["Question", "Change", "Type", "Before", "After", "Why", "Put it back"]
    lessons = {lesson for lesson, _, _ in changes(lab)}
    assert re.findall(r"`cp \w+\.bak (\S+)`", LABS[lab]) == list(lessons)
    for change in changes(lab):
        changed(tmp_path, change)
    assert f"def test_lab_{lab}_" in Path(__file__).read_text(), "a lab without a test"


def test_lab_1_a_server_that_waits_keeps_everybody_waiting(
    tmp_path: Path, open_lesson: OpenLesson
) -> None:
    careless, right = changes(1)
    for script, others_wait in (
        (changed(tmp_path / "careless", careless), True),
        (changed(tmp_path / "right", right), False),
    ):
        port = free_port()
        url = f"ws://127.0.0.1:{port}"
        server = open_lesson(str(script), env={"PORT": str(port)})
        server.expect("Listening")
        with connect(url, proxy=None) as one, connect(url, proxy=None) as other:
            one.send("hello")
            server.expect(r"answer\? ")
            pong = other.ping()
            assert pong.wait(WAITS if others_wait else PATIENCE) != others_wait
            if others_wait:
                with pytest.raises(TimeoutError), connect(url, proxy=None, open_timeout=WAITS):
                    pass
            else:
                with connect(url, proxy=None, open_timeout=PATIENCE):
                    pass
            server.sendline("good morning")
            assert one.recv(PATIENCE) == "good morning"
            assert pong.wait(PATIENCE)

    with lesson_server(tmp_path, ECHO, port := free_port()) as usual:
        url = f"ws://127.0.0.1:{port}"
        with connect(url, proxy=None) as one, connect(url, proxy=None) as other:
            for client, text in ((one, "hello"), (other, "me too")):
                client.send(text)
                assert client.recv(PATIENCE) == text
        assert agrees(usual.printed(), *quoted(1, "Before"))


def test_lab_2_a_message_that_is_too_long_ends_the_connection(
    tmp_path: Path, open_lesson: OpenLesson
) -> None:
    for script, heading in ((ROOT / ECHO, "Before"), (changed(tmp_path, *changes(2)), "After")):
        with lesson_server(tmp_path, script, port := free_port()):
            client = open_lesson(CLIENT, f"ws://127.0.0.1:{port}", columns=150)
            client.expect("Connected")
            client.sendline("hello")
            client.expect("<<< hello")
            client.sendline("hello everybody")
            client.expect({"Before": "<<< hello everybody", "After": "Connected"}[heading])
            output = "<<< hello" + printed(client) + str(client.after)
            assert agrees(output, *(line.partition(" to ws")[0] for line in quoted(2, heading)))
            client.close(force=True)


def test_lab_3_two_names_for_this_computer_are_two_addresses(
    tmp_path: Path, run_lesson: RunLesson
) -> None:
    localhost = {address[4][0] for address in socket.getaddrinfo("localhost", 80)}
    for script, host, heading in (
        (ROOT / ECHO, "127.0.0.1", "Before"),
        (changed(tmp_path, *changes(3)), "::1", "After"),
    ):
        port = free_port()
        server = RunningLesson(tmp_path / f"{heading}.log", script, {"PORT": str(port)})
        try:
            server.says("Listening")
            output = ""
            for name, is_there in (
                ("127.0.0.1", host == "127.0.0.1"),
                ("[::1]", host == "::1"),
                ("localhost", host in localhost),
            ):
                ended = run_lesson(CLIENT, f"ws://{name}:{port}", input="hello\n")
                assert (ended.returncode == 0) == is_there, (name, host, ended.stderr)
                assert ("<<< hello" in ended.stdout) == is_there
                output += ended.stdout + ended.stderr
            assert agrees(output, *quoted(3, heading))
        finally:
            server.kill()


def test_lab_4_a_task_that_nobody_ends_swallows_a_line(
    tmp_path: Path, open_lesson: OpenLesson
) -> None:
    for script, heading in ((ROOT / CLIENT, "Before"), (changed(tmp_path, *changes(4)), "After")):
        port = free_port()
        client = open_lesson(str(script), f"ws://127.0.0.1:{port}")
        output = ""

        def sees(text: str, client: Terminal = client) -> str:
            client.expect(text)
            return printed(client) + str(client.after)

        with lesson_server(tmp_path, ECHO, port):
            output += sees("Connected")
            client.sendline("one")
            output += sees("<<< one")
        output += sees("The connection ended")
        client.sendline("two")
        output += sees("two")
        if heading == "After":
            output += sees("Press ENTER to continue...")
            client.sendline("")
        with lesson_server(tmp_path, ECHO, port):
            output += sees("Connected")
            client.sendline("three")
            output += sees("<<< three")
        assert agrees(output, *quoted(4, heading)), output
        assert ("<<< two" in output) == (heading == "Before")
        client.close(force=True)


def waiting(window: Window) -> int:
    """Return how many strokes have not come back, as the window shows it."""
    shown = re.search(r"(\d+) on their way", window.text())
    return int(shown[1]) if shown else 0


def round_trip(window: Window) -> float:
    """Return the round trip in milliseconds, as the window shows it; 0 if there is none."""
    shown = re.search(r"round trip ([\d.]+) ms", window.text())
    return float(shown[1]) if shown else 0


@contextmanager
def opened(screen: Screen, script: Path, log: Path, port: int) -> Iterator[Window]:
    """Open the window of lesson 4 or of a copy."""
    window = Window(screen, script, log, {"WEBSOCKET_URL": f"ws://127.0.0.1:{port}"})
    try:
        yield window
    finally:
        window.process.kill()
        window.process.wait()


def test_lab_5_a_window_that_waits_has_no_network(tmp_path: Path) -> None:
    only_tick, tick_and_sleep = changes(5)
    stroke = [(100 + 20 * step, 300) for step in range(25)]

    def usual_round_trip(window: Window) -> float:
        window.reads("Connected")
        for _ in range(3):
            window.mouse(*stroke)
        wait_until(lambda: round_trip(window) > 0 and not waiting(window), "all strokes")
        assert agrees(window.text(), *quoted(5, "Before"))
        return round_trip(window)

    with (
        running_screen() as screen,
        lesson_server(tmp_path, ECHO, port := free_port()) as server,
    ):
        with opened(screen, ROOT / WINDOW, tmp_path / "right.log", port) as window:
            right = usual_round_trip(window)
        clients = server.printed().count(" connected")
        script = changed(tmp_path / "deaf", only_tick)
        with opened(screen, script, tmp_path / "deaf.log", port) as window:
            window.mouse(*stroke)
            wait_until(lambda: waiting(window) > 0, "strokes that wait")
            before = len(window.frames())
            wait_until(lambda: len(window.frames()) > before + 60, "60 frames more")
            assert agrees(window.text(), *quoted(5, "After")), window.text()
            window.key("Escape")
            window.ended_well()
            assert waiting(window) > 0 and server.printed().count(" connected") == clients
        script = changed(tmp_path / "late", tick_and_sleep)
        with opened(screen, script, tmp_path / "late.log", port) as window:
            late = usual_round_trip(window)
    assert late > 10 and late > 3 * right, (right, late)


def test_lab_6_a_wrong_sample_rate_makes_other_words(
    service: Service, microphone: Microphone, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    wav = write_wav(tmp_path / "said.wav", spoken("set a timer for three minutes"))
    env = microphone.environment | {"SERVICE_URL": service.http_url}
    for script, heading in (
        (ROOT / RECORDING, "Before"),
        (changed(tmp_path, *changes(6)), "After"),
    ):
        lesson = open_lesson(str(script), "--seconds", "4", env=env)
        lesson.expect("✓ microphone")
        microphone.say(wav)
        lesson.expect(pexpect.EOF)
        assert agrees(printed(lesson), *quoted(6, heading)), printed(lesson)
        right = "set a timer for three minutes" in printed(lesson)
        assert right == (heading == "Before")
        assert "Traceback" not in printed(lesson)


def test_lab_7_a_thread_that_does_not_knock_is_heard_late(
    service: Service, microphone: Microphone, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    careless = changed(tmp_path, *changes(7))
    lesson = open_lesson(LIVE, "--list-devices", env=microphone.environment)
    lesson.expect(r"(\d+)  default")
    options = ["--device", found(lesson), "--seconds", "600"]

    def longest_pause(script: Path) -> float:
        """Return the longest pause in sending, in ms."""
        with referee(service) as seen:
            env = microphone.environment | {"WEBSOCKET_URL": seen.url}
            lesson = open_lesson(str(script), *options, env=env)
            until(lambda: bool(seen.times) and seen.seconds > 4.5)
            lesson.sendintr()
            lesson.expect(r"\d of audio")
        pauses = [later - earlier for earlier, later in pairwise(seen.times)]
        return 1000 * max(pauses)

    assert longest_pause(ROOT / LIVE) < 500
    assert longest_pause(careless) > 900


def test_lab_7_python_finds_the_mistake_if_asked(
    service: Service, microphone: Microphone, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    careless = changed(tmp_path, changes(7)[0])
    env = {"WEBSOCKET_URL": service.url, "PYTHONASYNCIODEBUG": "1"} | microphone.environment
    env |= {"PYTHON_COLORS": "0"}  # Python 3.13 writes its tracebacks in colour
    lesson = open_lesson(str(careless), env=env)
    lesson.expect("Microphone number")
    lesson.sendline("")
    lesson.expect("How many seconds")
    lesson.sendline("600")
    lesson.expect_exact(quoted(7, "Why")[0])


@contextmanager
def lesson_5(folder: Path, script: Path) -> Iterator[dict[str, str]]:
    """Run lesson 5 or a copy of it. Yield the setting with which lesson 7 finds it."""
    port = free_port()
    server = RunningLesson(folder / f"{script.parent.name}.log", script, {"PORT": str(port)})
    try:
        server.says("Uvicorn running")
        yield {"WEBSOCKET_URL": f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription"}
    finally:
        server.kill()


def without_digits(text: str) -> list[str]:
    return re.sub(r"\b(?:ten|\d+)\b", "0", text).splitlines()  # a model may write 10 or ten


def test_lab_8_without_pauses_there_is_one_line_and_words_in_silence(
    run_lesson: RunLesson, tmp_path: Path
) -> None:
    command = re.search(r"^python -c (.+)$", LABS[8], re.MULTILINE)
    assert command
    make_silence = [sys.executable, "-c", *shlex.split(command[1])]
    subprocess.run(make_silence, cwd=tmp_path, check=True)
    files = [str(ROOT / "samples/speech.wav"), str(tmp_path / "silence.wav")]
    for script, heading in (
        (ROOT / SERVER, "Before"),
        (changed(tmp_path / "deaf to pauses", *changes(8)), "After"),
    ):
        with lesson_5(tmp_path, script) as env:
            printed = "".join(run_lesson(LIVE, "--file", file, env=env).stdout for file in files)
        assert without_digits(printed) == without_digits("\n".join(quoted(8, heading)))
