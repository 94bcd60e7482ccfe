"""Slates of a batch against plain Python for one user, and what holds for every slate."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_client.contract.filters import Exists
from recserve_client.contract.slate_options import Bury, Group, Pin, Quota, SlateOptions
from recserve_server_ext.attributes.columns import AttributeColumns
from recserve_server_ext.attributes.values import Source, candidate_values
from recserve_server_ext.slate.rules import Candidates, Slates, arrange
from support.examples import examples
from support.plain_slate import User, allowed, plain_slate

ANY = Exists("x")
#: Quarters, so that sums are exact and ties are ties.
SCORES = st.sampled_from([-np.inf, -0.25, 0.0, 0.25, 0.5, 0.75])
LISTS = st.lists(st.sampled_from("abc"), max_size=2)


@st.composite
def cases(draw: st.DrawFn) -> tuple[SlateOptions, list[User], int]:
    """Options, some users with as many candidates, and k."""
    n, k = draw(st.integers(1, 8)), draw(st.integers(1, 9))
    places = draw(st.lists(st.integers(1, k), unique=True, max_size=2))
    asked = draw(st.lists(st.integers(1, k), max_size=2).filter(lambda counts: sum(counts) <= k))
    buries = draw(st.integers(0, 2))
    options = SlateOptions(
        diversify=draw(st.sampled_from([0.0, 0.0, 0.5, 1.0])),
        min_score=draw(st.sampled_from([None, 0.25])),
        groups=[Group("g", at_most) for at_most in draw(st.lists(st.integers(1, 3), max_size=2))],
        pins=[Pin(f"item {place}", place, name=f"pin {place}") for place in places],
        bury=[Bury(ANY, name=f"bury {number}") for number in range(buries)],
        quotas=[Quota(ANY, count, name=f"quota {number}") for number, count in enumerate(asked)],
    )
    some = st.sets(st.integers(0, n - 1))
    users = []
    for _ in range(draw(st.integers(1, 3))):
        scores = draw(st.lists(SCORES, min_size=n, max_size=n))
        there = [c for c in range(n) if scores[c] > -np.inf]
        pinned = draw(st.permutations(there))[: len(places)]
        users.append(
            User(
                scores=scores,
                values=[[set(draw(LISTS)) for _ in range(n)] for _ in options.groups],
                pinned=pinned + [-1] * (len(places) - len(pinned)),
                buried=[draw(some) for _ in range(buries)],
                quotas=[draw(some) for _ in asked],
                vectors=np.eye(3, dtype=np.float32)[draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))],
            )
        )
    return options, users, k


def masks(numbers: list[list[set[int]]], n: int) -> list[NDArray[np.bool_]]:
    return [np.array([[c in those for c in range(n)] for those in rule]) for rule in zip(*numbers, strict=True)]


def arranged(options: SlateOptions, users: list[User], k: int) -> Slates:
    n = len(users[0].scores)
    rows = np.arange(len(users) * n).reshape(len(users), n)
    groups = []
    for number in range(len(options.groups)):
        columns = AttributeColumns.of_items([{"g": sorted(values)} for user in users for values in user.values[number]])
        groups.append(candidate_values("g", [Source(columns, rows)]))
    candidates = Candidates(
        scores=np.array([user.scores for user in users]),
        vectors=np.array([user.vectors for user in users]),
        groups=groups,
        pinned=list(np.array([user.pinned for user in users], np.int64).T),
        buried=masks([user.buried for user in users], n),
        quotas=masks([user.quotas for user in users], n),
    )
    return arrange(options, candidates, k)


def chosen(slates: Slates, user: int) -> list[int]:
    row: list[int] = slates.picks[user].tolist()
    count = sum(pick >= 0 for pick in row)
    assert row[count:] == [-1] * (len(row) - count)
    return row[:count]


@examples(300)
@given(cases())
def test_equal_to_plain_python(case: tuple[SlateOptions, list[User], int]) -> None:
    options, users, k = case
    slates = arranged(options, users, k)
    names = [rule.name for rules in (options.pins, options.bury, options.quotas) for rule in rules]
    for number, user in enumerate(users):
        expected = plain_slate(options, user, k)
        assert chosen(slates, number) == [c for c, _ in expected]
        for place, (_, rules) in enumerate(expected):
            assert slates.moved_by(number, place) == [names[rule] for rule in sorted(rules)]


@examples(300)
@given(cases())
def test_what_holds_for_every_slate(case: tuple[SlateOptions, list[User], int]) -> None:
    options, users, k = case
    slates = arranged(options, users, k)
    for number, user in enumerate(users):
        slate = chosen(slates, number)
        pinned = {c for c in user.pinned if c >= 0}
        assert len(set(slate)) == len(slate) <= k
        # Pins at their places, or as near as there are items before them.
        for pin, c in zip(options.pins, user.pinned, strict=True):
            if c >= 0:
                assert slate.index(c) <= pin.place - 1
                assert len(slate) < k or slate[pin.place - 1] == c
        # Never more than n of a group, unless pins alone are more.
        for group, values in zip(options.groups, user.values, strict=True):
            counts = Counter(value for c in slate for value in values[c])
            forced = Counter(value for c in pinned for value in values[c])
            assert all(count <= max(group.at_most, forced[value]) for value, count in counts.items())
        # A slate is short only where no candidate is left that the rules allow.
        left = [c for c in range(len(user.scores)) if c not in slate and allowed(options, user, slate, c)]
        assert len(slate) == k or not left
        # No quota is missed while a candidate for it is left and some place went to an item of no rule.
        if not options.groups and len(slate) == k:
            for quota, those in zip(options.quotas, user.quotas, strict=True):
                missed = quota.at_least > len(those & set(slate))
                assert not (missed and those & set(left)) or len(pinned) > k - sum(q.at_least for q in options.quotas)


@given(st.lists(st.tuples(SCORES, st.sampled_from("abcde")), min_size=1, max_size=12), st.integers(1, 3))
def test_k_items_whenever_single_values_allow_them(items: list[tuple[float, str]], at_most: int) -> None:
    user = User([score for score, _ in items], values=[[{value} for _, value in items]])
    user.vectors = np.zeros((len(items), 2), np.float32)
    slate = chosen(arranged(SlateOptions(groups=[Group("g", at_most)]), [user], 6), 0)
    sizes = Counter(value for score, value in items if score > -np.inf)
    assert len(slate) == min(6, sum(min(at_most, size) for size in sizes.values()))
    # Ties in the order of the candidates.
    assert slate == sorted(slate, key=lambda c: (-user.scores[c], c))


@given(st.lists(SCORES, min_size=1, max_size=12), st.sampled_from([None, 0.25]))
def test_without_rules_it_is_the_stable_order(scores: list[float], min_score: float | None) -> None:
    fit = [c for c, score in enumerate(scores) if score > -np.inf and (min_score is None or score >= min_score)]
    slates = arrange(SlateOptions(min_score=min_score), Candidates(np.array([scores])), 5)
    assert chosen(slates, 0) == sorted(fit, key=lambda c: (-scores[c], c))[:5]
    assert slates.picks.shape == (1, min(5, len(scores)))


def test_each_rule_names_what_it_moved() -> None:
    options = SlateOptions(
        pins=[Pin("x", 2, name="launch")], bury=[Bury(ANY, name="old")], quotas=[Quota(ANY, 1, name="local")]
    )
    user = User([0.9, 0.8, 0.7, 0.6, 0.5], pinned=[4], buried=[{0}], quotas=[{3}])
    user.vectors = np.zeros((5, 2), np.float32)
    slates = arranged(options, [user], 3)
    assert chosen(slates, 0) == [1, 4, 3]
    assert [slates.moved_by(0, place) for place in range(3)] == [[], ["launch"], ["local"]]
    slates = arranged(options, [user], 5)
    assert chosen(slates, 0) == [1, 4, 2, 3, 0]
    assert [slates.moved_by(0, place) for place in range(5)] == [[], ["launch"], [], [], ["old"]]


def test_a_quota_prefers_what_is_not_buried() -> None:
    options = SlateOptions(bury=[Bury(ANY)], quotas=[Quota(ANY, 1)])
    user = User([0.9, 0.8, 0.7], buried=[{1}], quotas=[{1, 2}])
    user.vectors = np.zeros((3, 2), np.float32)
    slates = arranged(options, [user], 2)
    assert chosen(slates, 0) == [0, 2]
    assert slates.moved_by(0, 1) == []
    slates = arranged(options, [user], 1)
    assert chosen(slates, 0) == [2]
    assert slates.moved_by(0, 0) == ["quota"]


def test_no_candidate_at_all() -> None:
    options = SlateOptions(diversify=0.5, groups=[Group("g", 1)], pins=[Pin("x", 1)])
    nobody = Candidates(np.empty((2, 0)), np.empty((2, 0, 3), np.float32), pinned=[np.full(2, -1)])
    assert arrange(options, nobody, 5).picks.shape == (2, 0)
