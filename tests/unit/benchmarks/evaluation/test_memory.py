"""The memory of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.evaluation.memory import default_bound, peak_memory, users_at_once
from recserve_server_ext.common.units import MIB

GIB = 1024 * MIB


def test_the_scores_of_a_block_fit_into_the_bound() -> None:
    for bound in (GIB, 4 * GIB, 24 * GIB):
        for interactions, items in ((100_000, 1_682), (1_150_000, 271_000), (3_000_000, 300_000)):
            users = users_at_once(bound, interactions, items, 384)
            assert 1 <= users <= 512
            assert interactions * 192 + items * 384 * 4 + users * items * 24 <= bound


def test_20_million_interactions_and_300_000_items_fit_into_24_gib() -> None:
    assert users_at_once(24 * GIB, 20_000_000, 300_000, 384) == 512


def test_too_little_memory_is_refused_before_anything_is_done() -> None:
    with pytest.raises(BenchmarkError, match=r"need 4,\d\d\d MiB; 1,024 MiB may be used: raise --memory"):
        users_at_once(GIB, 20_000_000, 300_000, 384)


def test_the_default_is_part_of_what_is_free() -> None:
    assert default_bound() > 0


def test_the_peak_of_a_block_is_measured() -> None:
    with peak_memory() as small:
        pass
    with peak_memory() as large:
        held = np.ones(100 * MIB, np.int8)
    assert held[-1] == 1
    if not np.isnan(large.mib):
        assert large.mib > small.mib + 90
