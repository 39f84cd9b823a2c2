"""Every command, file, setting, link and picture in the documents is right."""

import ast
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from documents import (
    DOCUMENTS,
    NAMES,
    README,
    SETTING,
    anchors,
    blocks,
    commands,
    read,
    rows,
    section,
    spans,
)
from running_lessons import LESSONS, ROOT

MAKEFILE, COMPOSE = read("Makefile"), read("compose.yml")
SERVER = "fastapi_example.py"
LIVE, BROWSER = "simple_audio_transcription.py", "speech_to_text_webrtc.py"
FILES = [
    str(path.relative_to(ROOT))
    for path in ROOT.rglob("*.*")
    if not re.match(r"\.(venv|git/|\w+_cache)", str(path.relative_to(ROOT)))
]
READ_BY_OTHERS = {  # settings that no program here reads, and who does
    "COMPOSE_PROFILES": "Docker Compose",
    "PYTHONASYNCIODEBUG": "asyncio",
    "REQUESTS_CA_BUNDLE": "requests",
    "SSL_CERT_FILE": "Python's ssl",
    "CI": "the tests",
    "SOAK": "the tests",
    "STREAMLIT_BROWSER_SERVER_ADDRESS": "Streamlit",
}
MADE_UP = {  # files that need not exist
    "NAME.py",  # any
    "websockets.py",  # one that had better not
    "silence.wav",  # one that a lab makes
    ".venv-lowest/lowest.txt",  # one that make test-lowest makes
}


def settings_read_by(name: str) -> set[str]:
    """Return the environment variables that a lesson, the service, or compose.yml looks at."""
    if name == "docker":
        return set(re.findall(r"\$\{([A-Z_]+)", COMPOSE))
    if name == "service":
        text = "".join(path.read_text() for path in (ROOT / "service").glob("*.py"))
        fields = re.search(r"^class Settings\(.*?(?=^\S)", text, re.M | re.S)
        assert fields
        names = re.findall(r"^    (\w+): ", fields[0], re.M)
        return {name.upper() for name in names} | set(re.findall(r"environ.*?\"([A-Z_]+)\"", text))
    look_up = r"(?:environ(?:\.get|\.setdefault)?[(\[]|whole_number\()\s*\"([A-Z_]+)\""
    return set(re.findall(look_up, read(name)))


def all_settings() -> set[str]:
    of_make = set(re.findall(r"\$[({]+([A-Z_]+)", MAKEFILE))
    return of_make.union(*(settings_read_by(name) for name in [*LESSONS, "docker", "service"]))


def flags_of(lesson: str) -> set[str]:
    return set(re.findall(r"add_argument\(\"(--[a-z-]+)\"", read(lesson)))


def check(command: str) -> None:
    """Fail if a command names anything that does not exist."""
    for part in re.split(r" \| ", command.partition(" # ")[0]):
        names = set()
        while found := re.match(rf"(?:export )?{SETTING}[; ]*", part):
            names.add(found[1])
            part = part[found.end() :]
        program = check_words(shlex.split(part.replace("\\", "/"))) if part.strip() else ""
        known = settings_read_by(program) if program else all_settings()
        assert names <= known | set(READ_BY_OTHERS), (command, names - known)


