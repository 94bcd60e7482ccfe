"""Whether a classifier of comments helps: how well it tells them apart, and what its weights do to recommendations."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from scipy import sparse, stats

from recserve_export.training.encoder.split import Question
from recserve_export.training.run.judge import interval
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Vectors
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.history.features import select
from recserve_server_ext.history.weights import weigh
from recserve_server_ext.interactions.columns import InteractionColumns


class Separation(NamedTuple):
    """How well the probabilities of texts tell positive from negative ones.

    Attributes:
        auc: Area under the ROC curve: how often a positive text has the higher probability of two.
        p_value: Of the one-sided Mann-Whitney test against .5.
        recalls: Share of the positive texts with a probability of at least .5, and of the negative ones below.
    """

    auc: float
    p_value: float
    recalls: tuple[float, float]


class Effect(NamedTuple):
    """NDCG@10 of the strategy `text` on the next item that a user rated above the middle, by weights of the history.

    Attributes:
        users: Users that were asked.
        plain: Without ratings and comments.
        comments: With the factors of the comments.
        ratings: With the ratings that stand beside the comments: what comments can reach at best.
        low: Lower end of the 95% interval of `comments` - `plain`, by a paired bootstrap over users.
        high: Upper end.
    """

    users: int
    plain: float
    comments: float
    ratings: float
    low: float
    high: float


def separation(positive: Floats, is_positive: Mask) -> Separation:
    """How well probabilities [texts] tell texts apart."""
    high, low = positive[is_positive], positive[~is_positive]
    found = stats.mannwhitneyu(high, low, alternative="greater")
    auc = float(found.statistic) / (len(high) * len(low))
    return Separation(auc, float(found.pvalue), (float((high >= 0.5).mean()), float((low < 0.5).mean())))


def effect(
    columns: InteractionColumns, is_positive: Mask, factors: Floats, asked: Mask, vectors: Vectors, rules: HistoryRules
) -> Effect:
    """What the factors of comments do to recommendations.

    Args:
        columns: Rated interactions with a comment, sorted by user and time.
        is_positive: [interactions] whether the rating is above the middle.
        factors: [interactions] factors of the comments.
        asked: [users] whether a user may be asked.
        vectors: [items] text vectors; zeros for an item without one.
        rules: Rules of histories.
    """
    targets = _targets(columns, is_positive & vectors.any(axis=1)[columns.subject], asked)
    places = np.flatnonzero(np.arange(len(columns.time_us)) < targets[columns.user])
    unrated = msgspec.structs.replace(rules, rating=msgspec.structs.replace(rules.rating, types=()))
    plain, rated = (_weights(columns, places, own) for own in (unrated, rules))
    found = [
        _ndcg(columns, targets, weights, vectors)
        for weights in (plain, np.where(plain > 0, plain * factors, plain), rated)
    ]
    if not len(found[0]):
        return Effect(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    low, high = interval(found[1] - found[0])
    plain_ndcg, comments_ndcg, ratings_ndcg = (float(one.mean()) for one in found)
    return Effect(len(found[0]), plain_ndcg, comments_ndcg, ratings_ndcg, low, high)


def _targets(columns: InteractionColumns, able: Mask, asked: Mask) -> Ints:
    """[users] position of the last interaction that can be asked for; 0, which nothing comes before, without one."""
    targets = np.zeros(columns.users, np.int64)
    places = np.flatnonzero(able & asked[columns.user])
    targets[columns.user[places]] = places  # the last one stays
    return targets


def _weights(columns: InteractionColumns, places: Ints, rules: HistoryRules) -> Floats:
    """[interactions] weights by the rules; 0 for those that are left out."""
    weights = np.zeros(len(columns.time_us))
    weighted = weigh(select(columns, places), rules)
    weights[places[weighted.index]] = weighted.weight
    return weights


def _ndcg(columns: InteractionColumns, targets: Ints, weights: Floats, vectors: Vectors) -> Floats:
    """[users with a history and a target] NDCG@10."""
    shape = columns.users, len(columns.subjects)
    user, item = columns.user, columns.subject
    is_history = np.arange(len(user)) < targets[user]
    history = _sparse(weights[is_history], user[is_history], item[is_history], shape)
    wanted = np.flatnonzero(targets)
    target = _sparse(np.ones(len(wanted)), wanted, item[targets[wanted]], shape)
    known = _sparse(np.ones(int(is_history.sum())), user[is_history], item[is_history], shape)
    # Who came back to an item is not asked: what is known is not recommended.
    is_new = np.asarray(target.multiply(known).sum(axis=1)).ravel() == 0
    users = np.flatnonzero((np.diff(target.indptr) > 0) & (np.diff(known.indptr) > 0) & is_new)
    question = Question(history[users], target[users] > 0, vectors.any(axis=1), known[users] > 0)
    return question.ndcg(vectors)


def _sparse(values: Floats, user: Ints, item: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    matrix = sparse.coo_array((values.astype(np.float32), (user, item)), shape).tocsr()
    matrix.sum_duplicates()
    return matrix
