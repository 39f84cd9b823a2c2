"""The floors of service/, and what each program of this repository may import."""

import ast
import re
from pathlib import Path

import pytest
from running_lessons import LESSONS, ROOT

# A module imports only from lower floors or, on its own floor, from modules named before it.
FLOORS = [
    ["settings", "errors"],
    ["weights", "whisper", "engines", "audio", "turns", "guards"],
    ["transcriber", "recordings", "answers", "protocol", "trace"],
    ["wire", "captions", "session"],
    ["http_api", "realtime_api", "server"],
    ["app", "start", "__main__", "healthy", "in_docker"],
]
ORDER = ["__init__", *(module for floor in FLOORS for module in floor)]
MODULES = sorted(path.stem for path in (ROOT / "service").glob("*.py"))
OURS = {"service", "extensions", "tests", *(Path(lesson).stem for lesson in LESSONS)}


def imported_names(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports by dots"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_of_the_service_has_a_floor() -> None:
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_the_imports_of_the_service_run_downwards(module: str) -> None:
    names = imported_names(ROOT / "service" / f"{module}.py")
    needed = {name.split(".")[1] for name in names if name.startswith("service.")} & set(MODULES)
    assert needed <= set(ORDER[: ORDER.index(module)])
    assert not any(name.split(".")[0] in OURS - {"service"} for name in names)


@pytest.mark.parametrize("module", MODULES)
def test_no_class_of_the_service_is_longer_than_150_lines(module: str) -> None:
    tree = ast.parse((ROOT / "service" / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert (node.end_lineno or 0) - node.lineno < 150, node.name


@pytest.mark.parametrize(
    "path",
    [*(ROOT / lesson for lesson in LESSONS), *(ROOT / "extensions").glob("*.py")],
    ids=lambda path: path.name,
)
def test_a_lesson_imports_nothing_of_the_repository(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported_names(path)} & OURS


def test_the_readme_of_the_service_names_every_room_on_its_floor() -> None:
    text = (ROOT / "service/README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d) \| \[(\w+)\]\((\w+)\.py\) \| .{10}", text, re.MULTILINE)
    rooms = [[room for number, room, _ in table if int(number) == floor] for floor in range(1, 7)]
    assert rooms == FLOORS and all(room == link for _, room, link in table)
    picture = re.findall(r"^(\d)   (\S+(?: · \S+)*)  ", text, re.MULTILINE)
    assert [rooms.split(" · ") for _, rooms in reversed(picture)] == FLOORS
