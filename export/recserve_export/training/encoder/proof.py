"""Proves a trained encoder: it is compared with the first one on what was held out of the training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from scipy import stats

from recserve_export.index.spaces import placed
from recserve_export.training.base import text_map
from recserve_export.training.encoder.sentences import sentence_pairs
from recserve_export.training.encoder.split import ItemSpace, K, Split
from recserve_export.training.encoder.texts import ItemTexts
from recserve_export.training.ndcg import ndcg
from recserve_export.training.registry import train
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Vectors
from recserve_server_ext.encoder.manifest import Role

#: Unit vectors of texts in a role.
Encode = Callable[[list[str], Role], Vectors]
#: Searches of each text field at most.
_SEARCHES: Final = 500
#: Items among which they search at most.
_SEARCHED: Final = 50_000


def item_vectors(texts: ItemTexts, rows: Ints, wanted: Mask, encode: Encode) -> Vectors:
    """[items, dim] vectors of those items of a log that are wanted; zeros for the others, and where one has no text.

    Args:
        texts: Texts of the items that have one.
        rows: [items with a text] their places in the log.
        wanted: [items].
        encode: Of texts.
    """
    found = texts.vectors(lambda some: encode(some, "passage"), wanted[rows][texts.owner])
    vectors = np.zeros((len(wanted), found.shape[1]), np.float32)
    vectors[rows] = found
    return vectors


def answers(split: Split, vectors: Vectors) -> dict[str, Floats]:
    """[users] NDCG@10 by question, of the strategy `text`."""
    return {name: question.ndcg(vectors) for name, question in split.questions.items()}


def controls(split: Split, first: Vectors) -> dict[str, dict[str, float]]:
    """Mean NDCG@10 by question of what is the same for everybody: popularity, and what a text tells of it.

    Items with as many users, as all cold ones, are in a random order: that of the log tells how popular they will be.
    """
    counts = split.train.counts.astype(np.float64)
    known = np.flatnonzero(counts)
    fitted = text_map(first, known, np.log1p(counts[known])[:, None].astype(np.float32))
    ties = np.random.default_rng(0).random(len(counts))
    told = np.zeros(len(counts)) if fitted is None else (first @ fitted[:-1] + fitted[-1])[:, 0].astype(np.float64)
    return {
        name: {what: float(question.ndcg_for_everybody(scores).mean()) for what, question in split.questions.items()}
        for name, scores in (("popularity", counts + ties), ("popularity from text", told))
    }


def with_head(split: Split, vectors: Vectors, steps: int, seed: int) -> dict[str, Floats]:
    """`answers` of the training `text_head` over these vectors, trained on the same part of the log."""
    learned = train("text_head", split.train, vectors, {"steps": steps, "seed": seed})
    assert learned.vectors is not None
    mapped = np.zeros((len(vectors), learned.vectors.shape[1]), np.float32)
    mapped[learned.items] = learned.vectors
    return answers(split, mapped)


def with_ease(split: Split, vectors: Vectors) -> dict[str, Floats]:
    """[users] NDCG@10 by question, of a `fusion` of `text` over these vectors and `ease`."""
    spaces = [ease_space(split, vectors), ItemSpace(vectors, vectors)]
    return {name: question.ndcg_of_fusion(spaces) for name, question in split.questions.items()}


def ease_space(split: Split, vectors: Vectors) -> ItemSpace:
    """The space `ease`, trained on the same part of the log; it knows other items by its map from these vectors."""
    learned = train("ease", split.train, vectors)
    assert learned.vectors is not None
    assert learned.text_map is not None
    outputs, inputs, _ = placed(learned.vectors, learned.inputs, learned.items, vectors, learned.text_map)
    assert inputs is not None
    has_vector = vectors.any(axis=1, keepdims=True)
    return ItemSpace(outputs * has_vector, inputs * has_vector)


def search(texts: ItemTexts, encode: Encode) -> float | None:
    """Mean NDCG@10 of searches for a text field of an item among items whose vectors lack that field.

    Items whose field has the same text are right, too. `None` where no item has two fields.
    """
    random, found = np.random.default_rng(0), []
    weighted, owner = texts.weighted, texts.owner
    for field in range(len(texts.fields)):
        is_field = texts.field == field
        others = np.bincount(owner[~is_field], minlength=len(texts.ids)) > 0
        items = np.intersect1d(owner[is_field], np.flatnonzero(others))
        if len(items) < 2:
            continue
        items = np.sort(random.permutation(items)[:_SEARCHED])
        of_item = np.zeros(len(texts.ids), np.int64)
        of_item[owner[is_field]] = weighted.text[is_field]
        wanted = np.sort(random.permutation(np.unique(of_item[items]))[:_SEARCHES])
        vectors = texts.vectors(lambda some: encode(some, "passage"), ~is_field)[items]
        scores = encode([weighted.texts[text] for text in wanted.tolist()], "query") @ vectors.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        is_right = of_item[items][best] == wanted[:, None]
        right = np.array([np.count_nonzero(of_item[items] == text) for text in wanted.tolist()])
        found.append(float(ndcg(is_right, right).mean()))
    return float(np.mean(found)) if found else None


def kept(first: Encode, trained: Encode) -> float:
    """Spearman's rank correlation of the cosines of unrelated sentences with those of the first encoder."""
    pairs = sentence_pairs()

    def cosines(encode: Encode) -> Floats:
        distinct = {sentence: place for place, sentence in enumerate(dict.fromkeys(s for pair in pairs for s in pair))}
        vectors = encode(list(distinct), "passage")
        one, other = (vectors[[distinct[pair[side]] for pair in pairs]] for side in (0, 1))
        found: Floats = (one * other).sum(axis=1, dtype=np.float64)
        return found

    return float(stats.spearmanr(cosines(first), cosines(trained)).statistic)
