"""User vectors of logged histories, made as serving makes them: an engine is chosen with them, if there are enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from recserve_client.contract import RecommendForRequest
from recserve_server_ext.catalogue.view import RowOf
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.config.blend import BlendRules
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.server import Limits
from recserve_server_ext.history.user_histories import UserHistories
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.recommend.profile import made_of
from recserve_server_ext.recommend.requests import History
from recserve_server_ext.strategies.text import user_vectors

#: Fewer users say too little of a recall of .98; more than these change it no more.
LEAST: Final = 200
MOST: Final = 2000
_AT_ONCE: Final = 200


@dataclass(frozen=True, eq=False)
class _Items:
    """The rows of a catalogue that is being built."""

    row_of: RowOf


def logged_users(
    store: InteractionStore,
    rules: HistoryRules,
    row_of: RowOf,
    vectors: Vectors,
    encode: Callable[[Sequence[str]], Vectors],
    *,
    seed: int,
) -> Vectors | None:
    """The vectors of users with a usable history: those that a request with nothing but the user id would get.

    Args:
        store: What users did.
        rules: How interactions become weights.
        row_of: Row of each item.
        vectors: [items, dim] unit float32.
        encode: Encodes the texts of histories, as queries.
        seed: Of the sample.

    Returns:
        [users, dim] unit float32 of at most `MOST` users; none = there are fewer than `LEAST`.

    Raises:
        InteractionError: The store cannot be read.
        ConfigError: The rules need statistics and have none.
    """
    histories = _histories(store, rules, row_of, seed)
    if len(histories) < LEAST:
        return None
    texts = list(dict.fromkeys(text for history in histories for text in history.missing.values()))
    of_texts = dict(zip(texts, encode(texts), strict=True)) if texts else {}
    found = []
    for history in histories:
        behaviours = vectors[history.rows]
        for place, text in history.missing.items():
            behaviours[place] = of_texts[text]
        made = user_vectors(behaviours[None], history.weights[None])
        if not made.cancelled[0]:
            found.append(made.vectors[0])
    return np.stack(found) if len(found) >= LEAST else None


def _histories(store: InteractionStore, rules: HistoryRules, row_of: RowOf, seed: int) -> list[History]:
    """Usable ones of a sample of users."""
    users, items, limits = store.sample_users(MOST, seed), _Items(row_of), Limits()
    reader = UserHistories(lambda: store, rules, BlendRules())
    histories = []
    for start in range(0, len(users), _AT_ONCE):
        part = users[start : start + _AT_ONCE]
        pasts = reader.read(part)
        for user in part:
            made = made_of(RecommendForRequest(user_id=user), pasts[user], items, limits)
            if made.is_usable:
                histories.append(made.history)
    return histories
