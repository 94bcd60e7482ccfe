from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from recserve_console.watch.stages import strategy_times
from recserve_server_ext.triton.metrics.page import MetricsPage


def page(slates: int, cold: int, search: tuple[int, int, int], sum_s: float) -> MetricsPage:
    """A page with slates of the strategy `text`, and the buckets of its searches: up to 1 ms, up to 10 ms, all."""
    labels = 'strategy="text",stage="search"'
    lines = [
        f'recserve_slates_total{{strategy="text",profile="personal"}} {slates - cold}',
        f'recserve_slates_total{{strategy="text",profile="cold"}} {cold}',
        'recserve_slates_total{strategy="popular",profile="cold"} 7',
        *(
            f'recserve_slate_stage_seconds_bucket{{{labels},le="{le}"}} {count}'
            for le, count in zip(("0.001", "0.01", "+Inf"), search, strict=True)
        ),
        f"recserve_slate_stage_seconds_sum{{{labels}}} {sum_s}",
        f"recserve_slate_stage_seconds_count{{{labels}}} {search[-1]}",
        'recserve_slate_stage_seconds_count{strategy="text",stage="encode"} 3',
    ]
    families = text_string_to_metric_families("\n".join([*lines, ""]))
    return MetricsPage([sample for family in families for sample in family.samples], 0.0)


def test_only_what_happened_between_the_pages_counts() -> None:
    (found,) = strategy_times(page(100, 50, (100, 100, 100), 1.0), page(300, 90, (100, 300, 300), 2.0))
    assert (found.strategy, found.slates, found.cold) == ("text", 200, 40)
    assert list(found.stages) == ["search"]
    assert found.stages["search"].slates == 200
    assert found.stages["search"].mean_ms == pytest.approx(5.0)
    # 198 of 200 are 99% of the way from 1 to 10 ms.
    assert found.stages["search"].p99_ms == pytest.approx(1 + 0.99 * 9)


def test_a_percentile_above_all_bounds_is_the_largest_bound() -> None:
    (found,) = strategy_times(page(0, 0, (0, 0, 0), 0.0), page(10, 0, (0, 1, 10), 10.0))
    assert found.stages["search"].p99_ms == pytest.approx(10.0)


def test_a_server_that_was_started_meanwhile_counts_from_nothing() -> None:
    times = strategy_times(page(1000, 0, (9, 9, 9), 1.0), page(10, 5, (2, 2, 2), 0.001))
    assert [(one.strategy, one.slates, one.cold) for one in times] == [("text", 10, 5)]


def test_nothing_happened() -> None:
    same = page(10, 5, (1, 2, 3), 0.1)
    assert strategy_times(same, same) == []
