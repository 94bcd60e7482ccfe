"""From interactions to weights: the vectorised rules against plain Python, and what each rule is for."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.history import Cleaning, Feature, FeatureName, HistoryRules, Method, Rating, read_rules
from recserve_server_ext.history.features import fit
from recserve_server_ext.history.weights import FACTORS, WeightedInteractions, weigh
from recserve_server_ext.interactions.columns import InteractionRow, interaction_columns
from support.examples import examples
from support.plain_weights import plain_clean, plain_factors, plain_features, plain_statistics

# Sums in another order differ in the last bits of a double.
CLOSE = 1e-9
SECOND = 1_000_000
PLAIN = HistoryRules(half_life_s=None, half_life_interactions=None, damps_repeats=False)

# Few values and small steps, so that ties, repeats, duplicates and bursts happen all the time.
rows = st.builds(
    InteractionRow,
    time_us=st.integers(0, 12).map(lambda step: 1_700_000_000 * SECOND + step * 20 * SECOND),
    type=st.sampled_from(["view", "click", "rating", "purchase", "dislike", "other"]),
    item=st.sampled_from(["a", "b", "c"]),
    text=st.none(),
    value=st.none() | st.sampled_from([1.0, 2.0, 3.5, 5.0]),
    duration_s=st.none() | st.sampled_from([0.5, 2.0, 30.0]),
    price=st.none() | st.sampled_from([0.0, 9.99, 100.0]),
    quantity=st.none() | st.sampled_from([1.0, 3.0]),
)
texts = rows.map(lambda row: row._replace(item=None, text=row.item))
# As the store gives them, with no two at the same time: then nothing is sorted.
newest_first = st.lists(rows | texts, max_size=12, unique_by=lambda row: row.time_us).map(
    lambda found: sorted(found, key=lambda row: -row.time_us)
)
users = st.lists(st.lists(rows | texts, max_size=12), max_size=4) | st.lists(newest_first, max_size=4)
methods: st.SearchStrategy[Method] = st.sampled_from(["z", "minmax", "log", "quantile"])
half_lives = st.none() | st.floats(0.5, 100)
rules_of = st.builds(
    HistoryRules,
    cleaning=st.builds(Cleaning, bot_interactions=st.integers(1, 8), bot_window_s=st.sampled_from([1.0, 40.0, 1000.0])),
    rating=st.builds(Rating, method=methods | st.just("points"), prior=st.sampled_from([0.0, 0.5, 5.0])),
    features=st.dictionaries(
        st.sampled_from(["dwell", "clicks", "amount"]), st.builds(Feature, methods, st.floats(-2, 2)), max_size=3
    ),
    half_life_s=half_lives,
    half_life_interactions=half_lives,
    half_life_sessions=half_lives,
    session_gap_s=st.sampled_from([10.0, 40.0, 100.0]),
    damps_repeats=st.booleans(),
)


def fitted(of: list[list[InteractionRow]], rules: HistoryRules, start_us: int = 0, end_us: int = 2**62) -> HistoryRules:
    """The rules with statistics, where there is anything to fit on; else without what needs them."""
    try:
        return fit(interaction_columns(of), rules, "all", start_us, end_us)
    except ConfigError:
        return msgspec.structs.replace(rules, features={}, rating=Rating())


@examples(100)
@given(users, rules_of)
def test_weights_are_those_of_plain_python(of: list[list[InteractionRow]], rules: HistoryRules) -> None:
    rules = fitted(of, rules)
    found = weigh(interaction_columns(of), rules)
    totals = dict.fromkeys(("no_weight", "missing", "duplicates", "bots", "bot_users", "bounces"), 0)
    first = 0
    for user, events in enumerate(of):
        kept, counts = plain_clean(events, rules)
        totals = {name: count + counts[name] for name, count in totals.items()}
        here = slice(found.offsets[user], found.offsets[user + 1])
        assert found.index[here].tolist() == [first + place for place in kept]
        expected = plain_factors([events[place] for place in kept], rules)
        for name in FACTORS:
            of_name = [factors[name] for factors in expected]
            np.testing.assert_allclose(found.factors[name][here], of_name, rtol=CLOSE, atol=CLOSE, err_msg=name)
        weights = [math.prod(factors.values()) for factors in expected]
        np.testing.assert_allclose(found.weight[here], weights, rtol=CLOSE, atol=CLOSE)
        first += len(events)
    counters = msgspec.structs.asdict(found.counters)
    assert counters == {"read": first, "kept": len(found.index), **totals}


@examples(100)
@given(users, rules_of)
def test_statistics_are_those_of_plain_python(of: list[list[InteractionRow]], rules: HistoryRules) -> None:
    start_us, end_us = 1_700_000_040 * SECOND, 1_700_000_180 * SECOND
    try:
        found = fit(interaction_columns(of), rules, "part", start_us, end_us).fitted
    except ConfigError:
        found = None
    values: dict[str, list[float]] = {name: [] for name in ("dwell", "clicks", "amount", "rating")}
    count = 0
    for events in of:
        inside = [row for row in events if start_us <= row.time_us < end_us]
        kept = [inside[place] for place in plain_clean(inside, rules)[0]]
        count += len(kept)
        for row in kept:
            for name, value in plain_features(kept, row, rules).items():
                values[name] += [] if value is None else [value]
    if not count:
        assert found is None
        return
    assert found is not None
    assert found.interactions == count
    for name, of_name in values.items():
        expected, here = plain_statistics(of_name), getattr(found, name)
        assert here.count == expected.count
        for field in ("mean", "std", "least", "most", "knots"):
            np.testing.assert_allclose(getattr(here, field), getattr(expected, field), rtol=CLOSE, atol=CLOSE)


@examples(100)
@given(users, rules_of, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    of: list[list[InteractionRow]], rules: HistoryRules, chance: random.Random
) -> None:
    shuffled = [chance.sample(events, len(events)) for events in of]
    rules, again = fitted(of, rules), fitted(shuffled, rules)
    assert again.version == rules.version
    assert by_content(of, weigh(interaction_columns(of), rules)) == by_content(
        shuffled, weigh(interaction_columns(shuffled), rules)
    )


def by_content(of: list[list[InteractionRow]], found: WeightedInteractions) -> list[tuple[Any, ...]]:
    """What was kept, by user and content, with its weight to nine places."""
    flat = [(user, *row) for user, events in enumerate(of) for row in events]
    pairs = zip(found.index.tolist(), found.weight.tolist(), found.session.tolist(), strict=True)
    return sorted(((*map(repr, flat[place]), round(weight, 9) + 0.0, session) for place, weight, session in pairs))


@examples(50)
@given(users, rules_of)
def test_what_lies_outside_the_range_does_not_touch_a_fit(of: list[list[InteractionRow]], rules: HistoryRules) -> None:
    start_us, end_us = 1_700_000_040 * SECOND, 1_700_000_180 * SECOND
    inside = [[row for row in events if start_us <= row.time_us < end_us] for events in of]
    assert fitted(of, rules, start_us, end_us) == fitted(inside, rules, start_us, end_us)


def row(at_s: float, kind: str = "view", item: str = "a", **fields: Any) -> InteractionRow:
    none = dict.fromkeys(("text", "value", "duration_s", "price", "quantity"))
    return InteractionRow(**{"time_us": round(at_s * SECOND), "type": kind, "item": item, **none, **fields})


def weights(events: list[InteractionRow], rules: HistoryRules) -> list[float]:
    found: list[float] = weigh(interaction_columns([events]), rules).weight.tolist()
    return found


def test_low_ratings_push_away_and_high_ones_pull() -> None:
    events = [row(0, "rating", "a", value=5.0), row(1, "rating", "b", value=1.0), row(2, "rating", "c", value=3.0)]
    assert weights(events, PLAIN) == [2, -2, 0]


def test_the_first_rating_of_a_user_counts_against_the_middle() -> None:
    (weight,) = weights([row(0, "rating", value=5.0)], PLAIN)
    assert weight == pytest.approx(5 - (5 + 5 * 3) / 6)


def test_a_weight_halves_by_time_position_and_session() -> None:
    # Not in 1970, whose times are the order of rows.
    events = [row(at, "click", name) for at, name in ((10**9, "a"), (10**9 + 100, "b"), (10**9 + 110, "c"))]
    rules = {
        "age": {"half_life_s": 10.0},
        "position": {"half_life_interactions": 1.0},
        "session": {"half_life_sessions": 1.0},
    }
    expected = {"age": [2**-11, 0.5, 1], "position": [0.25, 0.5, 1], "session": [0.5, 1, 1]}
    for name, change in rules.items():
        changed = msgspec.structs.replace(PLAIN, session_gap_s=50.0, **change)
        assert weights(events, changed) == pytest.approx(expected[name]), name


def test_a_pause_as_long_as_the_gap_begins_no_session() -> None:
    events = [row(1.7e9 + at, item=item) for at, item in ((0, "a"), (50, "b"), (100.001, "c"), (100.001, "d"))]
    found = weigh(interaction_columns([events, events[:1]]), msgspec.structs.replace(PLAIN, session_gap_s=50.0))
    assert found.session.tolist() == [1, 1, 0, 0, 0]


def test_weights_of_the_distant_past_keep_their_ratios() -> None:
    rules = HistoryRules(half_life_s=60.0)
    now = [row(1.7e9, "click", "a"), row(1.7e9 + 60, "click", "b")]
    long_ago = [event._replace(time_us=event.time_us - 10**15) for event in now]
    assert weights(now, rules) == weights(long_ago, rules)


def test_repeats_count_less_than_as_many_items() -> None:
    rules = msgspec.structs.replace(PLAIN, damps_repeats=True)
    repeated = weights([row(at, "click") for at in range(8)], rules)
    assert sum(repeated) == pytest.approx(8 / (1 + math.log(8)))


def test_a_bot_is_left_out_and_a_busy_person_is_not() -> None:
    rules = msgspec.structs.replace(PLAIN, cleaning=Cleaning(bot_interactions=10, bot_window_s=5.0))
    bot = [row(at / 10, item=str(at)) for at in range(11)]
    person = [row(at, item=str(at)) for at in range(100)]
    found = weigh(interaction_columns([bot, person]), rules)
    assert found.offsets.tolist() == [0, 0, 100]
    assert (found.counters.bots, found.counters.bot_users) == (11, 1)


def test_features_raise_and_lower_weights() -> None:
    names: list[FeatureName] = ["dwell", "clicks", "amount"]
    rules = msgspec.structs.replace(PLAIN, features={name: Feature("z", 0.5) for name in names})
    events = [row(at, duration_s=10.0 + at, price=5.0 + at, item=str(at)) for at in range(5)]
    events += [row(9, "click", "0")]
    found = weigh(interaction_columns([events]), fitted([events], rules)).factors
    for name in ("dwell", "amount"):
        assert np.all(np.diff(found[name][:5]) > 0)
        assert found[name][2] == pytest.approx(1)  # the mean
        assert found[name][5] == 1  # has none
    assert found["clicks"][0] > 1 > found["clicks"][1]


def test_rules_without_the_statistics_they_need_are_refused() -> None:
    rules = HistoryRules(features={"dwell": Feature("log")})
    with pytest.raises(ConfigError, match="recserve interactions fit"):
        weigh(interaction_columns([[row(0)]]), rules)
    with pytest.raises(ConfigError, match="no interaction to fit on"):
        fit(interaction_columns([[row(0)]]), rules, "none", 5, 5)


def test_nothing_at_all() -> None:
    empty: list[list[list[InteractionRow]]] = [[], [[]], [[], []]]
    for of in empty:
        found = weigh(interaction_columns(of), HistoryRules())
        assert (found.offsets.tolist(), len(found.weight)) == ([0] * (len(of) + 1), 0)


def test_the_version_names_rules_and_statistics(tmp_path: Path) -> None:
    rules = HistoryRules(features={"dwell": Feature("log")})
    other = msgspec.structs.replace(rules, half_life_s=1.0)
    of = [[row(0, duration_s=4.0), row(1, duration_s=5.0)]]
    versions = {rules.version, other.version, fitted(of, rules).version, fitted(of[:1] * 2, other).version}
    assert len(versions) == 4
    path = tmp_path / "rules.json"
    path.write_bytes(msgspec.json.encode(fitted(of, rules)))
    assert read_rules(path) == fitted(of, rules)


def test_rules_are_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text("half_life_s = 60.0\n[base]\nview = 1\n[features.dwell]\nmethod = 'z'\n")
    assert read_rules(path) == HistoryRules(base={"view": 1}, half_life_s=60.0, features={"dwell": Feature("z")})
    path.write_text("half_life = 60.0\n")
    with pytest.raises(ConfigError, match="half_life"):
        read_rules(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_rules(tmp_path / "none.toml")


def test_equal_times_make_no_bot() -> None:
    rules = msgspec.structs.replace(PLAIN, cleaning=Cleaning(bot_interactions=10, bot_window_s=5.0))
    of_one_day = [row(0, item=str(number)) for number in range(205)]
    assert weigh(interaction_columns([of_one_day]), rules).counters.bots == 0


def test_the_order_of_rows_is_no_recency() -> None:
    ordinals = [row(0, item=str(number))._replace(time_us=number * SECOND) for number in range(1, 30)]
    found = weigh(interaction_columns([ordinals]), HistoryRules())
    assert set(found.factors["age"]) == set(found.factors["position"]) == {1.0}
    assert set(found.newer) == {0}
    far_apart = [row(0, item=str(number))._replace(time_us=number * 10_000 * SECOND) for number in range(1, 30)]
    found = weigh(interaction_columns([far_apart]), msgspec.structs.replace(HistoryRules(), half_life_sessions=1.0))
    assert set(found.factors["session"]) == {1.0}
