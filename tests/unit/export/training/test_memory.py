"""What trainings estimate for the largest log that is aimed at: it fits into 24 GB."""

from __future__ import annotations

import numpy as np
import pytest

from recserve_export.training.base import TrainingLog
from recserve_export.training.registry import TRAINERS, settings_of
from recserve_export.training.store_log import bytes_to_read
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.interactions.columns import InteractionColumns

INTERACTIONS, USERS, ITEMS = 20_000_000, 1_000_000, 300_000
BYTES = 24_000_000_000
#: Of an encoder such as MiniLM.
TEXT_DIM = 384


@pytest.fixture(scope="module")
def log() -> TrainingLog:
    """A log of the size alone: arrays of one number, which take no memory."""
    ints = np.broadcast_to(np.int64(0), INTERACTIONS)
    floats = np.broadcast_to(np.float64(1), INTERACTIONS)
    columns = InteractionColumns(
        offsets=np.broadcast_to(np.int64(0), USERS + 1),
        time_us=ints,
        type=ints,
        subject=ints,
        value=floats,
        duration_s=floats,
        price=floats,
        quantity=floats,
        types=["click"],
        subjects=[""] * ITEMS,
        is_item=np.broadcast_to(np.True_, ITEMS),
    )
    log = TrainingLog(ints, ints, ints, floats, USERS, columns.subjects, columns, HistoryRules())
    vars(log)["counts"] = np.broadcast_to(np.int64(INTERACTIONS // ITEMS), ITEMS)  # of users of each item
    return log


def test_reading_twenty_million_interactions_fits() -> None:
    assert INTERACTIONS * 64 < bytes_to_read(INTERACTIONS) < BYTES


@pytest.mark.parametrize("name", TRAINERS)
def test_twenty_million_interactions_fit(name: str, log: TrainingLog) -> None:
    columns = [array for array in vars(log.columns).values() if isinstance(array, np.ndarray)]
    held = sum(array.nbytes for array in [*columns, log.user, log.item, log.time_us, log.weight])
    of_users = 12 * INTERACTIONS + 8 * USERS  # `seen`
    needed = TRAINERS[name].needed_bytes(log, settings_of(name, {}))
    assert needed > 0
    assert held + of_users + 4 * ITEMS * TEXT_DIM + needed < BYTES
