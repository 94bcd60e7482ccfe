"""Catalogue store -> item vectors: v = normalise(sum_f a_f G(y_f)), each distinct text encoded once."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.catalogue_store import CatalogueStore, StoredItem
from recserve_server_ext.errors import CatalogueError

#: A sum shorter than this, relative to the sum of |a_f|, is rounding noise and has no direction.
_CANCELLED = 1e-5
_BLOCK_PAIRS = 16_384
_NAMED = 5


class Encoder(Protocol):
    """What turns texts into unit vectors; `recserve_server_ext.text_encoder.TextEncoder` is one.

    Attributes:
        dim: Length of a vector.
    """

    dim: int

    def encode(self, texts: list[str], *, done: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        """Unit vectors of the texts, [texts, dim]; `done` is called with the number of texts after each chunk."""
        ...


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The items of one revision as columns, and their texts without repetition.

    The weighted texts of an item are the pairs `text_of_pair[p], weight_of_pair[p]` for p from `first_pair[row]` up to
    that of the next row.

    Attributes:
        revision: Of the catalogue.
        field_weights: a_f by text field.
        ids: Item id of each row.
        available: [items].
        fields: Texts and attributes of each row; where both have a name, the attribute.
        texts: The distinct texts.
        first_pair: [items].
        text_of_pair: [pairs] index into `texts`.
        weight_of_pair: [pairs] a_f.
    """

    revision: int
    field_weights: Mapping[str, float]
    ids: list[str]
    available: NDArray[np.bool_]
    fields: list[dict[str, Any]]
    texts: list[str]
    first_pair: NDArray[np.int64]
    text_of_pair: NDArray[np.int64]
    weight_of_pair: NDArray[np.float32]


def read_catalogue(store: CatalogueStore) -> Catalogue:
    """All items of the store.

    Raises:
        CatalogueError: There are none, one has no text with a weight, or the catalogue changed meanwhile.
    """
    revision, weights = store.revision, store.field_weights()
    columns = _Columns(weights)
    columns.add_all(store.items())
    if store.revision != revision:
        raise CatalogueError(f"{store.path} went from revision {revision} to {store.revision} while it was read; retry")
    if not columns.ids:
        raise CatalogueError(f"{store.path} has no items; import some with: recserve catalogue import SOURCE")
    if columns.without_text:
        raise CatalogueError(
            f"no text with a weight in {_names(columns.without_text)}; give text or change the field weights {weights}"
        )
    return Catalogue(
        revision=revision,
        field_weights=weights,
        ids=columns.ids,
        available=np.array(columns.available, np.bool_),
        fields=columns.fields,
        texts=list(columns.index_of_text),
        first_pair=np.frombuffer(columns.first_pair, np.int64),
        text_of_pair=np.frombuffer(columns.text_of_pair, np.int64),
        weight_of_pair=np.frombuffer(columns.weight_of_pair, np.float32),
    )


def item_vectors(
    catalogue: Catalogue, encoder: Encoder, *, done: Callable[[int], None] | None = None
) -> NDArray[np.float32]:
    """The item vectors, [items, dim] unit float32.

    Args:
        catalogue: From `read_catalogue`.
        encoder: Encodes the distinct texts; all their vectors are held in memory at once.
        done: Called with the number of texts after each chunk of them, for progress bars.

    Raises:
        CatalogueError: The text vectors of an item cancel out; named.
    """
    of_texts = encoder.encode(catalogue.texts, done=done)
    sums = weighted_sums(of_texts, catalogue.first_pair, catalogue.text_of_pair, catalogue.weight_of_pair)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    scale = np.add.reduceat(np.abs(catalogue.weight_of_pair), catalogue.first_pair)
    cancelled = np.flatnonzero(lengths[:, 0] < _CANCELLED * scale)
    if len(cancelled):
        raise CatalogueError(
            f"the weighted text vectors cancel out in {_names([catalogue.ids[row] for row in cancelled])}; "
            f"change their texts or the field weights {dict(catalogue.field_weights)}"
        )
    np.divide(sums, lengths, out=sums)
    return sums


def weighted_sums(
    of_texts: NDArray[np.float32],
    first_pair: NDArray[np.int64],
    text_of_pair: NDArray[np.int64],
    weight_of_pair: NDArray[np.float32],
) -> NDArray[np.float32]:
    """sum_f a_f G(y_f) of each item, [items, dim].

    Args:
        of_texts: [texts, dim].
        first_pair: [items], rising: an item has at least one pair.
        text_of_pair: [pairs].
        weight_of_pair: [pairs].
    """
    items = len(first_pair)
    sums = np.empty((items, of_texts.shape[1]), np.float32)
    ends = np.append(first_pair, len(text_of_pair))
    start = 0
    while start < items:
        # As many whole items as fit into a block, one at least: memory is bounded.
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + _BLOCK_PAIRS, side="right")) - 1)
        pairs = slice(ends[start], ends[stop])
        weighted = of_texts[text_of_pair[pairs]] * weight_of_pair[pairs, None]
        np.add.reduceat(weighted, first_pair[start:stop] - ends[start], axis=0, out=sums[start:stop])
        start = stop
    return sums


@dataclass
class _Columns:
    """Collects items column by column."""

    weights: Mapping[str, float]
    ids: list[str] = field(default_factory=list)
    available: list[bool] = field(default_factory=list)
    fields: list[dict[str, Any]] = field(default_factory=list)
    without_text: list[str] = field(default_factory=list)
    index_of_text: dict[str, int] = field(default_factory=dict)
    first_pair: array[int] = field(default_factory=lambda: array("q"))
    text_of_pair: array[int] = field(default_factory=lambda: array("q"))
    weight_of_pair: array[float] = field(default_factory=lambda: array("f"))

    def add_all(self, items: Iterable[StoredItem]) -> None:
        for item in items:
            first = len(self.text_of_pair)
            for name, text in item.texts.items():
                weight = self.weights.get(name, 1.0)
                if weight:
                    self.text_of_pair.append(self.index_of_text.setdefault(text, len(self.index_of_text)))
                    self.weight_of_pair.append(weight)
            if len(self.text_of_pair) == first:
                self.without_text.append(item.id)
            self.ids.append(item.id)
            self.available.append(item.available)
            self.fields.append({**item.texts, **item.attributes})
            self.first_pair.append(first)


def _names(ids: list[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"item {', '.join(map(repr, ids[:_NAMED]))}{more}"
