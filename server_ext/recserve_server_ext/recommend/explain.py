"""Builds slates from ranked items: scores and their parts, contributions, fields and timings."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from recserve_client.contract import RecommendTimings, Slate, SlateItem
from recserve_server_ext.common.arrays import Floats, Ints, Rows
from recserve_server_ext.recommend.job import Job
from recserve_server_ext.recommend.query import boosts_of
from recserve_server_ext.recommend.ranked_items import RankedItems
from recserve_server_ext.strategies.base import Candidates, Explanation, Query, total

#: Decimals of scores and contributions: rounding changes the sum of 1,000 contributions by less than 1e-5.
DECIMALS: Final = 8
#: Name of the part of a score that comes from the request's `new_items`.
_NEW: Final = "new"


class _ListItems(msgspec.Struct, frozen=True, eq=False):
    """The items of a slate that come from one candidate list.

    Attributes:
        slate: Position of the slate in the batch.
        positions: Positions of the items in the slate; `None` where they are all of it.
    """

    slate: int
    positions: Ints | None
    query: Query
    items: Candidates


def build_slates(jobs: Sequence[Job], search_ns: int) -> list[Slate]:
    """The answers to jobs of one batch, whose items were ranked in the time `search_ns`."""
    start_ns = time.monotonic_ns()
    explained = _rounded(_explained(jobs))
    items = [_slate_items(job, explanation) for job, explanation in zip(jobs, explained, strict=True)]
    ids = recommendation_ids(len(jobs))
    explain_ns = time.monotonic_ns() - start_ns
    return [
        _slate(new_id, job, job_items, explanation.is_approximate, (search_ns, explain_ns))
        for new_id, job, job_items, explanation in zip(ids, jobs, items, explained, strict=True)
    ]


def recommendation_ids(count: int) -> list[str]:
    """New ids of 32 hexadecimal digits: the milliseconds since 1970, then 80 random bits, much as in UUIDv7 (RFC 9562).

    So ids lie in the index of the logged answers in the order of their time. Each random one would change a page of its
    own there.
    """
    moment, random = f"{time.time_ns() // 1_000_000:012x}", os.urandom(10 * count).hex()
    return [moment + random[start : start + 20] for start in range(0, 20 * count, 20)]


def _explained(jobs: Sequence[Job]) -> list[Explanation]:
    """The explanation of each slate; slates of the same strategy and options are explained together."""
    groups: dict[tuple[int, bool], list[_ListItems]] = defaultdict(list)
    for number, job in enumerate(jobs):
        groups[id(job.lists[0].configured), job.request.explain] += _items_by_list(number, job)
    explained: list[list[tuple[Ints | None, Explanation]]] = [[] for _ in jobs]
    for (_, explain), group in groups.items():
        strategy = jobs[group[0].slate].lists[0].configured.strategy
        queries, items = [part.query for part in group], [part.items for part in group]
        if explain:
            explanations = strategy.explain(queries, items)
        else:
            explanations = [Explanation(parts) for parts in strategy.score(queries, items)]
        for part, explanation in zip(group, explanations, strict=True):
            explained[part.slate].append((part.positions, explanation))
    return [
        parts[0][1] if parts[0][0] is None else _combined(job, parts)
        for job, parts in zip(jobs, explained, strict=True)
    ]


def _items_by_list(number: int, job: Job) -> list[_ListItems]:
    """The items that each candidate list gave to a slate."""
    ranked = job.ranked
    assert ranked is not None
    if ranked.source is None or len(job.lists) == 1:
        return [_ListItems(number, None, job.lists[0].query, Candidates(ranked.rows))]
    source = ranked.source
    if job.page is not None:
        # The history may have fewer interest clusters now than when the items were ranked.
        source = np.minimum(source, len(job.lists) - 1)
    positions = [np.flatnonzero(source == n) for n in range(len(job.lists))]
    return [
        _ListItems(number, own, candidate_list.query, Candidates(ranked.rows[own]))
        for candidate_list, own in zip(job.lists, positions, strict=True)
    ]


def _combined(job: Job, explained: Sequence[tuple[Ints | None, Explanation]]) -> Explanation:
    """The explanations of several candidate lists as one, in the order of the slate."""
    assert job.ranked is not None
    n, behaviours = len(job.ranked.rows), len(job.lists[0].query.profile.rows)
    parts: dict[str, Floats] = {}
    contributions: Floats | None = np.zeros((n, behaviours))
    is_approximate = False
    facts: list[dict[str, Any]] | None = None
    for positions, explanation in explained:
        for name, values in explanation.parts.items():
            parts.setdefault(name, np.zeros(n))[positions] = values
        if explanation.contributions is None:
            contributions = None
        elif contributions is not None:
            contributions[positions] = explanation.contributions
            is_approximate |= explanation.is_approximate
        if explanation.facts is not None and positions is not None:
            facts = facts or [{}] * n
            for position, fact in zip(positions.tolist(), explanation.facts, strict=True):
                facts[position] = fact
    return Explanation(parts, contributions, facts, is_approximate)


def _rounded(explained: Sequence[Explanation]) -> list[Explanation]:
    """The explanations with rounded numbers."""
    parts = iter(_round([values for explanation in explained for values in explanation.parts.values()]))
    contributions = iter(_round([of.contributions for of in explained if of.contributions is not None]))
    return [
        Explanation(
            {name: next(parts) for name in explanation.parts},
            None if explanation.contributions is None else next(contributions),
            explanation.facts,
            explanation.is_approximate,
        )
        for explanation in explained
    ]


def _round(arrays: Sequence[Floats]) -> list[Floats]:
    """The arrays rounded; all at once where their shapes are equal, since each is small."""
    if len({array.shape for array in arrays}) != 1:
        return [array.round(DECIMALS) for array in arrays]
    return list(np.concatenate(arrays).round(DECIMALS).reshape(len(arrays), *arrays[0].shape))


def _scores(job: Job, rows: Rows, explanation: Explanation) -> tuple[Floats, dict[str, Floats], Floats | None]:
    """[items] scores, their parts by name, and [items, boosts] their boosts; `None` without boosts."""
    parts = dict(explanation.parts)
    boosts = None if job.is_plain else boosts_of(job, rows)
    if boosts is None:
        if len(parts) == 1:
            return next(iter(parts.values())), parts, None
        return total(parts, len(rows)).round(DECIMALS), parts, None
    boosts = boosts.round(DECIMALS)
    if job.request.new_items is not None:
        parts[_NEW], boosts = boosts[:, -1], boosts[:, :-1]
    scores = total(parts, len(rows)) + boosts.sum(axis=1)
    return scores.round(DECIMALS), parts, boosts if boosts.shape[1] else None


def _slate_items(job: Job, explanation: Explanation) -> list[SlateItem]:
    """The items of a slate; parts and boosts add up to the score."""
    request, ranked, view = job.request, job.ranked, job.data.view
    assert ranked is not None
    rows, contributions, facts = ranked.rows, None, None
    scores, parts, boosts = _scores(job, rows, explanation)
    if request.explain:
        facts = explanation.facts
        if explanation.contributions is not None and not job.is_cold:
            contributions = explanation.contributions
    values: list[float] = scores.tolist()
    if ranked.is_by_score and request.page is None and values != sorted(values, reverse=True):
        order = np.argsort(-scores, kind="stable")
        rows, values = rows[order], scores[order].tolist()
        parts = {name: part[order] for name, part in parts.items()}
        contributions = None if contributions is None else contributions[order]
        facts = None if facts is None else [facts[position] for position in order.tolist()]
    unset: list[Any] = [UNSET] * len(rows)
    columns: list[Any] = [
        view.ids(rows),
        values,
        unset if contributions is None else contributions.tolist(),
        view.fields(request.fields, rows) if request.fields and len(rows) else unset,
    ]
    # A single part with the strategy's name repeats the score.
    has_parts = request.explain and list(parts) != [job.lists[0].configured.strategy.name]
    if has_parts or boosts is not None or not ranked.is_by_score or facts is not None:
        columns += [
            _by_item(parts) if has_parts else unset,
            unset if boosts is None else boosts.tolist(),
            unset if ranked.rules is None else [names or UNSET for names in ranked.rules],
            _clusters(job, ranked) or unset,
            unset if ranked.explored is None else ranked.explored.tolist(),
            unset if ranked.propensity is None else ranked.propensity.tolist(),
            facts or unset,
        ]
    return list(map(SlateItem, *columns))


def _clusters(job: Job, ranked: RankedItems) -> list[int]:
    """[items] interest cluster of each item; empty where the request asked for none."""
    if job.request.interests == 1 or job.is_cold:
        return []
    source = np.zeros(len(ranked.rows), np.int64) if ranked.source is None else ranked.source
    return [job.lists[min(number, len(job.lists) - 1)].cluster for number in source.tolist()]


def _by_item(parts: dict[str, Floats]) -> list[dict[str, float]]:
    """[items] the parts of each item's score, by name."""
    names = list(parts)
    columns = [values.tolist() for values in parts.values()]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _slate(
    recommendation_id: str, job: Job, items: list[SlateItem], is_approximate: bool, took_ns: tuple[int, int]
) -> Slate:
    search_ns, explain_ns = took_ns
    view, strategy = job.data.view, job.lists[0].configured.strategy
    request, has_clusters = job.request, job.request.interests > 1 and not job.is_cold
    history: Any = UNSET
    if job.history is not None and request.explain and not job.is_cold and strategy.is_personal:
        history = job.history.used_behaviours(job.clusters if has_clusters else None)
    return Slate(
        recommendation_id=recommendation_id,
        items=items,
        unknown=[] if job.pseudonym is not None and job.is_cold else job.profile.unknown,
        revision=view.revision if job.page is None else job.page.ranking.revision,
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
        interests=job.cluster_shares if has_clusters else UNSET,
        experiments=job.variants or UNSET,
        approximate=is_approximate or UNSET,
    )


def _count(job: Job) -> int | UnsetType:
    """Number of available items that match the filter."""
    assert job.query is not None
    allowed, view = job.query.spec.allowed, job.data.view
    return len(view.available) - view.unavailable if allowed is None else allowed.count
