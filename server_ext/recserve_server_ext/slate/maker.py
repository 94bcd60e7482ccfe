"""Slates with options for a batch of users: candidates are searched, scored with their boosts, and arranged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_client.contract.slate_options import SlateOptions
from recserve_server_ext.attributes.boosts import at_moment, boost_shares, check_boosts
from recserve_server_ext.attributes.columns import kinds_of
from recserve_server_ext.attributes.values import candidate_values
from recserve_server_ext.attributes.view import Allowed, ViewFilters
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Floats, Rows, Vectors
from recserve_server_ext.retrieval.boosted import Boosted, search_boosted
from recserve_server_ext.retrieval.search import Wanted, search
from recserve_server_ext.slate.rules import Candidates, arrange

_NONE = np.empty(0, np.int64)
#: Candidates where options choose among them: four times k, at least 100, at most 1,000 more than k.
_TIMES, _AT_LEAST, _MORE = 4, 100, 1000
#: Times as many for a slate that groups left short.
_WIDER = 8
#: Candidates that are scored at once (48 MiB of vectors of 384 dimensions), unless one user has more.
_AT_ONCE = 1 << 15


class Chosen(NamedTuple):
    """The items of a slate.

    Attributes:
        rows: [items], best first.
        shares: [items, boosts] the boosts' shares in the score; none = no boosts.
        rules: For each item, the names of the rules that moved it; none = no rules.
    """

    rows: Rows
    shares: NDArray[np.float64] | None = None
    rules: list[list[str]] | None = None


class Wish(NamedTuple):
    """A slate that one user wants.

    Attributes:
        options: How it is made.
        want: How many items, and which ones may be in it.
        filters: Of the view.
        rules: Items that each bury rule and each quota names, in the order of the options.
    """

    options: SlateOptions
    want: Wanted
    filters: ViewFilters
    rules: Sequence[Allowed]


def check_options(options: SlateOptions, filters: ViewFilters) -> list[Allowed]:
    """Check the attributes that options name; the items of each bury rule and quota come back.

    Raises:
        RequestError: unknown_field or invalid_request.
    """
    for group in options.groups:
        kinds_of(group.attribute, filters.known)
    check_boosts(options.boosts, filters.known)
    wheres = [rule.where for rule in options.bury] + [rule.where for rule in options.quotas]
    return [filters.allowed(where) for where in wheres]


def make_slates(view: View, users: Vectors, wishes: Sequence[Wish]) -> list[Chosen]:
    """The slate of each user.

    Args:
        view: The catalogue.
        users: [users, dim] unit vectors.
        wishes: One for each user.
    """
    wishes = [wish._replace(options=at_moment(wish.options)) for wish in wishes]
    counts = [candidates_of(wish.options, wish.want.k) for wish in wishes]
    chosen = _make(view, users, wishes, counts)
    # A group may keep away all candidates that are left; further down there may be others.
    short = [
        number
        for number, (wish, made) in enumerate(zip(wishes, chosen, strict=True))
        if wish.options.groups and len(made.rows) < wish.want.k and counts[number] < len(view.available)
    ]
    if short:
        wider = _make(view, users[short], [wishes[n] for n in short], [_WIDER * counts[n] for n in short])
        for number, made in zip(short, wider, strict=True):
            chosen[number] = made
    return chosen


def candidates_of(options: SlateOptions, k: int) -> int:
    """How many are searched for: the more, the nearer to a choice among all items."""
    if options.groups or options.diversify or options.bury or options.quotas:
        return several(k)
    return k


def several(k: int) -> int:
    """Some times as many."""
    return max(_AT_LEAST, min(_TIMES * k, k + _MORE))


def _make(view: View, users: Vectors, wishes: Sequence[Wish], counts: Sequence[int]) -> list[Chosen]:
    rows = search_candidates(view, users, wishes, counts)
    groups: dict[tuple[bytes, int], list[int]] = defaultdict(list)
    for number, wish in enumerate(wishes):
        groups[msgspec.json.encode(wish.options), wish.want.k].append(number)
    chosen: dict[int, Chosen] = {}
    for numbers in groups.values():
        step = max(1, _AT_ONCE // max(1, *(len(rows[number]) for number in numbers)))
        for start in range(0, len(numbers), step):
            part = numbers[start : start + step]
            made = _arrange(view, users[part], [wishes[number] for number in part], [rows[number] for number in part])
            chosen.update(zip(part, made, strict=True))
    return [chosen[number] for number in range(len(wishes))]


def search_candidates(view: View, users: Vectors, wishes: Sequence[Wish], counts: Sequence[int]) -> list[Rows]:
    """The candidates of each user: by score with boosts, best first, then enough for each quota, then the pinned."""
    wanted = [wish.want._replace(k=count) for wish, count in zip(wishes, counts, strict=True)]
    askers = list(range(len(wishes)))
    boosts = [wish.filters.boosts(wish.options.boosts) for wish in wishes]
    # One object for equal filters, so that the users share a search.
    both: dict[tuple[int, int], Allowed] = {}
    for number, wish in enumerate(wishes):
        quotas = zip(wish.options.quotas, wish.rules[len(wish.options.bury) :], strict=True)
        for quota, named in quotas:
            allowed, where = named, wish.want.allowed
            if where is not None:
                pair = id(named), id(where)
                allowed = both[pair] = both.get(pair) or named.also(where)
            wanted.append(wish.want._replace(k=quota.at_least, allowed=allowed))
            askers.append(number)
    found: list[list[Rows]] = [[] for _ in wishes]
    for number, rows in zip(askers, _searched(view, users, wanted, askers, boosts), strict=True):
        found[number].append(rows)
    return [
        np.array(list(dict.fromkeys(np.concatenate([*parts, pinned(view, wish)]).tolist())), np.int64)
        for parts, wish in zip(found, wishes, strict=True)
    ]


def _searched(
    view: View, users: Vectors, wanted: Sequence[Wanted], askers: Sequence[int], boosts: Sequence[Floats | None]
) -> list[Rows]:
    """What each wanted of its asker finds, by the score with the asker's boosts."""
    found: list[Rows] = [_NONE] * len(wanted)
    plain = [n for n, asker in enumerate(askers) if boosts[asker] is None]
    lifted = [
        (n, Boosted(wanted[n], several(wanted[n].k), boost))
        for n, asker in enumerate(askers)
        if (boost := boosts[asker]) is not None
    ]
    of_plain = search(view, users[[askers[n] for n in plain]], [wanted[n] for n in plain])
    of_lifted = search_boosted(view, users[[askers[n] for n, _ in lifted]], [wish for _, wish in lifted])
    for n, rows in zip([*plain, *(n for n, _ in lifted)], [*of_plain, *of_lifted], strict=True):
        found[n] = rows
    return found


