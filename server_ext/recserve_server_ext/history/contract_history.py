"""The history of a user as the contract has it: interactions with weights and factors, and what was left out."""

from __future__ import annotations

from typing import Final

import msgspec

from recserve_client.contract import HistoryEntry, UserHistory
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.history.weights import FACTORS, weigh
from recserve_server_ext.interactions.columns import InteractionColumns

#: Counters that a `UserHistory` reports as left out.
_LEFT_OUT: Final = ("no_weight", "missing", "duplicates", "bots", "bounces")


def history_of(columns: InteractionColumns, rules: HistoryRules) -> UserHistory:
    """The contract's history of one user: interactions with weights and factors, and what was left out.

    Raises:
        ConfigError: The rules need fitted statistics and have none.
    """
    weighted = weigh(columns, rules)
    entries = []
    for place, index in enumerate(weighted.index.tolist()):
        subject = int(columns.subject[index])
        name, is_item = columns.subjects[subject], bool(columns.is_item[subject])
        entry = HistoryEntry(
            type=columns.types[columns.type[index]],
            timestamp=int(columns.time_us[index]) / 1e6,
            weight=float(weighted.weight[place]),
            factors={factor: float(weighted.factors[factor][place]) for factor in FACTORS},
            item=name if is_item else None,
            text=columns.comments.get(index) if is_item else name,
        )
        entries.append(entry)
    counts = msgspec.structs.asdict(weighted.counters)
    left_out = {name: counts[name] for name in _LEFT_OUT if counts[name]}
    return UserHistory(rules.version, counts["read"], left_out, entries)
