"""Small logs of which everything is known, for systems of the offline evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from recserve_benchmarks.evaluation.ranking import Known, known_to
from recserve_benchmarks.evaluation.split import Part
from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.interactions.columns import InteractionColumns, InteractionRow, interaction_columns


def event(time_us: int, item: int) -> InteractionRow:
    """A like."""
    return InteractionRow(time_us, "like", str(item), None, None, None, None, None)


def log_of(histories: list[list[int]], items: int) -> InteractionColumns:
    """Interactions a second apart; items 0, 1 ... in the order of their numbers."""
    rows = [
        [
            InteractionRow(10**6 * place, "like", str(item), None, None, None, None, None)
            for place, item in enumerate(of_user)
        ]
        for of_user in histories
    ]
    everything = [event(0, item) for item in range(items)]
    columns = interaction_columns([everything, *rows])
    # The first user only gives the items their order.
    known = np.arange(items, len(columns.time_us))
    fields: dict[str, Any] = {
        name: getattr(columns, name)[known]
        for name in ("time_us", "type", "subject", "value", "duration_s", "price", "quantity")
    }
    return InteractionColumns(
        offsets=columns.offsets[1:] - items, types=columns.types, subjects=columns.subjects, is_item=columns.is_item,
        **fields,
    )  # fmt: skip


def known_of(histories: list[list[int]], items: int, seed: int = 0, vectors: Vectors | None = None) -> Known:
    """All of it known, of all users, and nothing in particular to be found; item ids are the numbers."""
    columns = log_of(histories, items)
    users = np.arange(len(histories))
    known = np.ones(len(columns.time_us), np.bool_)
    targets = sparse.csr_array((len(users), items), dtype=np.bool_)
    part = Part(known=known, users=users, targets=targets, seed=seed)
    return known_to(part, columns, np.zeros((items, 2), np.float32) if vectors is None else vectors)


def everybody(known: Known) -> Ints:
    """Places of all users asked about."""
    return np.arange(len(known.part.users))