def _pin_rows(view: View, wish: Wish) -> Rows:
    """[pins] the row of each pinned item; -1 where it may not be placed."""
    if not wish.options.pins:
        return np.empty(0, np.int64)
    rows = np.array([view.row_of.get(pin.item, -1) for pin in wish.options.pins], np.int64)
    usable = view.available if wish.want.allowed is None else wish.want.allowed.mask
    return np.where((rows >= 0) & usable[rows] & ~np.isin(rows, wish.want.banned), rows, -1)


def pinned(view: View, wish: Wish) -> Rows:
    """Rows of the pinned items that may be placed."""
    rows = _pin_rows(view, wish)
    return rows[rows >= 0]


def _arrange(view: View, users: Vectors, wishes: Sequence[Wish], found: Sequence[Rows]) -> list[Chosen]:
    """The slates of users with the same options and k."""
    rows = np.full((len(found), max(map(len, found))), -1, np.int64)
    for line, own in zip(rows, found, strict=True):
        line[: len(own)] = own
    vectors = view.vectors(rows)
    # Not matmul: one small product a user, for which BLAS would wake its threads.
    scores = np.where(rows >= 0, np.einsum("und,ud->un", vectors, users).astype(np.float64), -np.inf)
    boosts = wishes[0].options.boosts
    shares = boost_shares(boosts, wishes[0].filters.sources(rows)) if boosts else None
    return arranged(view, wishes, rows, vectors, scores, shares)


def arranged(
    view: View,
    wishes: Sequence[Wish],
    rows: Rows,
    vectors: Vectors,
    scores: NDArray[np.float64],
    shares: NDArray[np.float64] | None = None,
) -> list[Chosen]:
    """The slates of users with the same options and k.

    Args:
        view: The catalogue.
        wishes: One for each user.
        rows: [users, n] candidates; -1 = none.
        vectors: [users, n, dim] of them.
        scores: [users, n] without boosts; -inf = none.
        shares: [users, n, boosts] that are added; none = no boosts.
    """
    options, filters, there = wishes[0].options, wishes[0].filters, rows >= 0
    if shares is not None:
        scores = scores + shares.sum(axis=2)
    pins = np.array([_pin_rows(view, wish) for wish in wishes], np.int64)
    # [pins, users]: its place among the user's candidates.
    places = [np.where(pin >= 0, (rows == pin[:, None]).argmax(axis=1), -1) for pin in pins.T]
    named = [rule.mask[rows] & there for rule in wishes[0].rules]
    groups = [candidate_values(group.attribute, filters.sources(rows)) for group in options.groups]
    buried = len(options.bury)
    candidates = Candidates(scores, vectors, groups, places, named[:buried], named[buried:])
    slates = arrange(options, candidates, wishes[0].want.k)
    chosen = []
    for user, line in enumerate(slates.picks):
        picks = line[line >= 0]
        rules = [slates.moved_by(user, place) for place in range(len(picks))] if slates.rules else None
        chosen.append(Chosen(rows[user, picks], None if shares is None else shares[user, picks], rules))
    return chosen
