"""Catalogue store -> the items as columns with their vectors, of which only those that are not known are encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from recserve_export.bulk_encoding.output import EncodedVectors
from recserve_server_ext.catalogue.store import CatalogueStore, ItemRow
from recserve_server_ext.common.arrays import Ints, Mask, Vectors
from recserve_server_ext.common.errors import CatalogueError
from recserve_server_ext.encoder.item_vectors import PairCollector, Pairs, made_from, pooled
from recserve_server_ext.index.snapshot import Content, SnapshotVectors
from recserve_server_ext.index.space import SpaceContent

_NAMED = 5
#: Items looked up at a time among vectors that were encoded before.
_CHUNK = 4096


class Encoder(Protocol):
    """What turns texts into unit vectors; `recserve_server_ext.encoder.text_encoder.TextEncoder` is one.

    Attributes:
        dim: Length of a vector.
    """

    dim: int

    def encode(self, texts: list[str], *, done: Callable[[int], None] | None = None) -> Vectors:
        """Unit vectors of the texts, [texts, dim]; `done` is called with the number of texts after each chunk."""
        ...


class Known:
    """Item vectors that need not be made again: those of an older snapshot, and those written with the items.

    Attributes:
        encoded: Where those of the other items are looked for by their texts; `None` looks nowhere.
    """

    def __init__(
        self, snapshot: SnapshotVectors | None, imported_at: int, encoded: EncodedVectors | None = None
    ) -> None:
        """
        Args:
            snapshot: Made by the same encoder with the same field weights from the same store; `None` reuses nothing.
            imported_at: Revision of the last import: what is older is of another catalogue.
            encoded: Made by the same encoder.
        """
        self.encoded = encoded
        usable = snapshot is not None and snapshot.manifest.revision >= imported_at
        self._snapshot = snapshot if usable else None

    def vector(self, row: ItemRow, dim: int) -> Vectors | None:
        """The vector of an item; `None` where it has to be made."""
        if row.vector is not None and len(row.vector) == 4 * dim:
            return np.frombuffer(row.vector, "<f4")
        snapshot = self._snapshot
        if snapshot is None or row.texts_revision > snapshot.manifest.revision:
            return None
        place = snapshot.row_of.get(row.item.id)
        return None if place is None else snapshot.vectors[place]


class Taken(NamedTuple):
    """Items whose vectors were encoded before.

    Attributes:
        encoded: Where the vectors are.
        rows: [n] rows of the items.
        places: [n] places of their vectors in `encoded`.
    """

    encoded: EncodedVectors
    rows: Ints
    places: Ints


class Origins(NamedTuple):
    """Where item vectors come from, in items.

    Attributes:
        known: An older snapshot, or the store, where they were written with the items.
        taken: The vectors that were encoded before.
        encoded: Made from their texts.
    """

    known: int
    taken: int
    encoded: int


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The items of one revision as columns.

    Attributes:
        revision: Revision of the catalogue.
        field_weights: a_f by text field.
        ids: Item id of each row.
        available: [items] whether the item may be recommended.
        fields: Texts and attributes of each row; where both have a name, the attribute.
        known: Vectors by row that need not be made.
        taken: Rows whose vectors were encoded before; `None` where they were not looked for.
        unknown: [n] the rows whose vectors have to be made.
        pairs: The weighted texts of those.
    """

    revision: int
    field_weights: Mapping[str, float]
    ids: list[str]
    available: Mask
    fields: list[dict[str, Any]]
    known: dict[int, Vectors]
    taken: Taken | None
    unknown: Ints
    pairs: Pairs

    @property
    def origins(self) -> Origins:
        """Where the item vectors come from."""
        return Origins(len(self.known), 0 if self.taken is None else len(self.taken.rows), len(self.unknown))

    def content(self, encoder: str, source: str, spaces: Mapping[str, SpaceContent] | None = None) -> Content:
        """What a snapshot of these items holds; `encoder` is a runtime fingerprint, `source` the store's identity."""
        return Content(
            spaces=spaces or {},
            ids=self.ids,
            encoder=encoder,
            revision=self.revision,
            source=source,
            available=self.available,
            fields=self.fields,
            field_weights=self.field_weights,
        )


