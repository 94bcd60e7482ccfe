"""Files that recserve exported from the interaction store: remembered, so that an erasure reaches them too."""

from __future__ import annotations

import csv
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import sqlalchemy as sa

from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.common.files import fsync_path
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.tables import erased, export_files
from recserve_server_ext.storage.database import Database

#: `user` = all that is held of one user, as one JSON document.
ExportFormat = Literal["jsonl", "csv", "parquet", "inter", "user"]
#: Name of the column of the user by format; the name in `.inter` is RecBole's.
_USER: Final = {"csv": "user", "inter": "user_id:token"}
_ROWS: Final = 10_000
_BYTES: Final = 1 << 20


@contextmanager
def exporting(database: Database, path: Path, file_format: ExportFormat, now_s: float) -> Iterator[None]:
    """Remember a file, while the block writes it.

    Args:
        database: Of the interaction store.
        path: The file; it is there whole when the block ends well.
        file_format: Of the file.
        now_s: Seconds since 1970.

    Raises:
        InteractionError: The store cannot be written, or a user was erased meanwhile; then there is no file.
    """
    place = {"host": socket.gethostname(), "path": str(path.resolve())}
    number = sa.select(sa.func.count()).select_from(erased)
    newest = sa.select(sa.func.max(erased.c.erased_us))
    with database.writing() as connection:
        connection.execute(sa.delete(export_files).where(*_is(place)))
        row = {**place, "format": file_format, "made_us": round(now_s * MICROSECONDS)}
        connection.execute(sa.insert(export_files), row)
        before = [connection.execute(query).scalar_one() for query in (number, newest)]
    yield
    with database.reading() as connection:
        after = [connection.execute(query).scalar_one() for query in (number, newest)]
    if after != before:
        path.unlink(missing_ok=True)
        raise InteractionError(f"a user was erased while {path} was written, so it was removed; export it again")


def clean(database: Database, pseudonyms: Sequence[str]) -> None:
    """Take a user out of every file that was exported on this machine; files that are gone are forgotten.

    A file with nothing of the user stays as it is, any other one is replaced by one without the user's rows.

    Args:
        database: Of the interaction store.
        pseudonyms: All that the user ever had: a file has the one of its time.

    Raises:
        InteractionError: A file cannot be read or replaced.
    """
    here = export_files.c.host == socket.gethostname()
    with database.reading() as connection:
        found = connection.execute(sa.select(export_files.c.path, export_files.c.format).where(here)).all()
    gone: list[str] = []
    for name, file_format in found:
        path = Path(name)
        try:
            for pseudonym in pseudonyms:
                if path.exists() and _CONTAINS.get(file_format, _holds)(path, pseudonym):
                    _without(path, file_format, pseudonym)
        except (OSError, ValueError, csv.Error) as error:
            raise InteractionError(
                f"the user is erased from the store, but the export {path} cannot be cleaned ({error}); remove that "
                "file and erase again"
            ) from None
        if not path.exists():
            gone.append(name)
    if gone:
        with database.writing() as connection:
            connection.execute(sa.delete(export_files).where(here, export_files.c.path.in_(gone)))


def _is(place: dict[str, str]) -> tuple[sa.ColumnElement[bool], ...]:
    return (export_files.c.host == place["host"], export_files.c.path == place["path"])


def _holds(path: Path, pseudonym: str) -> bool:
    """Whether a text file holds the pseudonym."""
    needle, tail = pseudonym.encode(), b""
    with path.open("rb") as file:
        while block := file.read(_BYTES):
            if needle in tail + block:
                return True
            tail = block[-len(needle) :]
    return False


def _parquet_holds(path: Path, pseudonym: str) -> bool:
    import pyarrow.compute
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        batches = file.iter_batches(_ROWS, columns=["user"])
        return any(pyarrow.compute.any(pyarrow.compute.equal(batch[0], pseudonym)).as_py() for batch in batches)


def _without(path: Path, file_format: str, pseudonym: str) -> None:
    """Replace a file by one without the rows of a user."""
    if file_format == "user":
        path.unlink()
        fsync_path(path.parent)
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        _COPIES[file_format](path, aside, pseudonym)
        fsync_path(aside)
        os.replace(aside, path)
        fsync_path(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _copy_lines(path: Path, aside: Path, pseudonym: str) -> None:
    # A pseudonym stands nowhere but in the user's own rows, unless somebody put it into a text.
    needle = pseudonym.encode()
    with path.open("rb") as source, aside.open("wb") as target:
        target.writelines(line for line in source if needle not in line)


def _copy_table(path: Path, aside: Path, pseudonym: str, column: str, **dialect: Any) -> None:
    with path.open(encoding="utf-8", newline="") as source, aside.open("w", encoding="utf-8", newline="") as target:
        rows = csv.reader(source, **dialect)
        header = next(rows)
        user = header.index(column)
        csv.writer(target, **dialect).writerows(chain([header], (row for row in rows if row[user] != pseudonym)))


def _copy_csv(path: Path, aside: Path, pseudonym: str) -> None:
    _copy_table(path, aside, pseudonym, _USER["csv"])


def _copy_inter(path: Path, aside: Path, pseudonym: str) -> None:
    plain = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None, "lineterminator": "\n"}
    _copy_table(path, aside, pseudonym, _USER["inter"], **plain)


def _copy_parquet(path: Path, aside: Path, pseudonym: str) -> None:
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet

    with (
        pyarrow.parquet.ParquetFile(path) as source,
        pyarrow.parquet.ParquetWriter(aside, source.schema_arrow) as target,
    ):
        for batch in source.iter_batches(_ROWS):
            other = pyarrow.compute.not_equal(batch["user"], pseudonym)
            kept = pyarrow.compute.fill_null(other, fill_value=True)  # no user is another user
            target.write_table(pa.Table.from_batches([batch]).filter(kept))


_CONTAINS: Final[dict[str, Callable[[Path, str], bool]]] = {"parquet": _parquet_holds}
_COPIES: Final[dict[str, Callable[[Path, Path, str], None]]] = {
    "jsonl": _copy_lines,
    "csv": _copy_csv,
    "inter": _copy_inter,
    "parquet": _copy_parquet,
}
