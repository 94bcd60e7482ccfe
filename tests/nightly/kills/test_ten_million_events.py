"""A user with ten million events: the log is weighed in the memory that is foreseen, and decides nothing alone."""

from __future__ import annotations

import numpy as np
import psutil

from recserve_benchmarks.evaluation.memory import peak_memory
from recserve_export.training.base import training_log
from recserve_export.training.registry import TRAINERS, settings_of, train
from recserve_export.training.store_log import bytes_to_read
from recserve_server_ext.common.units import MIB
from recserve_server_ext.interactions.columns import InteractionColumns
from support.training_logs import columns_from

EVENTS, OTHERS, OF_EACH, ITEMS = 10_000_000, 200, 20, 2_000
_MINUTE_US = 60_000_000
#: What a training imports, such as torch.
_LIBRARIES_MIB = 400
#: What counts or factorises; networks see the same log.
TRAININGS = ("als", "ease", "item_knn", "text_head", "transitions", "user_knn")


def columns_of_one_and_others() -> InteractionColumns:
    """One user with an event a minute, and others with a few of the same items each."""
    random, length = np.random.default_rng(0), EVENTS + OTHERS * OF_EACH
    offsets = np.concatenate([[0], EVENTS + OF_EACH * np.arange(OTHERS + 1)])
    time_us = 1_000_000_000_000_000 + np.arange(length) * _MINUTE_US
    return columns_from(offsets, random.integers(ITEMS, size=length), time_us, ITEMS, "click")


def test_a_user_with_ten_million_events() -> None:
    columns = columns_of_one_and_others()
    before = psutil.Process().memory_info().rss
    with peak_memory() as peak:
        log = training_log(columns)
    assert peak.mib - before / MIB < bytes_to_read(EVENTS) / MIB
    assert np.bincount(log.user).tolist() == [20_000, *[OF_EACH] * OTHERS]
    assert log.time_us[:20_000].min() == columns.time_us[EVENTS - 20_000]
    text = np.random.default_rng(1).normal(size=(ITEMS, 8)).astype(np.float32)
    for name in TRAININGS:
        before = psutil.Process().memory_info().rss
        with peak_memory() as peak:
            learned = train(name, log, text, {"steps": 20} if name == "text_head" else {})
        assert any(found is not None for found in (learned.matrix, learned.vectors, learned.model))
        needed = TRAINERS[name].needed_bytes(log, settings_of(name, {}))
        assert peak.mib - before / MIB < needed / MIB + _LIBRARIES_MIB, name
