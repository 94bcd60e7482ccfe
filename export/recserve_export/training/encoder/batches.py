"""Batches of a training of an encoder: some items, their texts, and how often each two belong together.

Everything of a batch follows from the seed and its number, so a training that was ended goes on with the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import torch

from recserve_export.training.encoder.settings import EncoderSettings
from recserve_export.training.encoder.texts import ItemTexts
from recserve_export.training.hard_negatives import neighbour_share
from recserve_export.training.pairs import Pairs
from recserve_server_ext.common.arrays import Floats, Ints, Mask

#: Tokenises texts: tensors [texts, tokens] by name.
Preprocess = Callable[[list[str]], Mapping[str, Any]]
#: Column of the numbers of batches.
NUMBER: Final = "number"
#: Texts of like length are padded together, in so many parts of a batch.
_PARTS: Final = 3


class Batches:
    """Collates: the numbers of batches become their tensors.

    Class attributes:
        valid_label_columns: Asked for by the trainer, which is to find no label among the numbers.
    """

    valid_label_columns: ClassVar[Sequence[str]] = ()

    def __init__(
        self,
        texts: ItemTexts,
        pairs: Pairs,
        settings: EncoderSettings,
        preprocess: Preprocess,
        nearest: Ints | None = None,
    ) -> None:
        """
        Args:
            texts: Texts of the items.
            pairs: Pairs of these items.
            settings: Settings.
            preprocess: Tokenises.
            nearest: [items, k] hard negatives of each item, which come into a batch with it; `None` without.
        """
        self._nearest = nearest
        # Twice: a pair has two items.
        self._reach = 2.0 * pairs.share
        if nearest is not None:
            self._reach = self._reach + 2.0 * neighbour_share(nearest, pairs.share)
        self._texts, self._pairs, self._settings, self._preprocess = texts, pairs, settings, preprocess
        self._length = np.array([len(text) for text in texts.weighted.texts])

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        """The batch of a number: token ids in parts of like length, and as `label` what `Objective` needs besides."""
        (row,) = rows
        random = np.random.default_rng([self._settings.seed, row[NUMBER]])
        items = np.unique(np.concatenate(self._pairs.drawn(random, self._settings.pairs)))
        if self._nearest is not None:
            items = np.union1d(items, self._nearest[items])
        used, owner = self._fields(items, random)
        asks, asked = _swapped(owner, self._settings.swap_fields, random)
        texts, place = np.unique(self._texts.weighted.text[used], return_inverse=True)
        order = np.argsort(self._length[texts], kind="stable")
        place_of = np.empty_like(order)
        place_of[order] = np.arange(len(order))
        weight, chance = weights(self._pairs, items, self._settings.pairs, self._reach)
        batch: dict[str, Any] = {
            "label": {
                "text": torch.from_numpy(texts[order]),
                "place": torch.from_numpy(place_of[place]),
                "owner": torch.from_numpy(owner),
                "field_weight": torch.from_numpy(self._texts.weighted.weight[used]),
                "asks": torch.from_numpy(asks),
                "asked": torch.from_numpy(asked),
                "weight": torch.from_numpy(weight.astype(np.float32)),
                "log_chance": torch.from_numpy(np.log(chance).astype(np.float32)),
            }
        }
        for number, part in enumerate(np.array_split(texts[order], min(_PARTS, len(texts)))):
            tensors = dict(self._preprocess([self._texts.weighted.texts[text] for text in part.tolist()]))
            if self._settings.drop_tokens:
                tensors["attention_mask"] = _dropped(tensors["attention_mask"], self._settings.drop_tokens, random)
            batch |= {f"{number}_{name}": tensor for name, tensor in tensors.items() if torch.is_tensor(tensor)}
        return batch

    def _fields(self, items: Ints, random: np.random.Generator) -> tuple[Ints, Ints]:
        """Places of the weighted texts of items, some fields left out; and [places] whose they are, by number."""
        first = self._texts.weighted.first
        begins, ends = first[items], np.append(first, len(self._texts.weighted.text))[items + 1]
        lengths = ends - begins
        owner = np.repeat(np.arange(len(items)), lengths)
        places = np.arange(len(owner)) + np.repeat(begins - np.append(0, np.cumsum(lengths)[:-1]), lengths)
        if not self._settings.drop_fields:
            return places, owner
        luck = random.random(len(places))
        best = np.full(len(items), -1.0)
        np.maximum.at(best, owner, luck)
        kept: Mask = (luck >= self._settings.drop_fields) | (luck == best[owner])
        return places[kept], owner[kept]


def weights(pairs: Pairs, items: Ints, drawn: int, reach: Floats) -> tuple[Floats, Floats]:
    """What stands for all pairs of a log in a batch of some items.

    Of n drawn pairs none has item i by the chance (1 - d_i)^n, with d_i the share of pairs that have it; none has i or
    j by (1 - d_i - d_j + d_ij)^n, with d_ij the share of pairs of both. So the chance that both are there is
    1 - (1 - d_i)^n - (1 - d_j)^n + (1 - d_i - d_j + d_ij)^n. A pair counts by one over it (D. Horvitz, D. Thompson,
    JASA 1952), so that a batch stands for the whole log. With hard negatives d_i is the share of pairs that bring i, as
    one of their items or as a neighbour of one, at most: then the chances are upper bounds.

    Args:
        pairs: The pairs.
        items: Items of the batch.
        drawn: Number n of drawn pairs.
        reach: [all items] d_i.

    Returns:
        [items, items] weights, and [items] the chance of each to be there.
    """
    counts = pairs.counts[items][:, items].toarray().astype(np.float64)
    has = reach[items]
    without = np.maximum(1.0 - has, 0.0) ** drawn
    neither = np.maximum(1.0 - has[:, None] - has[None] + counts / pairs.count, 0.0) ** drawn
    together = 1.0 - without[:, None] - without[None] + neither
    found = np.divide(counts, together, out=np.zeros_like(counts), where=counts > 0)
    return found, 1.0 - without


def _swapped(owner: Ints, share: float, random: np.random.Generator) -> tuple[Mask, Mask]:
    """[places] Which texts stand for an item where it asks, and which where it is asked for.

    All of them do, but for a share of the items with several texts: there one asks, and the others are asked for.

    Args:
        owner: [places] number of the item, ascending.
        share: Share of the items.
        random: Generator.
    """
    every = np.ones(len(owner), np.bool_)
    if not share:
        return every, every
    luck, (_, lengths) = random.random(len(owner)), np.unique(owner, return_counts=True)
    best = np.maximum.reduceat(luck, np.cumsum(lengths) - lengths)
    swapped = np.repeat((random.random(len(lengths)) < share) & (lengths > 1), lengths)
    is_best = luck == np.repeat(best, lengths)
    return ~swapped | is_best, ~swapped | ~is_best


def _dropped(mask: Any, share: float, random: np.random.Generator) -> Any:
    """An attention mask without some tokens; the first, which many models put before every text, stays."""
    kept = torch.from_numpy(random.random(tuple(mask.shape)) >= share)
    kept[:, 0] = True
    return mask * kept.to(mask.dtype)
