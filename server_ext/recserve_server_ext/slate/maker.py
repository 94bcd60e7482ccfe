"""Makes slates from the ranked candidates of a batch of users, by the slate options of each request."""

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
_MAX_CANDIDATES: Final = 1 << 15


class SlateSpec(NamedTuple):
    """The slate that one request asks for, and its ranked candidates.

    Attributes:
        options: Slate options; boosts and the minimum score are applied to the candidates already.
        k: Number of places.
        rules: Items that match each bury rule and each quota, in the order of the options.
        pins: [pins] row of each pinned item; -1 where it may not be placed.
        rows: [candidates] distinct rows, best first.
        values: [candidates] what they are ranked by.
    """

    options: SlateOptions
    k: int
    rules: Sequence[Allowed]
    pins: Rows
    rows: Rows
    values: Floats


class ArrangedSlate(NamedTuple):
    """A slate, as positions among the candidates.

    Attributes:
        picks: [items] position of each item among the candidates.
        rules: [items] names of the rules that moved each item; `None` without rules.
    """

    picks: Ints
    rules: list[list[str]] | None = None


def check_options(options: SlateOptions, filters: ViewFilters) -> list[Allowed]:
    """Validate the attributes of slate options, and evaluate the filters of the bury rules and quotas.

    Raises:
        RequestError: unknown_field or invalid_request.
    """
    for group in options.groups:
        kinds_of(group.attribute, filters.known)
    check_boosts(options.boosts, filters.known)
    wheres = [rule.where for rule in options.bury] + [rule.where for rule in options.quotas]
    return [filters.allowed(where) for where in wheres]


def make_slates(view: View, filters: ViewFilters, specs: Sequence[SlateSpec]) -> list[ArrangedSlate]:
    """[users] the slate of each user."""
    groups: dict[tuple[bytes, int], list[int]] = defaultdict(list)
    for number, spec in enumerate(specs):
        groups[msgspec.json.encode(spec.options), spec.k].append(number)
    slates: dict[int, ArrangedSlate] = {}
    for numbers in groups.values():
        step = max(1, _MAX_CANDIDATES // max(1, *(len(specs[number].rows) for number in numbers)))
        for start in range(0, len(numbers), step):
            part = numbers[start : start + step]
            slates.update(zip(part, _arranged(view, filters, [specs[number] for number in part]), strict=True))
    return [slates[number] for number in range(len(specs))]


def _arranged(view: View, filters: ViewFilters, specs: Sequence[SlateSpec]) -> list[ArrangedSlate]:
    """The slates of users with the same options and number of places."""
    options, k = specs[0].options, specs[0].k
    rows = np.full((len(specs), max(len(spec.rows) for spec in specs)), -1, np.int64)
    scores = np.full(rows.shape, -np.inf)
    for user_rows, user_scores, spec in zip(rows, scores, specs, strict=True):
        user_rows[: len(spec.rows)], user_scores[: len(spec.rows)] = spec.rows, spec.values
    exists = rows >= 0
    pins = np.array([spec.pins for spec in specs], np.int64)
    matching = [rule.mask[rows] & exists for rule in specs[0].rules]
    candidates = Candidates(
        scores=scores,
        vectors=view.text.vectors(rows) if options.diversify else None,
        groups=[candidate_values(group.attribute, filters.sources(rows)) for group in options.groups],
        pinned=[_positions(rows, pin) for pin in pins.T],
        buried=matching[: len(options.bury)],
        quotas=matching[len(options.bury) :],
    )
    slates = arrange(options, candidates, k)
    arranged = []
    for user, user_picks in enumerate(slates.picks):
        picks = user_picks[user_picks >= 0]
        rules = [slates.moved_by(user, place) for place in range(len(picks))] if slates.rules else None
        arranged.append(ArrangedSlate(picks, rules))
    return arranged


def _positions(rows: Rows, pinned: Rows) -> Ints:
    """[users] position of a pinned item among each user's candidates; -1 where it is not among them."""
    if not rows.shape[1]:
        return np.full(len(rows), -1, np.int64)
    is_pinned = (rows == pinned[:, None]) & (pinned >= 0)[:, None]
    return np.where(is_pinned.any(axis=1), is_pinned.argmax(axis=1), -1)
