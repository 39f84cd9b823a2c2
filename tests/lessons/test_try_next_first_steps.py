"""The exercises of lessons 1 to 4, done as "Try next" tells a student to do them.

Each test takes the lines out of the docstring itself, so that an exercise that no longer fits its
lesson fails here before it fails a student.
"""

import ast
import json
import re
import sys
from pathlib import Path

import pytest
from running_lessons import ROOT, OpenLesson, free_port
from screen import Window, running_screen
from websockets.sync.client import connect
from wires import PATIENCE, lesson_server, wait_until

ECHO, PING = "websocket_server_echo.py", "websocket_server_echo_ping.py"
CLIENT, PYGAME = "websocket_client_example.py", "pygame_websocket.py"
LESSONS = [ECHO, PING, CLIENT, PYGAME]
LIBRARIES = {ECHO: {"websockets"}, PING: {"websockets"}}
LIBRARIES |= {CLIENT: {"prompt_toolkit", "websockets"}, PYGAME: {"pygame", "websockets"}}
PACKAGES = {name: ["websockets>=15,<18"] for name in LESSONS}
PACKAGES[CLIENT].append("prompt-toolkit>=3.0.50,<4")
PACKAGES[PYGAME].append("pygame-ce>=2.5.2,<3")
UV = "# For uv: `uv run NAME.py` installs what this block lists."
HEADINGS = ["What you learn", "Before you start", "Run it", "You should see", "Try next"]


def exercise(lesson: str) -> str:
    """Return the text below "Try next", with its spaces."""
    source = (ROOT / lesson).read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(source), clean=False)
    assert docstring
    return docstring.partition("\nTry next\n")[2]


def told_in(text: str, pattern: str) -> tuple[str, str, str]:
    """Return the function that an exercise names, the words in its line, and the new line."""
    found = re.search(pattern + r"[:,].*\n( +\S.*)\n", text)
    assert found, f"{pattern!r} is not in:\n{text}"
    return found["function"], found["words"], found[found.lastindex or 0]


def line_with(words: str, lines: list[str], beginning: str) -> int:
    """Return where the one line with these words is, after the line that begins like this."""
    start = next(number for number, line in enumerate(lines) if line.startswith(beginning))
    ends = [number for number, line in enumerate(lines) if number > start and line[:1].strip()]
    body = range(start, ends[0]) if "def" in beginning else range(start, len(lines))
    found = [number for number in body if words in lines[number]]
    assert found, f"{words!r} is not below {beginning!r}"
    return found[0]


IN_PLACE = r'In (?P<function>\w+)\(\), write this in place of the line with "(?P<words>.+?)"'
BELOW = r'In (?P<function>\w+)\(\), below the line with "(?P<words>.+?)"'


def changed(lesson: str, folder: Path) -> Path:
    """Write a copy of the lesson in which its exercise is done."""
    text = exercise(lesson)
    lines = (ROOT / lesson).read_text(encoding="utf-8").split("\n")
    is_in_place = re.search(IN_PLACE, text) is not None
    function, words, new = told_in(text, IN_PLACE if is_in_place else BELOW)
    beginnings = [line for line in lines if re.match(rf"(async )?def {function}\(", line)]
    assert len(beginnings) == 1
    number = line_with(words, lines, beginnings[0])
    lines[number : number + 1] = [new] if is_in_place else [lines[number], new]
    if new_import := re.search(r"at the very left:\n +(.+)", text):
        lines[line_with("websockets", lines, "import asyncio")] = new_import[1]
    copy = folder / lesson
    copy.write_text("\n".join(lines), encoding="utf-8")
    return copy


def test_lesson_1_becomes_a_chat_room(tmp_path: Path) -> None:
    port = free_port()
    url = f"ws://127.0.0.1:{port}"
    with (
        lesson_server(tmp_path, changed(ECHO, tmp_path), port),
        connect(url, proxy=None) as one,
        connect(url, proxy=None) as other,
    ):
        one.send("hello")
        assert [one.recv(PATIENCE), other.recv(PATIENCE)] == ["hello", "hello"]
        other.send("hello yourself")
        assert [one.recv(PATIENCE), other.recv(PATIENCE)] == ["hello yourself"] * 2


