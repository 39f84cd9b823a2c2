"""samples/demo.sh, which `make demo` runs, on a computer that is not quite an ordinary one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from running_lessons import ROOT, lesson_environment
from running_service import until

DEMO = ["samples/demo.sh", sys.executable]


@pytest.mark.parametrize(
    "setting",
    [
        {"PORT": "8766", "HOST": "127.0.0.2"},  # still set, for another lesson
        {"http_proxy": "http://127.0.0.1:9", "all_proxy": "http://127.0.0.1:9"},  # as in schools
        {"LANGUAGE": "sv_SE:sv:en_US:en"},  # as Linux sets it for its menus
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_it_hears_every_word_whatever_else_is_set(setting: dict[str, str]) -> None:
    env = lesson_environment(setting)
    ended = subprocess.run(
        ["sh", *DEMO], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("Both lessons heard every word of samples/speech.txt.\n")


@pytest.fixture
def demo(tmp_path: Path) -> Iterator["pexpect.spawn[str]"]:
    """The demonstration at a terminal, with an empty folder for what it keeps meanwhile."""
    env = lesson_environment({"TMPDIR": str(tmp_path)})
    terminal: pexpect.spawn[str] = pexpect.spawn(
        "sh", DEMO, cwd=str(ROOT), env=env, encoding="utf-8", timeout=60
    )
    yield terminal
    terminal.close(force=True)


@pytest.mark.parametrize(
    "moment", ["Engine: ", "✓ recording", "hello world", r"\[0:00\]", "0:11 of audio"]
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
