"""The chart of rates over time: lines of the groups with the most impressions, a bar for each interval."""

from __future__ import annotations

import pytest

from recserve_console.views.parts.rates_over_time import rates_chart
from recserve_export.outcomes.outcomes import Named
from recserve_export.outcomes.proportions import wilson
from recserve_export.outcomes.report import Group, OutcomeReport, Period, Rate

HOUR_S = 3600


def group(name: str, impressions: int, clicks: int) -> Group:
    rate = Rate(clicks, clicks / impressions if impressions else None, *wilson(clicks, impressions))
    none = Rate(0, 0.0 if impressions else None, *wilson(0, impressions))
    return Group(name, impressions, impressions, rate, none)


def report(*periods: list[Group]) -> OutcomeReport:
    names = dict.fromkeys(one.name for groups in periods for one in groups)
    whole = [
        group(name, sum(one.impressions for groups in periods for one in groups if one.name == name), 0)
        for name in names
    ]
    over_time = [Period(place * HOUR_S, groups, [], []) for place, groups in enumerate(periods)]
    return OutcomeReport(0, 0, 0, 3600.0, 0.1, Named(), whole, [], [], HOUR_S, over_time, [])


def test_a_line_has_a_point_and_an_interval_for_each_period_with_impressions() -> None:
    found = report([group("text", 10, 2), group("als", 20, 1)], [group("als", 5, 0)], [group("text", 40, 10)])
    options = rates_chart(found, "strategies", "clicks", "Clicks")
    text, als = options["series"]
    assert [point["value"] for point in text["data"]] == [[0, 20.0], [2 * HOUR_S * 1000, 25.0]]
    low, high = text["markLine"]["data"][0]
    assert [low["coord"][1], high["coord"][1]] == pytest.approx([100 * bound for bound in wilson(2, 10)])
    assert options["yAxis"]["max"] >= max(100 * wilson(*of)[1] for of in ((2, 10), (1, 20), (0, 5), (10, 40)))
    # Intervals of one period stand beside each other.
    assert als["markLine"]["data"][0][0]["coord"][0] > low["coord"][0]
    assert text["data"][1]["name"].startswith("text, 1970-01-01 02:00: 25.00% (")
    assert "the newest: text, 1970-01-01 02:00" in options["aria"]["label"]["description"]
    shown = rates_chart(found, "strategies", "conversions", "Conversions")["series"][0]["data"]
    assert [point["value"][1] for point in shown] == [0.0, 0.0]


def test_the_groups_with_the_most_impressions_are_drawn() -> None:
    groups = [group(f"s{place}", 10 + place, 1) for place in range(9)]
    drawn = rates_chart(report(groups), "strategies", "clicks", "Clicks")["series"]
    assert [line["name"] for line in drawn] == [f"s{place}" for place in range(3, 9)]
