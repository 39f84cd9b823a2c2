"""samples/demo.py, which `make demo` runs, on a computer that is not quite an ordinary one."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pexpect
import pytest
from running_lessons import LESSONS, ROOT, lesson_environment
from running_service import MICRO_WHISPER, until

DEMO = "samples/demo.py"
THE_END = "Both lessons heard every word of samples/speech.txt.\n"


def run_demo(
    settings: dict[str, str] | None = None, folder: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(folder / DEMO)],
        env=lesson_environment(settings),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "setting",
    [
        {"PORT": "8766", "HOST": "127.0.0.2"},  # still set, for another lesson
        {"http_proxy": "http://127.0.0.1:9", "all_proxy": "http://127.0.0.1:9"},  # as in schools
        {"LANGUAGE": "sv_SE:sv:en_US:en"},  # as Linux sets it for its menus
        {"TRANSCRIPTION_LANGUAGE": "xx", "TRANSCRIPTION_MODEL": "another"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_it_hears_every_word_whatever_else_is_set(setting: dict[str, str]) -> None:
    ended = run_demo(setting)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith(THE_END)


def test_it_takes_another_port_where_8000_is_in_use() -> None:
    with ExitStack() as until_the_end:
        if not is_in_use(8000):
            until_the_end.enter_context(socket.create_server(("127.0.0.1", 8000)))
        ended = run_demo()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "✓ service      http://127.0.0.1:8000 " not in ended.stdout


def is_in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def copied(folder: Path) -> Path:
    """Copy what the demonstration needs into a folder."""
    shutil.copytree(ROOT / "samples", folder / "samples")
    for lesson in LESSONS:
        shutil.copy(ROOT / lesson, folder)
    return folder


def test_a_single_wrong_word_is_noticed(tmp_path: Path) -> None:
    text = copied(tmp_path) / "samples/speech.txt"
    said = text.read_text(encoding="utf-8")
    text.write_text(said.replace("blue", "red"), encoding="utf-8")
    assert said.count("blue") == 1
    ended = run_demo(folder=tmp_path)
    assert ended.returncode == 1
    assert "That is not what the recording says:\nevery drawing starts" in ended.stderr


def test_a_model_that_writes_other_words_is_noticed() -> None:
    ended = run_demo({"WHISPER_MODEL": MICRO_WHISPER})  # it knows 48 words, and few of these
    assert ended.returncode == 1 and "That is not what the recording says" in ended.stderr


def test_case_punctuation_and_digits_make_no_difference() -> None:
    texts = ["Give yourself 10 minutes!", "give yourself, TEN minutes", "Give 10 minutes."]
    code = f"from demo import words; print(*map(words, {texts!r}), sep='\\n')"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT / "samples", capture_output=True, text=True)
    assert ended.stdout.splitlines() == ["give yourself ten minutes"] * 2 + ["give ten minutes"]


def test_a_server_that_does_not_start_ends_it_at_once() -> None:
    ended = run_demo({"WHISPER_MODEL": "no-such-model", "HF_HUB_OFFLINE": "1"})
    assert ended.returncode == 1
    assert "Lesson 5 did not start" in ended.stderr and "Lesson 6" not in ended.stdout


@pytest.fixture
def demo(tmp_path: Path) -> Iterator["pexpect.spawn[str]"]:
    """The demonstration at a terminal, with an empty folder for what it keeps meanwhile."""
    env = lesson_environment({"TMPDIR": str(tmp_path)})
    terminal: pexpect.spawn[str] = pexpect.spawn(
        sys.executable, [DEMO], cwd=str(ROOT), env=env, encoding="utf-8", timeout=60
    )
    yield terminal
    terminal.close(force=True)


@pytest.mark.parametrize(
    "moment", ["It loads its", "Lesson 6", "✓ recording", r"\[0:00\]", r"\[0:10\]"]
)
def test_ctrl_c_leaves_nothing_behind(
    moment: str, demo: "pexpect.spawn[str]", tmp_path: Path
) -> None:
    group = demo.pid or 0
    demo.expect(moment)
    demo.sendintr()
    demo.expect(pexpect.EOF)
    assert demo.wait() == 130
    until(lambda: not any_process_of(group))
    assert "Traceback" not in str(demo.before)
    assert list(tmp_path.iterdir()) == []


def any_process_of(group: int) -> bool:
    """Tell whether a program still runs that was started at a terminal of its own."""
    try:
        os.killpg(group, 0)  # 0 only asks
    except ProcessLookupError:
        return False
    return True