def check_words(words: list[str]) -> str:
    """Check one command. Return the lesson that it runs, "docker", "service", or nothing."""
    words = [word for word in words if word not in ("sudo", "-3.13")]
    program, *rest = words
    match Path(program).name:
        case "uv" | "streamlit" if rest == ["run"]:
            pass  # as a name for that way to start a lesson
        case "uv" if rest[0] == "pip":
            assert rest[1] in ("compile", "install"), words
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
        case "python" if rest[:2] == ["-m", "service"]:
            options = {word for word in rest if word.startswith("--")}
            assert options <= flags_of("service/__main__.py") | {"--help"}, words
            return "service"
        case "python" | "python3" | "py" if rest:
            assert rest[1] in ("venv", "pytest", "pip"), words
            assert rest[1] != "venv" or re.fullmatch(r"\.venv\S*", rest[-1]), words
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
        case "git":
            assert rest[0] in ("clone", "pull"), words
        case "curl":
            files = [word.partition("@")[2] for word in rest if "@" in word]
            assert all((ROOT / file).is_file() for file in files), words
        case "" | "Activate.ps1":
            assert "activate" in words[-1].lower(), words
        case "grep" | "echo" | "openssl" | "Set-ExecutionPolicy" | "docker" | "systemctl":
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
        lessons = "\n".join(map(read, LESSONS))
        constants = set(re.findall(r"^([A-Z][A-Z_]+) =", lessons, re.M))
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
        "python -m servise",
        "MAX_SESIONS=8 python -m service",
        "pip install -r requirement.txt",
        "sudo apt-get install portaudio20-dev",
        "make coffee",
        "docker compose up whisper",
        "docker compose --profile room up",
        "echo hello | python websocket_client.py",
        "curl http://127.0.0.1:10300/ -F file=@samples/song.wav",
    ],
)
def test_a_wrong_command_would_be_noticed(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check(wrong)


# ------------------------------------------------------ what belongs to a document of its own


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 200


def test_the_readme_leads_to_every_document_of_docs() -> None:
    for path in ROOT.glob("docs/*.md"):
        assert f"(docs/{path.name}" in README.read_text(), path.name


def test_every_lesson_is_in_the_table_with_its_command() -> None:
    line = r"^\| (\d) \| \[(.+?)\]\((.+?)\) \| .+? \| `(.+?)` \| .+? \| \d+ \| \d+ \|$"
    found = re.findall(line, README.read_text(), re.M)
    assert [row[0] for row in found] == list("12345678")
    assert sorted(row[1] for row in found) == LESSONS
    for number, name, link, command in found:
        assert name == link and command == f"python {name}"
        title = ast.get_docstring(ast.parse(read(name))) or ""
        assert title.startswith(f"Lesson {number}: ")


def test_what_make_does_is_explained_for_doing_it_by_hand() -> None:
    packages = re.findall(r"PACKAGES := ((?:.*\\\n)*.*)", MAKEFILE)
    lessons, tests = (" ".join(re.findall(r"[\w-]+", names)) for names in packages)
    for document, done_by_hand in {
        README: [
            f"apt-get install {lessons}",
            "brew install portaudio",
            "python3 -m venv .venv",
            ".venv/bin/pip install -r requirements.txt",
            "python samples/demo.py",
        ],
        ROOT / "tests/README.md": [
            f"apt-get install {tests}",
            ".venv/bin/pip install -r tests/requirements.txt",
            "python3 -m venv .venv-openai",
            '.venv-openai/bin/pip install "openai[realtime]"',
            "python3 -m venv .venv-fastapi",
            ".venv-fastapi/bin/pip install fastapi-cli",
            ".venv/bin/python -m pytest",
        ],
    }.items():
        for command in done_by_hand:
            assert command in document.read_text(), command


def test_every_test_file_is_in_the_list_of_tests() -> None:
    text = (ROOT / "tests/README.md").read_text()
    for path in (ROOT / "tests").glob("*/*.py"):
        assert f"({path.parent.name}/{path.name})" in text, path.name


def test_every_picture_is_shown_and_described() -> None:
    shown = set()
    for path in DOCUMENTS:
        for description, picture in re.findall(r"!\[(.*?)\]\((.+?)\)", path.read_text()):
            assert len(description.split()) >= 4, picture
            shown.add((path.parent / picture).resolve())
    assert shown == set((ROOT / "docs").glob("*.png"))


@pytest.mark.parametrize("number", [7, 8])
def test_the_picture_of_a_lesson_names_functions_that_it_has(number: int) -> None:
    picture = section(read("docs/protocol.md"), f"How lesson {number} works")
    text = read({7: LIVE, 8: BROWSER}[number])
    names = re.findall(r"(\w+)\(\)", picture)
    assert len(names) >= 6
    for name in names:
        assert re.search(rf"def {name}\(", text), name
    chunk = re.search(r"CHUNK_MS = (\d+)", text)
    assert number == 8 or (chunk and f"{chunk[1]} ms" in picture)


def names_in(tree: ast.AST) -> set[str]:
    """Return the functions, classes and settings of a program."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.alias):
            names.add(node.id if isinstance(node, ast.Name) else node.name)
    return names


@pytest.mark.parametrize(
    ("document", "heading"),
    [
        ("docs/instructors.md", "Lesson 5 in 40 minutes"),
        ("service/README.md", "From lesson 5 to the service"),
    ],
)
def test_what_is_said_about_lesson_5_names_parts_that_it_has(document: str, heading: str) -> None:
    text = section((ROOT / document).read_text(), heading)
    if document == "service/README.md":
        text = "\n".join(row[0] for row in rows(text, "in lesson 5"))
    mentioned = re.findall(r"`(?:\w+\.)?([A-Za-z_]+)(?:\(\))?`", text)
    assert len(mentioned) >= 10
    assert set(mentioned) - {"run"} <= names_in(ast.parse(read(SERVER))) | {
        "SILENCE_MS",
    }