def read_catalogue(store: CatalogueStore, made_with: str = "", dim: int = 0, known: Known | None = None) -> Catalogue:
    """All items of the store, as of one moment.

    Args:
        store: The store.
        made_with: What the vectors in the store must have been made with: `recserve_server_ext.encoder.item_vectors`.
        dim: Length of a vector.
        known: Vectors that need not be made.

    Raises:
        CatalogueError: There are none, or one has no text with a weight.
        ExportError: Vectors that were encoded before cannot be looked up.
    """
    known = known or Known(None, 0)
    with store.all_rows(made_with) as (head, rows):
        columns = _Columns(head.field_weights, known, dim)
        while chunk := list(islice(rows, _CHUNK)):
            columns.add_all(chunk)
    if not columns.ids:
        raise CatalogueError(f"{store} has no items; import some with: recserve catalogue import SOURCE")
    if columns.without_text:
        raise CatalogueError(
            f"no text with a weight in {_names(columns.without_text)}; "
            f"give text or change the field weights {head.field_weights}"
        )
    return columns.catalogue(head.revision)


def item_vectors(catalogue: Catalogue, encoder: Encoder, *, done: Callable[[int], None] | None = None) -> Vectors:
    """The item vectors, [items, dim] unit float32; the vectors of all texts are held in memory at once.

    `done` is called with the number of texts after each chunk of them.

    Raises:
        CatalogueError: The text vectors of an item cancel out.
        ExportError: Vectors that were encoded before cannot be read.
    """
    vectors = np.empty((len(catalogue.ids), encoder.dim), np.float32)
    for row, vector in catalogue.known.items():
        vectors[row] = vector
    if catalogue.taken is not None:
        catalogue.taken.encoded.fill(vectors, catalogue.taken.rows, catalogue.taken.places)
    if len(catalogue.unknown):
        of_texts = encoder.encode(catalogue.pairs.texts, done=done)
        vectors[catalogue.unknown], cancelled = pooled(catalogue.pairs, of_texts)
        if cancelled.any():
            raise CatalogueError(
                "the weighted text vectors cancel out in "
                f"{_names([catalogue.ids[row] for row in catalogue.unknown[cancelled].tolist()])}; "
                f"change their texts or the field weights {dict(catalogue.field_weights)}"
            )
    return vectors


class _Columns:
    """Collects items column by column."""

    def __init__(self, field_weights: Mapping[str, float], known: Known, dim: int) -> None:
        self.ids: list[str] = []
        self.without_text: list[str] = []
        self._collector = PairCollector(field_weights)
        self._available: list[bool] = []
        self._fields: list[dict[str, Any]] = []
        self._vectors: dict[int, Vectors] = {}
        self._taken: list[tuple[Ints, Ints]] = []
        self._unknown: list[int] = []
        self._field_weights = field_weights
        self._known = known
        self._dim = dim

    def add_all(self, rows: Sequence[ItemRow]) -> None:
        first = len(self.ids)
        missing: list[int] = []
        for number, row in enumerate(rows):
            if (vector := self._known.vector(row, self._dim)) is not None:
                self._vectors[first + number] = vector
            else:
                missing.append(number)
            self.ids.append(row.item.id)
            self._available.append(row.item.available)
            self._fields.append(row.item.fields)
        for number in self._not_encoded(rows, missing, first):
            if self._collector.add(rows[number].item.texts):
                self._unknown.append(first + number)
            else:
                self.without_text.append(rows[number].item.id)

    def catalogue(self, revision: int) -> Catalogue:
        taken = None
        if self._known.encoded is not None:
            none = np.empty(0, np.int64)
            rows, places = (np.concatenate([none, *(found[part] for found in self._taken)]) for part in (0, 1))
            taken = Taken(self._known.encoded, rows, places)
        return Catalogue(
            revision=revision,
            field_weights=self._field_weights,
            ids=self.ids,
            available=np.array(self._available, np.bool_),
            fields=self._fields,
            known=self._vectors,
            taken=taken,
            unknown=np.array(self._unknown, np.int64),
            pairs=self._collector.pairs(),
        )

    def _not_encoded(self, rows: Sequence[ItemRow], missing: list[int], first: int) -> list[int]:
        """Those of the missing whose vectors were not encoded before; where the others are is kept."""
        if self._known.encoded is None or not missing:
            return missing
        digests = [made_from(rows[number].item.texts, self._field_weights) for number in missing]
        numbers, places = np.array(missing, np.int64), self._known.encoded.find(digests)
        found = places >= 0
        self._taken.append((first + numbers[found], places[found]))
        left: list[int] = numbers[~found].tolist()
        return left


def _names(ids: list[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"item {', '.join(map(repr, ids[:_NAMED]))}{more}"
