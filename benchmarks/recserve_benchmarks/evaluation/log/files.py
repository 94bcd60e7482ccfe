"""A pair of files to evaluate: what users did with items, and the texts of the items."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_export.catalogue.mapping import FieldMapping
from recserve_export.catalogue.mapping import validated as fields_validated
from recserve_export.catalogue.rows import RowConverter
from recserve_export.cli.reading import fitting_one
from recserve_export.errors import ExportError
from recserve_export.interactions.guesses import with_times
from recserve_export.interactions.mapping import ROW, FieldName, InteractionMapping, validated
from recserve_export.interactions.rows import InteractionConverter, one_item_each
from recserve_export.interactions.scale import Scale, find_scale
from recserve_export.interactions.suggestion import ITEMS, TIMES, TYPES, USERS, VALUES
from recserve_export.tabular.opening import Opened
from recserve_export.tabular.preview import bare_name, sample_of
from recserve_export.tabular.recipes import Kind, read_recipe
from recserve_export.tabular.rows import RowError, Source
from recserve_server_ext.common.files import sha256_of
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.columns import InteractionColumns, columns_by_user
from recserve_server_ext.interactions.interaction import MEASURES, Interaction, RefusedError

#: Names of the column of item ids, in a file of items, too.
_ITEMS: Final = (*ITEMS, "id")
_YEAR: Final = "release_year"
_TEXTS: Final = frozenset({
    "title", "movie_title", "name", "text", "description", "genre", "genres", "class", "category", "categories", "tags",
    "brand", "author", "authors", "artist", _YEAR,
})  # fmt: skip
#: Type of interactions of a file that has none, with a rating and without.
_RATED: Final = "rating"
_CLICKED: Final = "click"
_NONE: Final = float("nan")
#: Rows that the columns are found in.
_HEAD: Final = 200
#: Rows that the scale of ratings is found in.
_SAMPLE: Final = 50_000
M = TypeVar("M", InteractionMapping, FieldMapping)
Opening = tuple[Opened, M]


class Pair(NamedTuple):
    """What was read.

    Attributes:
        columns: Interactions, users in the order they first occur; `subjects` are the ids of all items.
        texts: [items] by field.
        fields: Names of the text fields.
        times: Column of the times; `row` where the order of the rows stands for them.
        files: SHA-256 of the files, by name.
        refused: Rows that could not be read.
    """

    columns: InteractionColumns
    texts: list[dict[str, str]]
    fields: tuple[str, ...]
    times: str
    files: dict[str, str]
    refused: int


class Texts(NamedTuple):
    """Texts of items.

    Attributes:
        fields: Names of the text fields.
        of: Texts by field, by item id.
    """

    fields: tuple[str, ...] = ()
    of: Mapping[str, dict[str, str]] = MappingProxyType({})


class _Found:
    """Takes the columns of a file that have a known name, when the reader has seen its header."""

    def __init__(self) -> None:
        self.known: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns."""
        return self.known

    def check_columns(self, known: Iterable[str]) -> None:
        """Refuses nothing."""
        self.known = tuple(known)

    def first(self, names: Sequence[str]) -> str | None:
        """The column with the first of these names; see `bare_name`."""
        columns = {bare_name(column): column for column in reversed(self.known)}
        return next((columns[name] for name in names if name in columns), None)


def read_pair(interactions: Path, items: Path | None = None, recipe: str | None = None) -> Pair:
    """Read a file of interactions and the file of items that belongs to it.

    Args:
        interactions: File of any format that `recserve interactions import` reads, or a folder with one `.inter` file.
        items: File of items; `None` takes the `.item` file of the same name beside the interactions, if there is one.
        recipe: Name or TOML file of a recipe. Without one, columns are found by common names, and where there are no
            times, the order of the rows stands for them.

    Raises:
        BenchmarkError: A file or a column is missing, or no row can be read.
    """
    events = _events_file(interactions)
    beside = events.with_suffix(".item")
    described = items or (beside if beside.is_file() else None)
    try:
        if recipe is None:
            found = _Found()
            of_items = _read_items(described) if described is not None else Texts()
            return _read_interactions(
                events, _rows(events, found), lambda: _mapping(events, found), described, of_items
            )
        of_items = _items_by_recipe(described, recipe) if described is not None else Texts()
        opened, mapping = _by_recipe(events, recipe, "interactions", InteractionMapping, lambda one: one.columns)
        mapping = validated(mapping)
        timed = mapping.timestamp if mapping.time is None else mapping.time
        rows = _readable(opened.source(mapping))
        return _read_interactions(events, rows, lambda: (mapping, timed), described, of_items)
    except ExportError as error:
        raise BenchmarkError(str(error)) from error


def _events_file(place: Path) -> Path:
    if place.is_file():
        return place
    found = sorted(place.glob("*.inter")) if place.is_dir() else []
    if len(found) != 1:
        what = f"has {len(found)} .inter files" if place.is_dir() else "is neither a folder nor a file"
        raise BenchmarkError(f"{place} {what}; name one: --dataset FOLDER/ml-100k.inter")
    return found[0]


def _by_recipe(path: Path, recipe: str, kind: Kind, type_: type[M], needed: Callable[[M], Iterable[str]]) -> Opening[M]:
    """A file, and the mapping of a recipe that fits it."""
    found = read_recipe(recipe, kind, type_)
    opened = Opened(path, found[0].read)
    return opened, fitting_one(found, opened, needed)


