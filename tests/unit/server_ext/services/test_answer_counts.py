"""Counts of answers, against plain loops."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recserve_client.contract import RecommendTimings, Slate
from recserve_client.contract.recommend import STAGES
from recserve_server_ext.services.answer_counts import _KEPT, BOUNDS_S, AnswerCounts
from support.fake_metrics import fake_metrics

ITEMS = 500


def view_of(available: int = ITEMS) -> Any:
    return SimpleNamespace(snapshot=object(), available=np.arange(ITEMS) < available)


def answered(counts: AnswerCounts, view: Any, rows: list[list[int]], strategy: str = "ease", **timings: int) -> None:
    took: dict[str, Any] = {f"{stage}_us": timings.get(stage, 0) for stage in STAGES}
    slate = Slate("r", [], [], 1, "e", RecommendTimings(**took), strategy)
    for own in rows:
        ranked, data = SimpleNamespace(rows=np.array(own)), SimpleNamespace(view=view)
        job: Any = SimpleNamespace(ranked=ranked, data=data, is_cold=strategy == "popular")
        counts.add(job, slate)
    counts.count()


def test_answers_are_counted_by_strategy_and_stage() -> None:
    counts, view = AnswerCounts(), view_of()
    answered(counts, view, [[1, 2], [3]], search=1000, queue=999)
    answered(counts, view, [[4]], search=3_000_000)
    answered(counts, view, [[5]], "popular")
    ease, popular = counts.by_strategy["ease"], counts.by_strategy["popular"]
    assert (ease.slates, ease.cold, popular.slates, popular.cold) == (3, 0, 1, 1)
    search = ease.buckets[STAGES.index("search")].tolist()
    assert search[BOUNDS_S.index(0.001)] == 2  # a bound belongs to its bucket
    assert search[-1] == 1
    assert ease.buckets[STAGES.index("queue"), BOUNDS_S.index(0.001)] == 2
    assert ease.sums_us[STAGES.index("search")] == 3_002_000


def test_the_spread_is_that_of_the_newest_items() -> None:
    counts, view = AnswerCounts(), view_of(400)
    assert all(map(math.isnan, counts.spread()))
    random = np.random.default_rng(0)
    rows = (random.pareto(1.0, (2, _KEPT)) * 20).astype(int) % 400
    for block in rows.reshape(-1, 64):
        answered(counts, view, [block.tolist()])
    found = counts.spread()
    tally = Counter(rows[1].tolist())
    shares = sorted((count / _KEPT for count in tally.values()), reverse=True)
    assert found.coverage == len(tally) / 400
    assert found.entropy_bits == pytest.approx(-sum(p * math.log2(p) for p in shares))
    assert found.top == pytest.approx(sum(shares[:4]))
    assert counts.by_strategy["ease"].slates == 2 * _KEPT // 64
    # Rows of a new snapshot are other items.
    answered(counts, view_of(400), [[7, 7]])
    assert counts.spread() == (1 / 400, 0.0, 1.0)


def test_metrics_are_cumulative_and_never_decrease() -> None:
    with fake_metrics() as fake:
        from recserve_server_ext.triton.metrics.models import AnswerMetrics

        counts, view = AnswerCounts(), view_of()
        metrics = AnswerMetrics(counts, every_s=1e6)
        assert not [name for name in fake.values if "slates_total" in name]
        answered(counts, view, [[1], [1]], search=1500)
        answered(counts, view, [[2]], "popular")
        counts.add_texts(np.array([True, False, True]))
        metrics.sample()
        counts.add_texts(np.array([False]))
        answered(counts, view, [[3]], search=1500)
        metrics.sample()
        metrics.close()
        assert fake.values['recserve_slates_total{strategy="ease",profile="personal"}'] == 3
        assert fake.values['recserve_slates_total{strategy="popular",profile="cold"}'] == 1
        assert [fake.values[f'recserve_text_cache_texts_total{{found="{found}"}}'] for found in ("yes", "no")] == [2, 2]
        name = "recserve_slate_stage_seconds"
        of = 'strategy="ease",stage="search"'
        buckets = [fake.values[f'{name}_bucket{{{of},le="{bound}"}}'] for bound in (*BOUNDS_S, "+Inf")]
        assert buckets == [0, 0, *[3] * (len(BOUNDS_S) - 1)]
        assert fake.values[f"{name}_sum{{{of}}}"] == pytest.approx(0.0045)
        assert fake.values[f"{name}_count{{{of}}}"] == 3
        assert fake.values["recserve_slate_coverage_ratio"] == 3 / ITEMS
