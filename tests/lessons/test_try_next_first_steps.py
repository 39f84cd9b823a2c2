"""The exercises of lessons 1 to 4, done as their "Try next" says, and what then happens.

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
LIBRARIES = {ECHO: {"websockets"}, PING: {"websockets"}, CLIENT: {"websockets"}}
LIBRARIES[PYGAME] = {"websockets", "pygame"}
HEADINGS = ["What you learn", "Before you start", "Run it", "You should see", "Try next"]


def exercise(lesson: str) -> str:
    """Return the text below "Try next"."""
    docstring = ast.get_docstring(ast.parse((ROOT / lesson).read_text(encoding="utf-8")))
    assert docstring
    return docstring.partition("\nTry next\n")[2]


def code_in(text: str, pattern: str) -> str:
    """Return the piece of code that an exercise quotes."""
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in:\n{text}"
    return found[1]


def changed(lesson: str, folder: Path, *changes: tuple[str, str]) -> Path:
    """Write a copy of the lesson in which each old line, found exactly once, is replaced."""
    head, quotes, code = (ROOT / lesson).read_text(encoding="utf-8").rpartition('\n"""\n\nimport')
    for old, new in changes:
        assert code.count(old) == 1, f"{old!r} is {code.count(old)} times in {lesson}"
        code = code.replace(old, new)
    copy = folder / lesson
    copy.write_text(head + quotes + code, encoding="utf-8")
    return copy


def lesson_1_as_a_chat_room(folder: Path) -> Path:
    text = exercise(ECHO)
    assert "from websockets.asyncio.server import broadcast, too" in text
    old = code_in(text, r"replace\n +(.+)")
    new = code_in(text, r"by  (.+)")
    return changed(
        ECHO,
        folder,
        (old, new),
        ("import ServerConnection, serve", "import broadcast, serve, ServerConnection"),
    )


def test_lesson_1_becomes_a_chat_room(tmp_path: Path) -> None:
    port = free_port()
    url = f"ws://127.0.0.1:{port}"
    with (
        lesson_server(tmp_path, lesson_1_as_a_chat_room(tmp_path), port),
        connect(url, proxy=None) as one,
        connect(url, proxy=None) as other,
    ):
        one.send("hello")
        assert [one.recv(PATIENCE), other.recv(PATIENCE)] == ["hello", "hello"]
        other.send("hello yourself")
        assert [one.recv(PATIENCE), other.recv(PATIENCE)] == ["hello yourself"] * 2


def test_lesson_2_tells_how_many_there_are(tmp_path: Path) -> None:
    text = exercise(PING)
    anchor = code_in(text, r"below the line (.+?) add")
    new = code_in(text, r"add\n +(.+)")
    lesson = changed(PING, tmp_path, (anchor, f"{anchor}\n                    {new}"))
    port = free_port()
    url = f"ws://127.0.0.1:{port}"
    with (
        lesson_server(tmp_path, lesson, port, {"PING_SECONDS": "0.1"}),
        connect(url, proxy=None) as one,
    ):
        assert json.loads(one.recv(PATIENCE))["clients"] == 1
        with connect(url, proxy=None) as other:
            assert json.loads(other.recv(PATIENCE))["clients"] == 2


def test_lesson_3_shows_when_a_message_arrived(tmp_path: Path, open_lesson: OpenLesson) -> None:
    text = exercise(CLIENT)
    new_import, anchor = code_in(text, r"Write  (.+?)  below"), code_in(text, r"below (.+?),")
    old, new = code_in(text, r"replace\n +(.+)"), code_in(text, r"by  (.+)")
    lesson = changed(CLIENT, tmp_path, (f"{anchor}\n", f"{anchor}\n{new_import}\n"), (old, new))
    port = free_port()
    with lesson_server(tmp_path, ECHO, port):
        student = open_lesson(str(lesson), f"ws://127.0.0.1:{port}")
        student.expect("Connected")
        student.sendline("hello")
        student.expect(r"\d\d:\d\d:\d\d <<< hello")


def test_lesson_4_rains_and_two_windows_share_one_canvas(tmp_path: Path) -> None:
    text = exercise(PYGAME)
    anchor, new = code_in(text, r"Below the line  (.+?)  add"), code_in(text, r"add\n +(.+)")
    lesson = changed(PYGAME, tmp_path, (anchor, f"{anchor}\n    {new}"))
    port = free_port()
    server = {"WEBSOCKET_URL": f"ws://127.0.0.1:{port}"}
    (tmp_path / "logs").mkdir()
    with (
        running_screen() as screen,
        lesson_server(tmp_path, lesson_1_as_a_chat_room(tmp_path), port),
    ):
        rainy = Window(screen, lesson, tmp_path / "logs/rainy", server)
        try:
            rainy.reads("connected")
            rainy.mouse(*[(200 + 20 * step, 200) for step in range(10)])
            wait_until(lambda: rainy.is_painted((295, 300)), "colour 100 pixels further down")
            wait_until(lambda: not rainy.is_painted((295, 200)), "and none where it was drawn")
        finally:
            rainy.process.kill()
        drawn = Window(screen, ROOT / PYGAME, tmp_path / "logs/drawn", server)
        other = Window(screen, ROOT / PYGAME, tmp_path / "logs/other", server)
        try:
            other.reads("connected")
            drawn.reads("connected")
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
    assert lines[:2] == ["#!/usr/bin/env -S uv run --script", "# /// script"]
    declared = dict(line.removeprefix("# ").split(" = ") for line in lines[2:4])
    packages = ["websockets>=15,<18"] + ["pygame-ce>=2.5.2,<3"] * (lesson == PYGAME)
    assert declared == {"requires-python": '">=3.11"', "dependencies": json.dumps(packages)}
    assert lines[4] == "# ///"


@pytest.mark.parametrize(("number", "lesson"), list(enumerate(LESSONS, start=1)))
def test_a_lesson_begins_with_its_headings_in_order(number: int, lesson: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / lesson).read_text(encoding="utf-8")), False)
    assert docstring and docstring.startswith(f"Lesson {number}: ")
    flush = [line for line in docstring.splitlines()[1:] if line and not line.startswith("    ")]
    assert flush == HEADINGS
    assert "terminal" in docstring.partition("Run it")[2].partition("You should see")[0]
