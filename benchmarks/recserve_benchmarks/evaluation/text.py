"""Systems that know texts only: rules -> weights -> user vectors -> exact search, by the functions that serve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_benchmarks.evaluation.ranking import NEVER, Known
from recserve_benchmarks.evaluation.system import Settings
from recserve_server_ext.common.arrays import Ints, Scores, Vectors
from recserve_server_ext.config.history import Cleaning, HistoryRules, Rating
from recserve_server_ext.history.features import fit
from recserve_server_ext.history.weights import weigh
from recserve_server_ext.interactions.columns import EventColumns
from recserve_server_ext.strategies.text import user_vectors

#: Every interaction counts 1: the user vector is the plain mean.
PLAIN: Final = HistoryRules(
    base={"rating": 1.0},
    cleaning=Cleaning(bot_events=2**62),
    rating=Rating(types=()),
    half_life_s=None,
    half_life_events=None,
    damps_repeats=False,
)
#: Floats of padded histories held at once (4 MiB): what stays in the cache.
_BLOCK: Final = 1 << 20
_RULES: Final = frozenset(HistoryRules.__struct_fields__)


def rules_of(settings: Settings, base: HistoryRules = PLAIN) -> HistoryRules:
    """The rules with what the settings change; settings of something else are passed over."""
    return msgspec.structs.replace(base, **{name: value for name, value in settings.items() if name in _RULES})


def blocks(
    histories: EventColumns, rules: HistoryRules, vectors: Vectors
) -> Iterator[tuple[Ints, Vectors, NDArray[np.float64]]]:
    """Places of some users, their behaviours [users, behaviours, dim] and weights [users, behaviours]; 0 as padding.

    Users come sorted by the length of their history, so that there is little padding.
    """
    found = weigh(histories, rules)
    lengths = np.diff(found.offsets)
    item = histories.subject[found.index]
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    padded = np.concatenate([vectors, np.zeros((1, vectors.shape[1]), np.float32)])
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        users = order[start : start + max(1, _BLOCK // (longest * vectors.shape[1]))]
        inside = np.arange(longest) < lengths[users][:, None]
        places = np.where(inside, found.offsets[users][:, None] + np.arange(longest), 0)
        behaviours = padded[np.where(inside, item[places], len(vectors))]
        yield users, behaviours, np.where(inside, found.weight[places], 0.0)
        start += len(users)


def fitted(rules: HistoryRules, known: EventColumns) -> HistoryRules:
    """The rules, with statistics of all that is known where they need some."""
    if not rules.needs_fit:
        return rules
    return fit(known, rules, "known", int(known.time_us.min()), int(known.time_us.max()) + 1)


def text_users(known: Known, rules: HistoryRules) -> tuple[Vectors, NDArray[np.bool_]]:
    """[n, dim] user vectors, and [n] whether a user has one."""
    vectors = np.zeros((len(known.part.users), known.vectors.shape[1]), np.float32)
    has_one = np.zeros(len(vectors), np.bool_)
    for users, behaviours, weights in blocks(known.histories, fitted(rules, known.columns), known.vectors):
        found = user_vectors(behaviours, weights)
        vectors[users] = found.vectors
        has_one[users] = ~found.cancelled
    return vectors, has_one


def text_scores(known: Known, rules: HistoryRules) -> Scores:
    """[n, items] the score cos(u, v), which exact search ranks by; items without a text have none."""
    users, has_one = text_users(known, rules)
    scores = users @ known.vectors.T
    scores[~has_one] = NEVER
    scores[:, ~known.vectors.any(axis=1)] = NEVER
    return scores


def by_rules(known: Known, settings: Settings) -> Scores:
    """Plain text, but for the rules in the settings."""
    return text_scores(known, rules_of(settings))
