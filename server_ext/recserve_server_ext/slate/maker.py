"""Ranked candidates of a batch of users -> the places of their slates, by the options of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from recserve_client.contract.slate_options import SlateOptions
from recserve_server_ext.attributes.boosts import check_boosts
from recserve_server_ext.attributes.columns import kinds_of
from recserve_server_ext.attributes.values import candidate_values
from recserve_server_ext.attributes.view import Allowed, ViewFilters
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Floats, Ints, Rows
from recserve_server_ext.slate.rules import Candidates, arrange

#: Candidates that are arranged at once (48 MiB of vectors of 384 dimensions), unless one user has more.
_AT_ONCE: Final = 1 << 15


class Shape(NamedTuple):
    """The slate that one user gets.

    Attributes:
        options: How it is made; boosts and the least score are in the values of the candidates already.
        k: Places.
        rules: Items that each bury rule and each quota names, in the order of the options.
        pins: [pins] row of each pinned item; -1 where it may not be placed.
    """

    options: SlateOptions
    k: int
    rules: Sequence[Allowed]
    pins: Rows


class Arranged(NamedTuple):
    """A slate as places among the candidates.

    Attributes:
        picks: [items] place of each among the candidates.
        rules: Of each item the names of the rules that moved it; `None` without rules.
    """

    picks: Ints
    rules: list[list[str]] | None = None


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


def make_slates(
    view: View, filters: ViewFilters, shapes: Sequence[Shape], rows: Sequence[Rows], values: Sequence[Floats]
) -> list[Arranged]:
    """The slate of each user.

    Args:
        view: The catalogue.
        filters: Of it.
        shapes: One for each user.
        rows: Of each user the candidates, no row twice, the greatest value first.
        values: What they are ordered by.
    """
    groups: dict[tuple[bytes, int], list[int]] = defaultdict(list)
    for number, shape in enumerate(shapes):
        groups[msgspec.json.encode(shape.options), shape.k].append(number)
    made: dict[int, Arranged] = {}
    for numbers in groups.values():
        step = max(1, _AT_ONCE // max(1, *(len(rows[number]) for number in numbers)))
        for start in range(0, len(numbers), step):
            part = numbers[start : start + step]
            of_part = [shapes[n] for n in part], [rows[n] for n in part], [values[n] for n in part]
            made.update(zip(part, _arranged(view, filters, *of_part), strict=True))
    return [made[number] for number in range(len(shapes))]


def _arranged(
    view: View, filters: ViewFilters, shapes: Sequence[Shape], found: Sequence[Rows], values: Sequence[Floats]
) -> list[Arranged]:
    """The slates of users with the same options and number of places."""
    options, k = shapes[0].options, shapes[0].k
    rows = np.full((len(found), max(map(len, found))), -1, np.int64)
    scores = np.full(rows.shape, -np.inf)
    for line, of_line, own, value in zip(rows, scores, found, values, strict=True):
        line[: len(own)], of_line[: len(own)] = own, value
    there = rows >= 0
    pins = np.array([shape.pins for shape in shapes], np.int64)
    named = [rule.mask[rows] & there for rule in shapes[0].rules]
    buried = len(options.bury)
    candidates = Candidates(
        scores=scores,
        vectors=view.text.vectors(rows) if options.diversify else None,
        groups=[candidate_values(group.attribute, filters.sources(rows)) for group in options.groups],
        pinned=[_places(rows, pin) for pin in pins.T],
        buried=named[:buried],
        quotas=named[buried:],
    )
    slates = arrange(options, candidates, k)
    made = []
    for user, line in enumerate(slates.picks):
        picks = line[line >= 0]
        rules = [slates.moved_by(user, place) for place in range(len(picks))] if slates.rules else None
        made.append(Arranged(picks, rules))
    return made


def _places(rows: Rows, pinned: Rows) -> Ints:
    """[users] the place of a pinned item among each user's candidates; -1 where it is not among them."""
    if not rows.shape[1]:
        return np.full(len(rows), -1, np.int64)
    found = (rows == pinned[:, None]) & (pinned >= 0)[:, None]
    return np.where(found.any(axis=1), found.argmax(axis=1), -1)
