"""The texts of the items that an encoder is trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.arrays import Ints, Mask, Vectors
from recserve_server_ext.encoder.item_vectors import PairCollector, Pairs, pooled


class ItemTexts(NamedTuple):
    """The weighted texts of items.

    Attributes:
        ids: [items] ids.
        weighted: Their texts; see `recserve_server_ext.encoder.item_vectors.Pairs`.
        field: [pairs] number of the text field of each.
        fields: Names of the fields.
    """

    ids: list[str]
    weighted: Pairs
    field: Ints
    fields: list[str]

    @property
    def owner(self) -> Ints:
        """[pairs] whose text it is, by place in `ids`."""
        return np.repeat(np.arange(len(self.ids)), np.diff(np.append(self.weighted.first, len(self.weighted.text))))

    def vectors(self, encode: Callable[[list[str]], Vectors], used: Mask | None = None) -> Vectors:
        """[items, dim] item vectors; zeros for an item that has none.

        Args:
            encode: Unit vectors of texts.
            used: [pairs] texts that count; `None` for all.
        """
        chosen = self.weighted if used is None else _chosen(self.weighted, used)
        distinct, place = np.unique(chosen.text, return_inverse=True)
        of_texts = encode([chosen.texts[text] for text in distinct.tolist()])
        # An item without a text that counts has no place in a sum of segments.
        lengths = np.diff(np.append(chosen.first, len(chosen.text)))
        some = np.flatnonzero(lengths)
        vectors = np.zeros((len(self.ids), of_texts.shape[1]), np.float32)
        found, cancelled = pooled(chosen._replace(first=chosen.first[some], text=place), of_texts)
        vectors[some[~cancelled]] = found[~cancelled]
        return vectors


def item_texts(place: Path | str, wanted: list[str]) -> ItemTexts:
    """The texts of those items of a catalogue that are wanted and have one, in the order in which they are wanted.

    Raises:
        CatalogueError: The store cannot be read.
    """
    with CatalogueStore(place) as store:
        weights, known = store.head().field_weights, set(wanted)
        texts_of = {item.id: item.texts for item in store.items() if item.id in known}
    collector, ids, fields = PairCollector(weights), [], []
    code_of: dict[str, int] = {}
    for item in wanted:
        texts = texts_of.get(item, {})
        if collector.add(texts):
            ids.append(item)
            fields += [code_of.setdefault(name, len(code_of)) for name in texts if weights.get(name, 1.0)]
    return ItemTexts(ids, collector.pairs(), np.array(fields, np.int64), list(code_of))


def _chosen(weighted: Pairs, used: Mask) -> Pairs:
    """The texts that count; `first` may have equal places, for items without any."""
    before = np.append(0, np.cumsum(used))
    return Pairs(weighted.texts, before[weighted.first], weighted.text[used], weighted.weight[used])
