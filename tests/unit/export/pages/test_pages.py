"""Reports as HTML: the same words as in the terminal, in one file, and nothing of a source becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import RenderableType
from typer.testing import CliRunner

from recserve_client.cli.main import build_app
from recserve_client.cli.tables import table
from recserve_export.pages.page import write_report
from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.common.workspace import Workspace

BAD = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Tags, and text by tag, of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())

    def check(self) -> None:
        """Nothing is fetched and nothing runs."""
        assert not {"script", "link", "iframe"} & {tag for tag, _ in self.tags}
        sources = [
            value for _, attributes in self.tags for name, value in attributes.items() if name in ("src", "href")
        ]
        assert all(value is not None and value.startswith("data:image/png;base64,") for value in sources)


def test_a_report_is_lines_tables_and_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    rows = [(BAD, "1"), ("[bold]b[/]", "2")]
    parts: list[RenderableType] = [
        "a line & more",
        "",
        table(("name", "count"), rows, right=("count",), title=f"of {BAD}"),
    ]

    def draw(file: Path) -> None:
        file.write_bytes(b"PNG")

    write_report(path, f"Report {BAD}", parts, draw)
    page = Page(path)
    page.check()
    assert page.text[-8:] == ["a line & more", f"of {BAD}", "name", "count", BAD, "1", "[bold]b[/]", "2"]
    assert [attributes["src"] for tag, attributes in page.tags if tag == "img"] == ["data:image/png;base64,UE5H"]


def run(*words: str) -> str:
    ran = CliRunner().invoke(build_app(words[0]), list(words))
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.mark.parametrize(
    ("words", "heading"),
    [
        (("index", "report"), "How well the index finds neighbours"),
        (("catalogue", "stats"), "What the catalogue holds"),
    ],
)
def test_commands_write_a_page_beside_what_they_print(
    tiny_home: Path, tmp_path: Path, words: tuple[str, ...], heading: str
) -> None:
    path = tmp_path / "page.html"
    printed = run(*words, "--home", str(tiny_home), "--html", str(path))
    page = Page(path)
    page.check()
    assert heading in page.text
    # The heading is the title, too.
    first = page.text[len(page.text) - page.text[::-1].index(heading)]
    assert first[:20] in printed
    assert sum(tag == "table" for tag, _ in page.tags) >= 1
    assert sum(tag == "img" for tag, _ in page.tags) == (words[0] == "index")


def test_markup_of_a_catalogue_stays_text(tmp_path: Path) -> None:
    with CatalogueStore(Workspace(tmp_path).store, create=True) as store:
        item = StoredItem("a", {"title": "A"}, {BAD: BAD})
        store.replace_all([item], field_weights={"title": 1.0})
    path = tmp_path / "page.html"
    run("catalogue", "stats", "--home", str(tmp_path), "--html", str(path))
    page = Page(path)
    page.check()
    assert BAD in page.text


def test_a_missing_folder_is_one_line(tiny_home: Path, tmp_path: Path) -> None:
    words = ["catalogue", "stats", "--home", str(tiny_home), "--html", str(tmp_path / "none" / "page.html")]
    ran = CliRunner().invoke(build_app("catalogue"), words)
    assert ran.exit_code == 2
