"""Which items of a home were not recommended lately."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import sqlalchemy as sa

from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.fields import read_table
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import IDS
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import answers

#: Newest logged answers that are looked at.
_ANSWERS: Final = 10_000
_SHOWN: Final = 50


class NotRecommended(NamedTuple):
    """Items of the published snapshot that none of the newest logged answers has.

    Attributes:
        answers: Answers that were looked at.
        available: Items of the snapshot that may be recommended.
        items: Those among them that were not recommended.
        ids: The first of these, in the order of the snapshot.
    """

    answers: int
    available: int
    items: int
    ids: list[str]


def not_recommended(home: Path) -> NotRecommended:
    """Compare the snapshot with the log.

    Raises:
        SnapshotError: There is no snapshot, or it is damaged.
        InteractionError: The store cannot be read.
    """
    workspace = Workspace(home)
    table = read_table(current(workspace.snapshots) / IDS)
    available = table["id"].to_numpy()[table["available"].to_numpy()]
    query = sa.select(answers.c.recommended).order_by(answers.c.number.desc()).limit(_ANSWERS)
    with InteractionStore(workspace.interactions) as store, store.database.reading() as connection:
        logged = list(connection.execute(query).scalars())
    recommended = {item for one in logged for item in msgspec.json.decode(one, type=list[str])}
    missing = available[~np.isin(available.astype(str), np.array(list(recommended), str))]
    return NotRecommended(len(logged), len(available), len(missing), missing[:_SHOWN].tolist())
