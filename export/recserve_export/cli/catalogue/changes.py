"""`recserve catalogue upsert|delete|export`: change the catalogue of a running server, and write it out."""

from __future__ import annotations

import codecs
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from recserve_client.cli.connect import Address, connect
from recserve_client.cli.console import fail, note
from recserve_client.cli.recommend import fail_call
from recserve_client.contract.addresses import DEFAULT_ADDRESS
from recserve_export.cli import options
from recserve_export.cli.common import explained, position_bar, say
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_client import Client, NewItem
    from recserve_client.contract import ItemsChanged

_BATCH = 500
_BATCH_BYTES = 8 << 20
_SHOWN = 5
_DEADLINE_S = 120.0


def upsert(
    file: Annotated[Path, typer.Argument(help="JSON Lines with one item each; - reads standard input.")],
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Put items into the catalogue of a running server; each is served from the moment it is acknowledged.

    A line is {"id": "x1", "texts": {"title": "..."}, "attributes": {"year": 1999}, "available": true}.
    """
    if str(file) != "-" and not file.is_file():
        fail(f"no file {file}", code=2)
    with _client(address) as client, position_bar("items", None) as at:
        totals, shown = Counter[str](), 0
        for start, batch in _batches(_lines(file)):
            answer = client.items.upsert(batch, request_id=uuid.uuid4().hex, deadline_s=_DEADLINE_S)
            shown = _refusals(answer, start, shown)
            totals.update(result.status for result in answer.results)
            at(totals.total())
    _summary(totals, answer.revision if totals else None)


def delete(ids: Annotated[list[str], typer.Argument(help="Item ids.")], address: Address = DEFAULT_ADDRESS) -> None:
    """Take items out of the catalogue of a running server; none of them is recommended any more."""
    with _client(address) as client:
        answer = client.items.delete(ids)
    _refusals(answer, 0, 0)
    _summary(Counter(result.status for result in answer.results), answer.revision)


def export(
    file: Annotated[Path, typer.Argument(help="JSON Lines file to write; - writes to standard output.")],
    home: options.Home = DEFAULT_HOME,
    store: options.CatalogueUrl = "",
) -> None:
    """Write all items of the catalogue, as `recserve catalogue upsert` reads them."""
    from recserve_client.contract import NewItem
    from recserve_server_ext.catalogue.store import CatalogueStore
    from recserve_server_ext.common.files import write_chunks

    def lines(opened: CatalogueStore) -> Iterator[bytes]:
        for item in opened.items():
            found = NewItem(item.id, item.texts, item.attributes, item.available)
            yield msgspec.json.encode(found) + b"\n"

    with explained(OSError), CatalogueStore(Workspace(home).store_at(store)) as opened:
        if str(file) == "-":
            for line in lines(opened):
                sys.stdout.buffer.write(line)
        else:
            write_chunks(file, lines(opened))
            say(f"{opened.count():,} items of revision {opened.revision:,} written to {file}")


@contextmanager
def _client(address: str) -> Iterator[Client]:
    """A client whose errors end the command with one line."""
    from recserve_client import ClientOptions
    from recserve_client.errors import RecserveError

    with connect(address, ClientOptions(tries=8, pause_s=0.2)) as client:
        try:
            yield client
        except RecserveError as error:
            fail_call(error, address)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    with explained(OSError):
        stream = sys.stdin.buffer if str(file) == "-" else file.open("rb")
        with stream:
            for number, line in enumerate(stream, start=1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if line.strip():
                    yield number, line


def _batches(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, list[NewItem]]]:
    """Items in batches, each with the line of its first; a line that is no item ends the command."""
    from recserve_client.contract import NewItem, RequestError, Unpacker

    unpack = Unpacker[NewItem](NewItem)
    for part in _parts(lines):
        batch = []
        for number, line in part:
            try:
                batch.append(unpack(line))
            except RequestError as error:
                fail(f"line {number} is no item: {error.text}; items before line {part[0][0]} were put in")
        yield part[0][0], batch


def _parts(lines: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """Lines in parts that fit a request, by their number and their bytes."""
    part: list[tuple[int, bytes]] = []
    size = 0
    for number, line in lines:
        if part and (len(part) >= _BATCH or size + len(line) > _BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append((number, line))
        size += len(line)
    if part:
        yield part


def _refusals(answer: ItemsChanged, start: int, shown: int) -> int:
    """Name the first few items that were refused; returns how many were named so far."""
    for result in answer.results:
        if result.status in ("refused", "conflict") and shown < _SHOWN:
            note(f"{result.status}: {result.id or '(no id)'} {result.error} (batch from line {start})")
            shown += 1
    return shown


def _summary(totals: Counter[str], revision: int | None) -> None:
    counts = ", ".join(f"{count:,} {status}" for status, count in sorted(totals.items())) or "no items"
    say(counts if revision is None else f"{counts}; revision {revision:,}")
    if totals["refused"] + totals["conflict"]:
        raise typer.Exit(1)