def test_lesson_2_tells_how_many_clients_there_are(tmp_path: Path) -> None:
    port = free_port()
    url = f"ws://127.0.0.1:{port}"
    with (
        lesson_server(tmp_path, changed(PING, tmp_path), port, {"PING_SECONDS": "0.1"}),
        connect(url, proxy=None) as one,
    ):
        assert json.loads(one.recv(PATIENCE))["clients"] == 1
        with connect(url, proxy=None) as other:
            assert json.loads(other.recv(PATIENCE))["clients"] == 2


def test_lesson_3_says_who_speaks_in_the_chat_room(tmp_path: Path, open_lesson: OpenLesson) -> None:
    lesson = changed(CLIENT, tmp_path)
    (tmp_path / "ben").mkdir()
    ben_s = tmp_path / "ben" / CLIENT
    ben_s.write_text(lesson.read_text(encoding="utf-8").replace("Ada", "Ben"), encoding="utf-8")
    port = free_port()
    with lesson_server(tmp_path, changed(ECHO, tmp_path), port):
        ada = open_lesson(str(lesson), f"ws://127.0.0.1:{port}")
        ben = open_lesson(str(ben_s), f"ws://127.0.0.1:{port}")
        for student in (ada, ben):
            student.expect("Connected")
        ada.send("hello\r")
        ben.expect("<<< Ada: hello")
        ben.send("hello yourself\r")
        ada.expect("<<< Ben: hello yourself")


def test_lesson_4_rains_and_two_windows_share_one_canvas(tmp_path: Path) -> None:
    lesson = changed(PYGAME, tmp_path)
    port = free_port()
    server = {"WEBSOCKET_URL": f"ws://127.0.0.1:{port}"}
    (tmp_path / "logs").mkdir()
    with (
        running_screen() as screen,
        lesson_server(tmp_path, changed(ECHO, tmp_path), port),
    ):
        rainy = Window(screen, lesson, tmp_path / "logs/rainy", server)
        try:
            rainy.reads("Connected")
            rainy.mouse(*[(200 + 20 * step, 200) for step in range(10)])
            wait_until(lambda: rainy.is_painted((295, 300)), "color 100 pixels further down")
            wait_until(lambda: not rainy.is_painted((295, 200)), "and none where it was drawn")
        finally:
            rainy.process.kill()
        drawn = Window(screen, ROOT / PYGAME, tmp_path / "logs/drawn", server)
        other = Window(screen, ROOT / PYGAME, tmp_path / "logs/other", server)
        try:
            other.reads("Connected")
            drawn.reads("Connected")
            drawn.screen.xdotool("windowraise", drawn.id)
            drawn.mouse(*[(200 + 20 * step, 400) for step in range(10)])
            drawn.reads("0 on their way")
            drawn.key("Escape")
            drawn.ended_well()
            wait_until(lambda: other.is_painted((295, 400)), "the stroke in the other window")
        finally:
            drawn.process.kill()
            other.process.kill()


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_needs_only_what_it_says_and_stands_alone(lesson: str) -> None:
    source = (ROOT / lesson).read_text(encoding="utf-8")
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and node.level == 0
            imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names == LIBRARIES[lesson]

    lines = source.splitlines()
    assert lines[:3] == ["#!/usr/bin/env -S uv run --script", UV, "# /// script"]
    declared = dict(line.removeprefix("# ").split(" = ") for line in lines[3:5])
    packages = json.dumps(PACKAGES[lesson])
    assert declared == {"requires-python": '">=3.11"', "dependencies": packages}
    assert lines[5] == "# ///"


@pytest.mark.parametrize(("number", "lesson"), list(enumerate(LESSONS, start=1)))
def test_a_lesson_begins_with_its_headings_in_order(number: int, lesson: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / lesson).read_text(encoding="utf-8")), False)
    assert docstring and docstring.startswith(f"Lesson {number}: ")
    flush = [line for line in docstring.splitlines()[1:] if line and not line.startswith("    ")]
    assert flush == HEADINGS
    assert "terminal" in docstring.partition("Run it")[2].partition("You should see")[0]
