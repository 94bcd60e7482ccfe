"""What a catalogue holds, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from recserve_server_ext.catalogue.store import CatalogueStore, ImportRecord

_ITEMS_PER_REPORT = 1000
#: Distinct values that are counted, and the most frequent ones that are given.
_COUNTED, _MOST = 10_000, 5


class TextStats(msgspec.Struct, frozen=True):
    """One text field.

    Attributes:
        weight: a_f of v = normalise(sum_f a_f G(y_f)).
        items: Items that have it.
        mean_characters: Mean length of its texts.
    """

    weight: float
    items: int
    mean_characters: float


class AttributeStats(msgspec.Struct, frozen=True):
    """One attribute.

    Attributes:
        items: Items that have it.
        types: Types of its values.
        distinct: Distinct values, of lists their parts; counted up to 10,000.
        most: The most frequent values with their numbers of items.
    """

    items: int
    types: list[str]
    distinct: int
    most: dict[str, int]


class CatalogueStats(msgspec.Struct, frozen=True):
    """A catalogue in numbers.

    Attributes:
        revision: Revision of the catalogue.
        items: Number of items.
        available: Number of items that may be recommended.
        source: What it was imported from.
        texts: By name of the text field.
        attributes: By name.
    """

    revision: int
    items: int
    available: int
    source: ImportRecord | None
    texts: dict[str, TextStats]
    attributes: dict[str, AttributeStats]


def collect_stats(store: CatalogueStore, on_progress: Callable[[int], None] = lambda _: None) -> CatalogueStats:
    """Count the catalogue, reading every item once; `on_progress` gets the number of items read so far.

    Raises:
        CatalogueError: The store cannot be read.
    """
    weights = store.head().field_weights
    items = available = 0
    texts: Counter[str] = Counter(dict.fromkeys(weights, 0))
    characters: Counter[str] = Counter()
    attributes: Counter[str] = Counter()
    types: dict[str, set[str]] = {}
    values: dict[str, Counter[str]] = {}
    for item in store.items():
        items += 1
        available += item.available
        for name, text in item.texts.items():
            texts[name] += 1
            characters[name] += len(text)
        for name, value in item.attributes.items():
            attributes[name] += 1
            types.setdefault(name, set()).add(type(value).__name__)
            _count(values.setdefault(name, Counter()), value)
        if items % _ITEMS_PER_REPORT == 0:
            on_progress(items)
    on_progress(items)
    return CatalogueStats(
        revision=store.revision,
        items=items,
        available=available,
        source=store.source(),
        texts={
            name: TextStats(weights.get(name, 1.0), count, characters[name] / max(count, 1))
            for name, count in texts.items()
        },
        attributes={
            name: AttributeStats(count, sorted(types[name]), len(values[name]), dict(values[name].most_common(_MOST)))
            for name, count in attributes.items()
        },
    )


def _count(counts: Counter[str], value: Any) -> None:
    """Count a value, or the parts of a list; values beyond the bound are passed over."""
    parts = value if isinstance(value, list) and value and isinstance(value[0], str) else [value]
    for part in parts:
        name = str(part)
        if name in counts or len(counts) < _COUNTED:
            counts[name] += 1
