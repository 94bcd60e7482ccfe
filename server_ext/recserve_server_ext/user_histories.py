"""What users did, as weighted histories: read from the store for many users at once, by the rules of `preview`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from recserve_client.contract import Behaviour, HistoryEntry, UserHistory
from recserve_server_ext.event_columns import EventColumns
from recserve_server_ext.event_weights import FACTORS, weigh
from recserve_server_ext.history_rules import HistoryRules
from recserve_server_ext.interaction_store import InteractionStore

#: Newest interactions of a user that a history is made from.
WINDOW: Final = 500
_LEFT_OUT: Final = ("no_weight", "missing", "duplicates", "bots", "bounces")
#: What a behaviour may weigh; only ratios within a history count.
_HEAVIEST: Final = 1e6


class UserPast(NamedTuple):
    """What a recommendation needs to know of a user.

    Attributes:
        behaviours: Newest first; items and texts with their weights.
        seen: Every item the user had to do with.
    """

    behaviours: list[Behaviour]
    seen: list[str]


class UserHistories:
    """Reads the histories of the users of a batch: one query for their interactions, one for what they have seen.

    Nothing is kept between two reads, so what was acknowledged before one is in it.
    """

    def __init__(self, store: Callable[[], InteractionStore], rules: HistoryRules) -> None:
        """
        Args:
            store: Opens the interaction store.
            rules: How interactions become weights.
        """
        self._open = store
        self._rules = rules
        self.version = rules.version

    def read(self, pseudonyms: Sequence[str]) -> dict[str, UserPast]:
        """The past of each of these users; an unknown one has none.

        Raises:
            InteractionError: The store cannot be read.
        """
        store = self._open()
        histories = behaviours_of(store.window(pseudonyms, WINDOW), self._rules)
        seen = store.seen(pseudonyms)
        return {
            user: UserPast(behaviours, list(seen[user])) for user, behaviours in zip(pseudonyms, histories, strict=True)
        }


def behaviours_of(columns: EventColumns, rules: HistoryRules) -> list[list[Behaviour]]:
    """The weighted behaviours of each user, in the order of the columns.

    Raises:
        ConfigError: The rules need statistics and have none.
    """
    found = weigh(columns, rules)
    names, is_item = columns.subjects, columns.is_item.tolist()
    subjects, weights = columns.subject[found.index].tolist(), found.weight.tolist()
    behaviours = [
        Behaviour(item=names[subject], weight=weight)
        if is_item[subject]
        else Behaviour(None, names[subject], None, weight)
        for subject, weight in zip(subjects, weights, strict=True)
    ]
    bounds = found.offsets.tolist()
    return [_bounded(behaviours[start:end]) for start, end in pairwise(bounds)]


def history_of(columns: EventColumns, rules: HistoryRules) -> UserHistory:
    """The interactions of a single user with their weights and factors, and what was left out.

    Raises:
        ConfigError: The rules need statistics and have none.
    """
    found = weigh(columns, rules)
    entries = []
    for place, index in enumerate(found.index.tolist()):
        subject = int(columns.subject[index])
        name, is_item = columns.subjects[subject], bool(columns.is_item[subject])
        entry = HistoryEntry(
            type=columns.types[columns.type[index]],
            timestamp=int(columns.time_us[index]) / 1e6,
            weight=float(found.weight[place]),
            factors={factor: float(found.factors[factor][place]) for factor in FACTORS},
            item=name if is_item else None,
            text=None if is_item else name,
        )
        entries.append(entry)
    counts = msgspec.structs.asdict(found.counters)
    left_out = {name: counts[name] for name in _LEFT_OUT if counts[name]}
    return UserHistory(rules.version, counts["read"], left_out, entries)


def _bounded(behaviours: list[Behaviour]) -> list[Behaviour]:
    """The same ratios with weights that a request may have."""
    heaviest = max((abs(behaviour.weight) for behaviour in behaviours), default=0.0)
    if heaviest <= _HEAVIEST:
        return behaviours
    scale = 1.0 / heaviest
    return [msgspec.structs.replace(behaviour, weight=behaviour.weight * scale) for behaviour in behaviours]
