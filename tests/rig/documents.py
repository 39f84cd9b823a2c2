"""What README.md and the other documents say: blocks, tables, commands, messages."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from running_lessons import ROOT

README = ROOT / "README.md"
PAGES = [ROOT / "service/README.md", ROOT / "tests/README.md", *sorted(ROOT.glob("docs/*.md"))]
DOCUMENTS = [README, *PAGES]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


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
    """Return what is between `backticks`."""
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose(document))]


def section(document: str, heading: str) -> str:
    """Return the text below a heading, up to the next one."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", document, re.M | re.S)
    assert found, heading
    return found[1]


def rows(text: str, *header: str) -> list[list[str]]:
    """Return the cells of the tables whose header begins with these cells."""
    found, is_wanted = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if not line.startswith("|"):
            is_wanted = False
        elif cells[: len(header)] == list(header):
            is_wanted = True
        elif is_wanted and not line.startswith("|--"):
            found.append(cells)
    return found


PROGRAMS = (
    r"(?:(?:python3?|py|pip|make|docker|uv|sh|git|sudo|brew|streamlit|export|echo|openssl|curl"
    r"|Set-ExecutionPolicy) |\.venv\S*[/\\]\S|\. \.venv)"
)
SETTING = r"(?:\$env:)?([A-Z][A-Z_]+)=(\"[^\"]*\"|'[^']*'|[^\s;]*)"


def commands(document: str) -> list[str]:
    """Return every line and every span that is a command, with the settings before it."""
    lines = [line.removeprefix("$ ") for block in blocks(document) for line in block.lines]
    is_command = re.compile(rf"(?:{SETTING}[; ] ?)*{PROGRAMS}")
    return [text for text in lines + spans(document) if is_command.match(text)]


def messages(document: str) -> list[str]:
    """Return what is quoted in the first column of the tables of messages."""
    text = (ROOT / document).read_text()
    cells = [row[0] for kind in ("message", "you see") for row in rows(text, kind)]
    return [span for cell in cells for span in re.findall(r"`(.+?)`", cell)]


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def read(name: str) -> str:
    """Return a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")
