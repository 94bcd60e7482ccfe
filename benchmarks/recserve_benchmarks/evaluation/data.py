"""A dataset in RecBole's atomic files: what users did with items, and the texts of the items."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_export.catalogue.rows import RowError
from recserve_export.interactions.readers import InterSource
from recserve_server_ext.common.arrays import Floats, Vectors
from recserve_server_ext.common.files import sha256_of
from recserve_server_ext.encoder.item_vectors import PairCollector, encode_items
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.interactions.columns import InteractionColumns

#: Scores of all users for all items are held at once (float32, a few times), and so are those between all items.
MOST_SCORES: Final = 25_000_000
_ID: Final = "item_id"
_EVENT: Final = ("user_id", _ID, "timestamp")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions, as ratings, and item texts.

    Attributes:
        columns: Interactions, users in the order they first occur; `subjects` are the ids of all items.
        texts: [items] by field; without any, an item has no vector.
        fields: Names of the text fields.
        files: SHA-256 by name of the files that were read.
    """

    columns: InteractionColumns
    texts: list[dict[str, str]]
    fields: tuple[str, ...]
    files: dict[str, str]

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.columns.subjects)


class _Named:
    """The columns to read, whatever else there is."""

    def __init__(self, *columns: str) -> None:
        self.columns = columns

    def check_columns(self, known: Iterable[str]) -> None:
        """Refuse a column that the file does not have."""
        known = list(known)
        for name in self.columns:
            if name not in known:
                raise BenchmarkError(f"there is no column {name!r}; the file has {', '.join(known)}")


def read_dataset(place: Path) -> Dataset:
    """Read a `.inter` file and the `.item` file beside it that has the same name.

    The item texts are all columns of the type `token_seq`, such as titles and genres. A rating is optional.

    Args:
        place: The `.inter` file, or a folder with one.

    Raises:
        BenchmarkError: A file or a column is missing, a value is malformed, or there is too much for memory.
        SourceError: A file cannot be read.
    """
    events = _events_file(place)
    described = events.with_suffix(".item")
    fields: tuple[str, ...] = ()
    texts_of: dict[str, dict[str, str]] = {}
    files = [events]
    if described.is_file():
        fields = tuple(name for name, kind in _headings(described) if kind == "token_seq")
        for row in _rows(described, (_ID, *fields)):
            texts_of[row[_ID]] = {name: row[name] for name in fields if row[name].strip()}
        files.append(described)
    optional = tuple(name for name, _ in _headings(events) if name == "rating")
    columns = _columns(list(_rows(events, (*_EVENT, *optional))), texts_of)
    _check_size(columns)
    checksums = {path.name: sha256_of(path) for path in files}
    return Dataset(columns, [texts_of.get(name, {}) for name in columns.subjects], fields, checksums)


def encode_texts(dataset: Dataset, encoder: TextEncoder, done: Callable[[int], None] | None = None) -> Vectors:
    """Item vectors [items, dim] as the index build makes them with equal field weights; zeros without a text."""
    collector = PairCollector({})
    has_text = np.array([collector.add(texts) for texts in dataset.texts], np.bool_)
    vectors = np.zeros((dataset.items, encoder.dim), np.float32)
    if has_text.any():
        found, cancelled = encode_items(collector, lambda texts: encoder.encode(texts, done=done))
        found[cancelled] = 0.0
        vectors[has_text] = found
    return vectors


def _events_file(place: Path) -> Path:
    if place.is_file():
        return place
    found = sorted(place.glob("*.inter")) if place.is_dir() else []
    if len(found) != 1:
        what = f"has {len(found)} .inter files" if place.is_dir() else "is neither a folder nor a file"
        raise BenchmarkError(f"{place} {what}; name one: --dataset FOLDER/ml-100k.inter")
    return found[0]


def _headings(path: Path) -> list[tuple[str, str]]:
    """Names and types of the columns."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = next(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), [])
    return [(name, kind) for name, _, kind in (heading.partition(":") for heading in header)]


def _rows(path: Path, names: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    for number, row in InterSource(path, _Named(*names)).rows():
        if isinstance(row, RowError):
            raise BenchmarkError(f"row {number} of {path.name}: {row.detail}")
        yield row


def _columns(rows: list[dict[str, Any]], known_items: Iterable[str]) -> InteractionColumns:
    """Columns sorted by user; items are those with texts, then those that only occur."""
    if not rows:
        raise BenchmarkError("the .inter file has no interactions")
    user_codes: dict[str, int] = {}
    item_codes = {name: place for place, name in enumerate(known_items)}
    user = np.array([user_codes.setdefault(row["user_id"], len(user_codes)) for row in rows], np.int64)
    item = np.array([item_codes.setdefault(row[_ID], len(item_codes)) for row in rows], np.int64)
    seconds = _numbers([row["timestamp"] for row in rows], "timestamp")
    value = _numbers([row["rating"] for row in rows], "rating") if "rating" in rows[0] else np.full(len(rows), np.nan)
    order = np.argsort(user, kind="stable")
    nothing = np.full(len(rows), np.nan)
    return InteractionColumns(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(user))]),
        time_us=np.round(seconds[order] * 1e6).astype(np.int64),
        type=np.zeros(len(rows), np.int64),
        subject=item[order],
        value=value[order],
        duration_s=nothing,
        price=nothing,
        quantity=nothing,
        types=["rating"],
        subjects=list(item_codes),
        is_item=np.ones(len(item_codes), np.bool_),
    )


def _numbers(values: list[str], column: str) -> Floats:
    try:
        numbers = np.array(values, np.float64)
    except ValueError as error:
        raise BenchmarkError(f"column {column}: {error}") from error
    if not np.isfinite(numbers).all():
        raise BenchmarkError(f"column {column} holds a number that is not finite")
    return numbers


def _check_size(columns: InteractionColumns) -> None:
    users, items = columns.users, len(columns.subjects)
    if max(users, items) * items > MOST_SCORES:
        raise BenchmarkError(
            f"{users:,} users and {items:,} items: more than {MOST_SCORES:,} scores at once; take fewer users or items"
        )