def _items_by_recipe(path: Path, recipe: str) -> Texts:
    """The texts of the items that an import by this recipe would accept."""
    opened, mapping = _by_recipe(path, recipe, "catalogue", FieldMapping, lambda one: (one.id, *one.texts))
    mapping = fields_validated(mapping)
    convert, texts_of = RowConverter(mapping), dict[str, dict[str, str]]()
    for values in _readable(opened.source(mapping)):
        try:
            item = convert(values or {})
        except RowError:
            continue
        texts_of.setdefault(item.id, item.texts)
    return Texts(tuple(mapping.texts), texts_of)


def _readable(source: Source) -> Iterator[dict[str, Any] | None]:
    """The rows of a source, `None` for one that cannot be read."""
    for _, values in source.rows():
        yield None if isinstance(values, RowError) else values


def _rows(path: Path, found: _Found) -> Iterator[dict[str, Any] | None]:
    """The rows of a file, `None` for one that cannot be read: the only place that knows the readers of an import."""
    source = Opened(path).source(found)
    # JSON has no header: its columns are those of the first rows.
    found.known = tuple(dict.fromkeys([*(name for row in sample_of(source, _HEAD) for name in row), *found.known]))
    yield from _readable(source)


def _read_items(path: Path) -> Texts:
    """Names of the text fields, and the texts of each item."""
    found, texts_of = _Found(), dict[str, dict[str, str]]()
    kinds = _texts_of_recbole(path) if path.suffix == ".item" else []
    fields: tuple[str, ...] = ()
    for values in _rows(path, found):
        name = found.first(_ITEMS)
        if name is None:
            raise BenchmarkError(f"{path.name}: no column of item ids; the file has: {', '.join(found.known)}")
        if not fields:
            fields = tuple(column for column in found.known if column in (kinds or _TEXTS))
        if values is not None and values.get(name) not in (None, ""):
            texts = ((field, _text(values.get(field))) for field in fields)
            texts_of[str(values[name])] = {field: text for field, text in texts if text}
    return Texts(fields, texts_of)


def _texts_of_recbole(path: Path) -> list[str]:
    """Names of the columns of texts, by the types in RecBole's header; a year says much of an item that is new."""
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline().rstrip("\r\n").split("\t")
    columns = (column.partition(":") for column in header)
    return [name for name, _, kind in columns if kind == "token_seq" or name == _YEAR]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(part.strip() for part in value if isinstance(part, str) and part.strip())
    return value.strip() if isinstance(value, str) else ""


def _read_interactions(
    path: Path,
    rows: Iterator[dict[str, Any] | None],
    mapped: Callable[[], tuple[InteractionMapping, str]],
    described: Path | None,
    of_items: Texts,
) -> Pair:
    """Read interactions; the mapping, and what stands for the times, are known when the first rows are read."""
    users: dict[str, int] = {}
    items = {name: place for place, name in enumerate(of_items.of)}
    types: dict[str, int] = {}
    numbers, values_of, refused = array("q"), array("d"), 0
    sample = list(islice(rows, _SAMPLE))
    mapping, timed = mapped()
    readable = [values for values in sample if values is not None]
    mapping = with_times(mapping, readable[:_HEAD], lambda: readable)
    scale = find_scale(mapping, readable) if mapping.fields else Scale()
    convert = InteractionConverter(mapping, None, scale=scale)
    for number, values in one_item_each(enumerate(chain(sample, rows), start=1), mapping):
        interaction = _converted(convert, values or {}, number)
        if interaction is None or interaction.item is None:
            refused += 1
            continue
        codes = (
            (of.setdefault(name, len(of)))
            for of, name in ((users, interaction.user), (items, interaction.item), (types, interaction.type))
        )
        numbers.extend((*codes, round(interaction.timestamp * MICROSECONDS)))
        values_of.append(_NONE if interaction.value is None else interaction.value)
    if not len(values_of):
        raise BenchmarkError(f"{path.name}: there are no interactions that can be read, {refused:,} rows are refused")
    user, item, kind, time_us = np.array(numbers, np.int64).reshape(-1, 4).T
    measures = np.full((len(MEASURES), len(values_of)), np.nan)
    measures[MEASURES.index("value")] = values_of
    columns = columns_by_user(user, time_us, (kind, list(types)), (item, list(items)), measures)
    texts = [of_items.of.get(name, {}) for name in items]
    files = {file.name: sha256_of(file) for file in (path, described) if file is not None}
    return Pair(columns, texts, of_items.fields, timed, files, refused)


def _converted(convert: InteractionConverter, values: Mapping[str, Any], number: int) -> Interaction | None:
    try:
        return convert(values, number)
    except (RowError, RefusedError):
        return None


def _mapping(path: Path, found: _Found) -> tuple[InteractionMapping, str]:
    """The mapping by the names of the columns, and the column of times."""
    user, item = found.first(USERS), found.first(_ITEMS)
    for what, name in (("users", user), ("items", item)):
        if name is None:
            raise BenchmarkError(f"{path.name}: no column of {what}; the file has: {', '.join(found.known)}")
    time, value, kind = found.first(TIMES), found.first(VALUES), found.first(TYPES)
    measures: dict[FieldName, str] = {} if value is None else {"value": value}
    one_type = None if kind is not None else _CLICKED if value is None else _RATED
    mapping = InteractionMapping(
        user=user or "", item=item, timestamp=time or "timestamp", time=None if time else ROW, type=one_type,
        type_column=kind, fields=measures,
    )  # fmt: skip
    return mapping, time or ROW
