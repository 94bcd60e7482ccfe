"""Pages as Markdown: tables, code blocks, links and the anchors of headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
_FENCE: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_INDENTED: Final = re.compile(r"(?:^    \S.*\n)+", re.MULTILINE)
_LINK: Final = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A block of code: its language, empty for an indented one, and its text."""

    language: str
    text: str


def pages() -> list[Path]:
    """All pages, and those beside `docs/`."""
    return [*sorted(DOCS.rglob("*.md")), *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG"))]


def read(page: str) -> str:
    """A page of `docs/`."""
    return (DOCS / page).read_text(encoding="utf-8")


def is_generated(page: Path) -> bool:
    """Whether a page says below its title that it is generated."""
    return "<!-- Generated" in page.read_text(encoding="utf-8")[:200]


def blocks(text: str, *languages: str) -> list[str]:
    """The blocks of code of some languages."""
    found = [Block(match[2], match[3]) for match in _FENCE.finditer(text)]
    found += [Block("", match[0]) for match in _INDENTED.finditer(_FENCE.sub("", text))]
    return [block.text for block in found if block.language in languages]


def links(text: str) -> list[str]:
    """Where the links and the pictures of a page lead, but for those in code."""
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text)))


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as code hosts and the site make them."""
    return {_slug(match[2]) for match in _HEADING.finditer(_FENCE.sub("", text))}


def _slug(heading: str) -> str:
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def table(text: str, head: str) -> list[list[str]]:
    """Cells of the rows below the header that begins with this cell, without the marks of code."""
    lines = text.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(f"| {head} |")) + 2
    return list(_rows(lines[start:]))


def _rows(lines: list[str]) -> Iterator[list[str]]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield [part.strip() for part in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def codes(cell: str) -> list[str]:
    """What stands in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)
