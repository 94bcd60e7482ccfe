"""A dataset in RecBole's atomic files: what users did with items, and the texts of the items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import csv

from recserve_benchmarks.errors import BenchmarkError
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.files import sha256_of
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.encoder.item_vectors import PairCollector, encode_items
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.interactions.columns import InteractionColumns

#: Scores of all users for all items are held at once (float32, a few times), and so are those between all items.
MOST_SCORES: Final = 25_000_000
_NUMBERS: Final = ("timestamp", "rating")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions, as ratings, and item texts.

    Attributes:
        columns: Interactions, users in the order they first occur; `subjects` are the ids of all items.
        texts: [items] by field; an item without any has no vector.
        fields: Names of the text fields.
        files: SHA-256 of the files that were read, by name.
    """

    columns: InteractionColumns
    texts: list[dict[str, str]]
    fields: tuple[str, ...]
    files: dict[str, str]

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.columns.subjects)


def read_dataset(place: Path) -> Dataset:
    """Read a `.inter` file and the `.item` file beside it that has the same name.

    The item texts are all columns of the type `token_seq`, such as titles and genres. A rating is optional.

    Args:
        place: The `.inter` file, or a folder with one.

    Raises:
        BenchmarkError: A file or a column is missing, a value is malformed, or there is too much for memory.
    """
    events = _events_file(place)
    described = events.with_suffix(".item")
    fields: tuple[str, ...] = ()
    texts_of: dict[str, dict[str, str]] = {}
    files = [events]
    if described.is_file():
        texts, kinds = _table(described, ("item_id",))
        fields = tuple(name for name, kind in kinds.items() if kind == "token_seq")
        for row in texts.select(["item_id", *fields]).to_pylist():
            texts_of[row["item_id"]] = {name: row[name] for name in fields if row[name].strip()}
        files.append(described)
    columns = _columns(_table(events, ("user_id", "item_id", "timestamp"))[0], list(texts_of), events.name)
    users, items = columns.users, len(columns.subjects)
    if max(users, items) * items > MOST_SCORES:
        raise BenchmarkError(
            f"{users:,} users and {items:,} items: more than {MOST_SCORES:,} scores at once; take fewer users or items"
        )
    checksums = {path.name: sha256_of(path) for path in files}
    return Dataset(columns, [texts_of.get(name, {}) for name in columns.subjects], fields, checksums)


def encode_texts(dataset: Dataset, encoder: TextEncoder) -> Vectors:
    """Item vectors [items, dim] as the index build makes them with equal field weights; zeros without a text."""
    collector = PairCollector({})
    has_text = np.array([collector.add(texts) for texts in dataset.texts], np.bool_)
    vectors = np.zeros((dataset.items, encoder.dim), np.float32)
    if has_text.any():
        found, cancelled = encode_items(collector, encoder.encode)
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


def _table(path: Path, wanted: tuple[str, ...]) -> tuple[pa.Table, dict[str, str]]:
    """The columns of an atomic file, and the type of each; timestamps and ratings are numbers, all others texts.

    Values stand between tabs and are never quoted. A heading is a name and a type: ``item_id:token``.
    """
    content = path.read_bytes().decode("utf-8-sig", errors="replace").encode()
    headings = content.partition(b"\n")[0].decode().rstrip("\r").split("\t")
    kinds = {name: kind for name, _, kind in (heading.partition(":") for heading in headings)}
    if missing := [name for name in wanted if name not in kinds]:
        raise BenchmarkError(f"{path.name}: there is no column {missing[0]!r}; the file has {', '.join(kinds)}")
    types = {name: pa.float64() if name.partition(":")[0] in _NUMBERS else pa.string() for name in headings}
    try:
        found = csv.read_csv(
            pa.BufferReader(content),
            parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=csv.ConvertOptions(column_types=types),
        )
    except pa.ArrowInvalid as error:
        raise BenchmarkError(f"{path.name}: {error}") from error
    return found.rename_columns(list(kinds)), kinds


def _columns(rows: pa.Table, known_items: list[str], name: str) -> InteractionColumns:
    """Columns sorted by user; items are those with texts, then those that only occur."""
    if not len(rows):
        raise BenchmarkError(f"{name}: there are no interactions")

    def number(column: str) -> Any:
        values = rows[column].to_numpy()
        if not np.isfinite(values).all():
            raise BenchmarkError(f"{name}: column {column} holds a value that is not a finite number")
        return values

    user = rows["user_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    every_item = pa.concat_arrays([pa.array(known_items, pa.string()), *rows["item_id"].chunks]).dictionary_encode()
    order = np.argsort(user, kind="stable")
    nothing = np.full(len(rows), np.nan)
    return InteractionColumns(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(user))]),
        time_us=np.round(number("timestamp")[order] * MICROSECONDS).astype(np.int64),
        type=np.zeros(len(rows), np.int64),
        subject=every_item.indices.to_numpy()[len(known_items) :][order].astype(np.int64),
        value=number("rating")[order] if "rating" in rows.column_names else nothing,
        duration_s=nothing,
        price=nothing,
        quantity=nothing,
        types=["rating"],
        subjects=every_item.dictionary.to_pylist(),
        is_item=np.ones(len(every_item.dictionary), np.bool_),
    )
