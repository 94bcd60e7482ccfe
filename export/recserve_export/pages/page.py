"""Writes an HTML page of a report: what is printed of it, and its picture."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from recserve_server_ext.common.files import write_file

_HERE: Final = "recserve_export.pages"


def render(package: str, template: str, **values: Any) -> bytes:
    """A page by a template of a package; it may extend `base.html.j2` of this one. All values are escaped."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader(_HERE, ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values).encode()


def write_report(
    path: Path, title: str, parts: Iterable[RenderableType], draw: Callable[[Path], None] | None = None
) -> None:
    """Write the page of a report, atomically.

    Args:
        path: The HTML file.
        title: Its heading.
        parts: What is printed: lines and tables.
        draw: Draws the picture into a PNG; `None` without one.
    """
    picture = picture_url(draw) if draw is not None else ""
    shown = [_part(part) for part in parts if part != ""]
    write_file(path, render(_HERE, "report.html.j2", title=title, picture=picture, parts=shown))


def picture_url(draw: Callable[[Path], None]) -> str:
    """What a function draws into a PNG, as a data URL."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        draw(file)
        return png_url(file.read_bytes())


def png_url(content: bytes) -> str:
    """A PNG as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _part(part: RenderableType) -> dict[str, Any]:
    if not isinstance(part, Table):
        return {"line": _plain(part)}
    columns = [(_plain(column.header), column.justify == "right") for column in part.columns]
    rows = zip(*([_plain(cell) for cell in column.cells] for column in part.columns), strict=True)
    return {"title": _plain(part.title or ""), "columns": columns, "rows": list(rows)}


def _plain(of: RenderableType) -> str:
    return of.plain if isinstance(of, Text) else str(of)
