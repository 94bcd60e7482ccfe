"""The items of slates: their scores, what these are made of, fields, and what the answer says of itself."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec import UNSET, UnsetType

from recserve_client.contract import RecommendTimings, Slate, SlateItem
from recserve_server_ext.common.arrays import Floats, Ints, Rows
from recserve_server_ext.recommend.course import Course, added_shares
from recserve_server_ext.recommend.picks import Picks
from recserve_server_ext.recommend.query import Job
from recserve_server_ext.strategies.base import Candidates, Explanation, Query, total

#: Of contributions and scores: the sum of 1,000 of them is off by less than 1e-5 from rounding.
DECIMALS: Final = 8
#: The part of a score that comes from an item's age.
_NEW: Final = "new"


class _Owned(NamedTuple):
    """The items that one list gave to a slate: their places in it, `None` where they are all of it."""

    slate: int
    query: Query
    places: Ints | None
    candidates: Candidates


def slates_of(courses: Sequence[Course], search_ns: int) -> list[Slate]:
    """The answers to jobs of one batch.

    Args:
        courses: What they are made from.
        search_ns: Time of the stages before.
    """
    start_ns = time.monotonic_ns()
    items = [_items(course, explanation) for course, explanation in zip(courses, _explained(courses), strict=True)]
    random = os.urandom(16 * len(courses)).hex()
    explain_ns = time.monotonic_ns() - start_ns
    return [
        _slate(random[32 * n : 32 * n + 32], course, of, search_ns, explain_ns)
        for n, (course, of) in enumerate(zip(courses, items, strict=True))
    ]


def _explained(courses: Sequence[Course]) -> list[Explanation]:
    """The explanation of each slate."""
    groups: dict[tuple[int, int, bool], list[_Owned]] = defaultdict(list)
    for number, course in enumerate(courses):
        strategy, options = course.lines[0].chosen
        groups[id(strategy), id(options), course.job.request.explain] += _owned(number, course)
    found: list[list[tuple[Ints | None, Explanation]]] = [[] for _ in courses]
    for (_, _, explain), group in groups.items():
        strategy = courses[group[0].slate].lines[0].chosen.strategy
        queries, candidates = [own.query for own in group], [own.candidates for own in group]
        if explain:
            explanations = strategy.explain(queries, candidates)
        else:
            explanations = [Explanation(parts) for parts in strategy.score(queries, candidates)]
        for own, explanation in zip(group, explanations, strict=True):
            found[own.slate].append((own.places, explanation))
    return [of[0][1] if of[0][0] is None else _together(course, of) for course, of in zip(courses, found, strict=True)]


def _owned(number: int, course: Course) -> list[_Owned]:
    """What each list gave to a slate."""
    picks, lines = course.picks, course.lines
    assert picks is not None
    if picks.owner is None or len(lines) == 1:
        return [_Owned(number, lines[0].query, None, Candidates(picks.rows))]
    owner = picks.owner
    if course.job.part is not None:
        # The history may have fewer interest clusters than when the ranking was made.
        owner = np.minimum(owner, len(lines) - 1)
    places = [np.flatnonzero(owner == number) for number in range(len(lines))]
    return [
        _Owned(number, line.query, own, Candidates(picks.rows[own])) for line, own in zip(lines, places, strict=True)
    ]


class _Score(NamedTuple):
    """The scores of a slate's items, and what they are made of.

    Attributes:
        scores: [items].
        parts: By name, [items] each.
        boosts: [items, boosts]; `None` without boosts.
    """

    scores: Floats
    parts: dict[str, Floats]
    boosts: Floats | None


def _score(course: Course, rows: Rows, explanation: Explanation) -> _Score:
    """The parts and the boosts, rounded, and their sum."""
    parts = {name: values.round(DECIMALS) for name, values in explanation.parts.items()}
    added = None if course.job.is_plain else added_shares(course.job, rows)
    if added is None:
        if len(parts) == 1:
            return _Score(next(iter(parts.values())), parts, None)
        return _Score(total(parts, len(rows)).round(DECIMALS), parts, None)
    boosts = added.round(DECIMALS)
    if course.job.request.new_items is not None:
        parts[_NEW], boosts = boosts[:, -1], boosts[:, :-1]
    scores = total(parts, len(rows)) + boosts.sum(axis=1)
    return _Score(scores.round(DECIMALS), parts, boosts if boosts.shape[1] else None)


def _items(course: Course, explanation: Explanation) -> list[SlateItem]:
    """The items of a slate; the parts and the boosts add up to the score."""
    request, picks, view = course.job.request, course.picks, course.job.data.view
    assert picks is not None
    rows, contributions, facts = picks.rows, None, None
    scores, parts, boosts = _score(course, rows, explanation)
    if request.explain:
        facts = explanation.facts
        if explanation.contributions is not None and not course.is_cold:
            contributions = explanation.contributions.round(DECIMALS)
    values: list[float] = scores.tolist()
    if picks.is_by_score and request.page is None and values != sorted(values, reverse=True):
        order = np.argsort(-scores, kind="stable")
        rows, values = rows[order], scores[order].tolist()
        parts = {name: of[order] for name, of in parts.items()}
        contributions = None if contributions is None else contributions[order]
        facts = None if facts is None else [facts[place] for place in order.tolist()]
    nothing: list[Any] = [UNSET] * len(rows)
    columns: list[Any] = [
        view.ids(rows),
        values,
        nothing if contributions is None else contributions.tolist(),
        view.fields(request.fields, rows) if request.fields and len(rows) else nothing,
    ]
    # One part that is called like the strategy says nothing that the score does not.
    has_parts = request.explain and list(parts) != [course.lines[0].chosen.strategy.name]
    if has_parts or boosts is not None or not picks.is_by_score or facts is not None:
        columns += [
            _by_item(parts) if has_parts else nothing,
            nothing if boosts is None else boosts.tolist(),
            nothing if picks.rules is None else [names or UNSET for names in picks.rules],
            _interests(course, picks) or nothing,
            nothing if picks.explored is None else picks.explored.tolist(),
            nothing if picks.propensity is None else picks.propensity.tolist(),
            facts or nothing,
        ]
    return list(map(SlateItem, *columns))


def _interests(course: Course, picks: Picks) -> list[int]:
    """Of each item the interest cluster that it comes from; nothing where they were not asked for."""
    if course.job.request.interests == 1 or course.is_cold:
        return []
    owner = np.zeros(len(picks.rows), np.int64) if picks.owner is None else picks.owner
    return [course.lines[min(line, len(course.lines) - 1)].number for line in owner.tolist()]


def _by_item(parts: dict[str, Floats]) -> list[dict[str, float]]:
    """Of each item its parts by name."""
    names = list(parts)
    columns = [values.tolist() for values in parts.values()]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _together(course: Course, explained: Sequence[tuple[Ints | None, Explanation]]) -> Explanation:
    """The explanations of several lists as one, in the order of the slate."""
    assert course.picks is not None
    n, behaviours = len(course.picks.rows), len(course.lines[0].query.profile.rows)
    parts: dict[str, Floats] = {}
    contributions: Floats | None = np.zeros((n, behaviours))
    facts: list[dict[str, Any]] | None = None
    for places, of in explained:
        for name, values in of.parts.items():
            parts.setdefault(name, np.zeros(n))[places] = values
        if of.contributions is None:
            contributions = None
        elif contributions is not None:
            contributions[places] = of.contributions
        if of.facts is not None and places is not None:
            facts = facts or [{}] * n
            for place, fact in zip(places.tolist(), of.facts, strict=True):
                facts[place] = fact
    return Explanation(parts, contributions, facts)


def _slate(name: str, course: Course, items: list[SlateItem], search_ns: int, explain_ns: int) -> Slate:
    job, view, strategy = course.job, course.job.data.view, course.lines[0].chosen.strategy
    request, several = job.request, job.request.interests > 1 and not course.is_cold
    history: Any = UNSET
    if job.behaviours is not None and request.explain and not course.is_cold and strategy.is_personal:
        history = job.behaviours.used(course.labels if several else None)
    return Slate(
        recommendation_id=name,
        items=items,
        unknown=[] if job.pseudonym is not None and course.is_cold else job.profile.unknown,
        revision=view.revision if job.part is None else job.part.ranking.revision,
        encoder=view.encoder,
        timings=RecommendTimings(
            queue_us=job.waited_ns // 1000,
            resolve_us=job.resolve_ns // 1000,
            encode_us=job.encode_ns // 1000,
            search_us=search_ns // 1000,
            explain_us=explain_ns // 1000,
            engine=view.text.space.manifest.engine.name,
        ),
        strategy=strategy.name,
        count=_count(job) if request.count else UNSET,
        cursor=job.cursor,
        history=history,
        history_rules=job.history_rules,
        interests=course.masses if several else UNSET,
        experiments=job.variants or UNSET,
    )


def _count(job: Job) -> int | UnsetType:
    """Items that match the filter and are available."""
    assert job.query is not None
    allowed, view = job.query.spec.allowed, job.data.view
    return len(view.available) - view.unavailable if allowed is None else allowed.count
