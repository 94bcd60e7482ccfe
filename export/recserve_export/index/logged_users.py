"""User vectors of logged histories, made as serving makes them, to choose an engine with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from recserve_client.contract import RecommendRequest
from recserve_server_ext.catalogue.view import RowOf
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.config.server import Limits
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.history.user_histories import UserHistories
from recserve_server_ext.index.item_ids import RowTable
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.recommend.profile import profile_of_user
from recserve_server_ext.strategies.base import Profile
from recserve_server_ext.strategies.spaces.text import CANCELLED, weighted_means

#: Fewer users say too little of a recall of .98; more than these change it no more.
LEAST: Final = 200
MOST: Final = 2000
_AT_ONCE: Final = 200


class LoggedUsers(NamedTuple):
    """Where the users of the log are.

    Attributes:
        where: The interaction store, a file or a URL.
        rules: How interactions become weights.
    """

    where: Path | str
    rules: HistoryRules

    def vectors(self, ids: Sequence[str], vectors: Vectors, encoder: TextEncoder, seed: int) -> Vectors | None:
        """Their vectors, see `logged_users`; `None` where there are too few, or there is no store.

        Raises:
            ServerError: The store cannot be read, or the rules need statistics and have none.
        """
        if isinstance(self.where, Path) and not self.where.exists():
            return None
        row_of = RowTable.of(list(ids))
        with InteractionStore(self.where, InteractionLimits()) as store:
            return logged_users(store, self.rules, row_of, vectors, partial(encoder.encode, role="query"), seed=seed)


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
        seed: Seed of the sample.

    Returns:
        [users, dim] unit float32 of at most `MOST` users; `None` when there are fewer than `LEAST`.

    Raises:
        InteractionError: The store cannot be read.
        ConfigError: The rules need statistics and have none.
    """
    profiles = _profiles(store, rules, row_of, seed)
    if len(profiles) < LEAST:
        return None
    texts = list(dict.fromkeys(text for profile in profiles for text in profile.missing.values()))
    of_texts = dict(zip(texts, encode(texts), strict=True)) if texts else {}
    found = []
    for profile in profiles:
        behaviours = vectors[profile.rows]
        for place, text in profile.missing.items():
            behaviours[place] = of_texts[text]
        means = weighted_means(behaviours[None], profile.weights[None])
        if means.norms[0] > CANCELLED * means.mass[0]:
            found.append(means.vectors[0])
    return np.stack(found) if len(found) >= LEAST else None


def _profiles(store: InteractionStore, rules: HistoryRules, row_of: RowOf, seed: int) -> list[Profile]:
    """The usable profiles of a sample of users."""
    users, items, limits = store.sample_users(MOST, seed), _Items(row_of), Limits()
    reader = UserHistories(lambda: store, rules)
    profiles = []
    for start in range(0, len(users), _AT_ONCE):
        part = users[start : start + _AT_ONCE]
        pasts = reader.read(part)
        for user in part:
            found = profile_of_user(RecommendRequest(user_id=user), pasts[user], items, limits, 0)
            if found.profile.is_usable:
                profiles.append(found.profile)
    return profiles
