"""Histories of users as of a moment, for replays of a log."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from recserve_server_ext.history.recorded_history import EMPTY_HISTORY, RecordedHistory, recorded_histories
from recserve_server_ext.history.user_histories import WINDOW, UserHistories
from recserve_server_ext.interactions import changes, reads
from recserve_server_ext.interactions.comments import with_comments


class ReplayedHistory(NamedTuple):
    """A user's history before a moment.

    Attributes:
        history: Behaviours and seen items.
        types: Types of the interactions with each seen item.
    """

    history: RecordedHistory
    types: dict[str, set[str]]

    def repeatable(self, allowed: Collection[str]) -> set[str]:
        """Items that the user had only interactions of these types with."""
        return {item for item, types in self.types.items() if types.issubset(allowed)}


def histories_before(histories: UserHistories, pseudonyms: Sequence[str], before_us: int) -> dict[str, ReplayedHistory]:
    """The history of each of these users before a time in microseconds since 1970; nothing is cached.

    Raises:
        InteractionError: The store cannot be read.
        ConfigError: The rules need fitted statistics and have none.
    """
    store = histories.open_store()
    with store.database.reading() as connection:
        store.check(connection)
        number_of = {user: number for user, (number, _) in changes.change_numbers(connection, pseudonyms).items()}
        numbers = list(number_of.values())
        columns = reads.window_before(connection, numbers, WINDOW, before_us)
        if histories.reads_comments:
            columns = with_comments(connection, numbers, columns, WINDOW, before_us)
        types = reads.types_before(connection, numbers, before_us)
    seen = [list(types.get(number, {})) for number in numbers]
    found = dict.fromkeys(pseudonyms, ReplayedHistory(EMPTY_HISTORY, {}))
    for (user, number), history in zip(
        number_of.items(), recorded_histories(columns, seen, histories.rules), strict=True
    ):
        found[user] = ReplayedHistory(history, types.get(number, {}))
    return found
