"""The repository as a whole: what stands in one place agrees with what stands in another."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from running_lessons import LESSONS, ROOT

HEADINGS = ["What you learn", "Before you start", "Run it", "You should see", "Try next"]


def metadata(lesson: str) -> dict[str, object]:
    """Return what a lesson says at its top about what it needs (PEP 723)."""
    block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", (ROOT / lesson).read_text(), re.M)
    assert block, lesson
    return tomllib.loads(re.sub(r"^# ?", "", block.group(1), flags=re.M))


def dependencies(lesson: str) -> set[str]:
    found = metadata(lesson)["dependencies"]
    assert isinstance(found, list)
    return set(found)


def test_requirements_are_what_the_lessons_and_the_service_need_together() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = {line.split("#")[0].strip() for line in lines} - {""}
    of_lessons = set().union(*map(dependencies, LESSONS))
    assert of_lessons <= required
    of_service = re.findall(r"^[\w-]+", (ROOT / "service/requirements.in").read_text(), re.M)
    assert {Requirement(line).name for line in required - of_lessons} <= set(of_service)
    for line in lines:
        if line and not line.startswith("#"):
            assert "# " in line, f"no reason given: {line}"


def requirements(name: str) -> dict[str, Requirement]:
    """Return what a file of requirements asks for, by canonical name."""
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    wanted = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return {canonicalize_name(each.name): each for each in wanted}


def test_the_image_holds_exact_versions_within_the_bounds_of_the_lessons() -> None:
    pins = requirements("service/requirements.txt")
    bounds = requirements("requirements.txt")
    assert set(requirements("service/requirements.in")) <= set(pins)
    for name, pin in pins.items():
        (exact,) = pin.specifier
        assert exact.operator == "==" and "*" not in exact.version, pin
        assert name not in bounds or exact.version in bounds[name].specifier, pin


def test_the_image_says_how_its_versions_were_found() -> None:
    top = (ROOT / "service/requirements.txt").read_text().splitlines()[1]
    assert re.fullmatch(r"# +uv pip compile .*service/requirements.in -o \S+", top)
    assert top.endswith(" -o service/requirements.txt") and "index" not in top


def test_the_image_gets_what_the_service_imports() -> None:
    imported = set()
    for path in (ROOT / "service").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    imported -= {"service", *sys.stdlib_module_names, *NOT_IN_THE_IMAGE}
    packages = packages_distributions()
    needed = {canonicalize_name(packages[module][0]) for module in imported}
    needed.add(canonicalize_name("python-multipart"))  # FastAPI reads uploaded files with it
    assert set(requirements("service/requirements.in")) <= needed
    assert needed <= set(requirements("service/requirements.txt"))


NOT_IN_THE_IMAGE = {"moonshine_voice", "pocketsphinx"}  # the embedded engine: see requirements.in


def test_every_image_has_a_version() -> None:
    compose, recipe = ((ROOT / name).read_text() for name in ("compose.yml", "service/Dockerfile"))
    images = re.findall(r"^ +image: (\S+)$", compose, re.M) + re.findall(
        r"^FROM (\S+)", recipe, re.M
    )
    assert len(images) == 2
    for image in images:
        assert re.search(r":\d", image), image
    assert re.findall(r"^ +(\S+)==[\d.]+;", recipe, re.M) == ["nvidia-cublas-cu12"]


@pytest.mark.parametrize("lesson", LESSONS)
class TestEveryLesson:
    def test_says_which_python_it_needs(self, lesson: str) -> None:
        assert metadata(lesson)["requires-python"] == ">=3.11"

    def test_has_the_same_headings_in_the_same_order(self, lesson: str) -> None:
        docstring = ast.get_docstring(ast.parse((ROOT / lesson).read_text())) or ""
        title, _, text = docstring.partition("\n\n")
        assert re.fullmatch(r"Lesson [1-8]: .+[^.]", title)
        assert [line for line in text.splitlines() if re.match(r"\S", line)] == HEADINGS
        assert not re.search(rf"\n\n({'|'.join(HEADINGS)})\n", text), "an empty line too many"
        assert re.search(r"Run it\n    In a (second )?terminal: +python ", text)
        assert len(docstring.splitlines()) <= 40

    def test_imports_nothing_of_the_repository(self, lesson: str) -> None:
        names = {path.stem for path in ROOT.glob("*.py")} | {"tests", "samples", "benchmarks"}
        for node in ast.walk(ast.parse((ROOT / lesson).read_text())):
            if isinstance(node, ast.Import):
                assert names.isdisjoint(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0 and (node.module or "").split(".")[0] not in names

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no such permission")
    def test_can_be_run_by_its_name(self, lesson: str) -> None:
        assert (ROOT / lesson).stat().st_mode & 0o111


def test_pytest_takes_no_lesson_for_a_test() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        ".",
        "-p",
        "no:cacheprovider",
    ]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert "test_repository.py" in collected
    assert not [line for line in collected.splitlines() if line.startswith("simple_")]


def test_no_file_names_a_place_or_a_key() -> None:
    command = ["git", "ls-files", "-z"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, files):
        content = (ROOT / name).read_bytes()
        assert not re.search(rb"/(?:home|Users)/\w+/", content), name
        assert not re.search(rb"sk-(?:proj-)?[A-Za-z0-9]{20,}", content), name
        assert b"\r\n" not in content or b"\0" in content, f"line ends of Windows in {name}"


def test_the_sample_environment_holds_no_values_of_keys() -> None:
    for line in (ROOT / ".env.example").read_text().splitlines():
        assert not re.search(r"KEY=\S", line)
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert ".env" in ignored and ".venv*/" in ignored
