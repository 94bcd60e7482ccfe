"""Stores, rules and output that the commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from rich.console import RenderableType

from recserve_client.cli import console
from recserve_client.cli.console import fail, out, progress
from recserve_client.cli.tables import plain, table
from recserve_export.errors import ExportError
from recserve_server_ext.common.errors import ServerError
from recserve_server_ext.common.workspace import Workspace, store_place
from recserve_server_ext.config.history import HistoryRules, read_rules

#: Printed by every export of users.
OWN_FILES: Final = "no erasure reaches exported files: they are yours to erase users from"


def interactions_at(home: Path, url: str) -> Path | str:
    """The interaction store of a URL or file, or that in the home where none is named."""
    return store_place(url) if url else Workspace(home).interactions


def history_rules(path: Path | None) -> HistoryRules:
    """The rules of a file, or the built-in ones."""
    return HistoryRules() if path is None else read_rules(path)


def explained(*others: type[Exception]) -> AbstractContextManager[None]:
    """Print an error of the packages, or one of these others, as one line; exit code 1."""
    return console.explained(ExportError, ServerError, *others)


@contextmanager
def stage_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A `Stage` with a progress bar."""
    with progress(what, total) as bar:
        yield lambda count: bar.advance(bar.task_ids[0], count)
        if total is None:
            bar.update(bar.task_ids[0], total=1, completed=1)


@contextmanager
def position_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields what sets how much is done."""
    with progress(what, total) as bar:
        yield lambda done: bar.update(bar.task_ids[0], completed=done)


@contextmanager
def refusal_writer(path: Path | None) -> Iterator[Callable[[object], None]]:
    """Yield what writes a refused row to a JSON Lines file; without a path it writes nothing."""
    if path is None:
        yield lambda refusal: None
        return
    try:
        file = path.open("wb")
    except OSError as error:
        raise ExportError(f"the refusals cannot be written to {path}: {error}") from error

    def write(refusal: object) -> None:
        file.write(msgspec.json.encode(refusal) + b"\n")

    with file:
        yield write


def print_refusals(reasons: Mapping[str, int], columns: Sequence[str], examples: Sequence[Sequence[str]]) -> None:
    """Print how many rows were refused, by reason, and the first of them."""
    counts = [(name, f"{count:,}") for name, count in reasons.items()]
    out.print(table(("refused because", "rows"), counts, right=("rows",)))
    say(f"The first {len(examples)}:")
    out.print(table(columns, examples, right=("row",)))


def say(line: str) -> None:
    """Print a line as it is."""
    out.print(plain(line), highlight=False, soft_wrap=True)


def show_report(
    title: str,
    parts: Sequence[RenderableType],
    html: Path | None,
    *,
    quiet: bool = False,
    draw: Callable[[Path], None] | None = None,
) -> None:
    """Print the lines and tables of a report, and write its page.

    Args:
        title: Heading of the page.
        parts: Lines and tables.
        html: File of the page; `None` without one.
        quiet: Whether nothing is printed, since the report is printed as JSON.
        draw: Draws the picture of the page into a PNG.
    """
    if html is not None:
        from recserve_export.pages.page import write_report

        write_report(html, title, parts, draw)
    for part in () if quiet else parts:
        out.print(plain(part) if isinstance(part, str) else part, highlight=False, soft_wrap=isinstance(part, str))


def check_folder(path: Path | None) -> None:
    """End with a line where the folder of a file to write is missing."""
    if path is not None and not path.absolute().parent.is_dir():
        fail(f"cannot write {path}: there is no folder {path.parent}", code=2)


def say_what_fits(log: Path | str, catalogue: Path | str, *, is_error: bool = True) -> None:
    """Say which interactions of a log name an item of a catalogue, where there are both.

    That none does is an error, unless told otherwise.

    Raises:
        StoreError: One of the stores cannot be read.
    """
    from recserve_server_ext.catalogue.store import CatalogueStore
    from recserve_server_ext.history.fits import fit_of
    from recserve_server_ext.interactions.store import InteractionStore

    if any(isinstance(place, Path) and not place.is_file() for place in (log, catalogue)):
        return
    with InteractionStore(log) as interactions, CatalogueStore(catalogue) as items:
        fit = fit_of(interactions, items)
    if not fit.interactions or not fit.items:
        return
    if fit.is_disjoint and is_error:
        fail(f"{fit.said}; are these the same ids?")
    say(fit.said)


def say_json(value: object) -> None:
    """Print a value as an indented JSON document."""
    out.print_json(msgspec.json.encode(value).decode())


def moment(seconds: float) -> str:
    """Date and time of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def utc_s(time: datetime) -> float:
    """Seconds since 1970 of a date and time that was given in UTC."""
    return time.replace(tzinfo=UTC).timestamp()
