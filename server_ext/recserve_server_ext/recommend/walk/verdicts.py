"""Why an item is or is not in a slate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import UNSET

from recserve_client.contract import Verdict, WalkItem
from recserve_server_ext.attributes.values import candidate_values
from recserve_server_ext.common.arrays import Floats, Rows
from recserve_server_ext.recommend.explain import DECIMALS
from recserve_server_ext.recommend.job import Job
from recserve_server_ext.recommend.query import boosts_of
from recserve_server_ext.recommend.walk.steps import Steps
from recserve_server_ext.strategies.base import Candidates, Parts, total


class _Scored(NamedTuple):
    """Scores of rows.

    Attributes:
        scores: [rows] scores with boosts; of the interest cluster where each is highest.
        parts: Parts of the scores of the first rows, without boosts.
    """

    scores: Floats
    parts: list[dict[str, float]]


def explained_items(steps: Steps, ids: Sequence[str], sources: Sequence[tuple[str, Rows]]) -> list[WalkItem]:
    """What became of items.

    Args:
        steps: The finished job.
        ids: Ids of the items.
        sources: Names of the sources, and the rows that they proposed.
    """
    row_of = {item_id: row for item_id in ids if (row := steps.job.data.view.row_of.get(item_id, -1)) >= 0}
    proposed = np.concatenate([one.found[0][: len(one.found[0]) - one.filled] for one in steps.job.lists])
    scored = _scored(steps.job, np.append(np.array(list(row_of.values()), np.int64), proposed), len(row_of))
    place_of = {item_id: place for place, item_id in enumerate(row_of)}
    least = float(scored.scores[len(row_of) :].min()) if len(proposed) else None
    found = []
    for item_id in ids:
        if item_id not in row_of:
            why = f"the catalogue has no such item at revision {steps.slate.revision}"
            found.append(WalkItem(item_id, "not_in_catalogue", why))
            continue
        row, place = row_of[item_id], place_of[item_id]
        score, rank = round(float(scored.scores[place]), DECIMALS), steps.rank(row)
        verdict, why = _verdict(steps, item_id, row, rank) or _never_ranked(
            steps.job, row in steps.candidates, score, least
        )
        proposed_by = list(dict.fromkeys(name for name, rows in sources if row in rows))
        found.append(WalkItem(item_id, verdict, why, proposed_by, rank or UNSET, score, scored.parts[place]))
    return found


def _scored(job: Job, rows: Rows, told: int) -> _Scored:
    """The scores of rows, whether they were candidates or not, and the parts of the first ones."""
    lists = job.lists
    of_lists: list[Parts] = [
        one.configured.strategy.score([one.query], [Candidates(rows)])[0] if len(rows) else {} for one in lists
    ]
    totals = np.array([total(parts, len(rows)) for parts in of_lists])
    best = totals.argmax(axis=0)
    scores = totals.max(axis=0)
    boosts = boosts_of(job, rows)
    parts = [
        {name: round(float(values[place]), DECIMALS) for name, values in of_lists[number].items()}
        for place, number in enumerate(best[:told].tolist())
    ]
    return _Scored(scores if boosts is None else scores + boosts.sum(axis=1), parts)


def _verdict(steps: Steps, item_id: str, row: int, rank: int) -> tuple[Verdict, str] | None:
    """What became of an item of the catalogue, and the same in words; `None` where it was not ranked."""
    ids = [item.id for item in steps.slate.items]
    if item_id in ids:
        return "in_slate", _in_slate(steps, ids.index(item_id))
    places = np.flatnonzero(steps.ranked.rows == row)
    if len(places):
        return "later_page", f"it is item {int(places[0]) + 1} of {len(steps.ranked.rows)}: on a later page"
    barred = _barred(steps.job, item_id, row)
    if barred is not None or not rank:
        return barred
    chosen = len(steps.ranked.rows)
    if chosen >= steps.job.request.k and rank > max(steps.last_free_rank, chosen):
        return "outranked", f"{rank - 1} candidates rank before it, and {chosen} were chosen"
    return _passed_over(steps, row, rank)


def _in_slate(steps: Steps, place: int) -> str:
    item = steps.slate.items[place]
    words = [f"place {place + 1}"]
    if item.rules:
        words.append(f"put there by {', '.join(item.rules)}")
    if item.explored is True:
        words.append("drawn to explore")
    return "; ".join(words)


def _barred(job: Job, item_id: str, row: int) -> tuple[Verdict, str] | None:
    """Why an item may not be recommended at all; `None` where it may."""
    assert job.query is not None
    spec = job.query.spec
    if not job.data.view.available[row]:
        return "unavailable", "its `available` is false"
    if spec.allowed is not None and not spec.allowed.mask[row]:
        return "filtered", "it does not match the filter `where`"
    if item_id in job.request.exclude:
        return "excluded", "the request names it in `exclude`"
    if row in spec.banned:
        is_user = job.pseudonym is not None
        return "seen", "the user saw it (`exclude_seen`)" if is_user else "it is in the history (`exclude_history`)"
    return None


def _never_ranked(job: Job, is_candidate: bool, score: float, least: float | None) -> tuple[Verdict, str]:
    """Why an item that may be recommended has no rank."""
    if is_candidate:
        assert job.options is not None
        return "min_score", f"its score {score:.6g} is below `min_score` {job.options.min_score:.6g}"
    if least is None:
        return "not_proposed", "no source proposed any candidate"
    if score < least:
        return "not_proposed", f"its score {score:.6g} is below {least:.6g} of the last candidate"
    return (
        "not_proposed",
        f"no source proposed it, though its score {score:.6g} reaches {least:.6g} of the last candidate",
    )


def _passed_over(steps: Steps, row: int, rank: int) -> tuple[Verdict, str]:
    """Why an item with a rank that was good enough was not chosen."""
    options, rules = steps.job.options, steps.ranked.rules or []
    if options is not None:
        for rule, matching in zip(options.bury, steps.job.rules, strict=False):
            if matching.mask[row]:
                return "buried", f"the bury rule {rule.name!r} puts it after all others"
        for group in options.groups:
            if _is_full(steps, group.attribute, group.at_most, row):
                return "group_limit", f"{group.at_most} items with the same {group.attribute!r} are in the slate"
        if options.diversify and rank < steps.last_free_rank:
            return "diversity", f"it ranks {rank} by score, and is too similar to items that were chosen before"
    names = list(dict.fromkeys(name for of in rules for name in of))
    if steps.ranked.explored is not None and steps.ranked.explored.any():
        names.append("exploration")
    return "displaced", f"it ranks {rank}, and its place went to: {', '.join(names)}"


def _is_full(steps: Steps, attribute: str, at_most: int, row: int) -> bool:
    """Whether the ranked items have as many of a value of this row as the group's limit allows."""
    rows = np.append(steps.ranked.rows, row)
    values = candidate_values(attribute, steps.job.data.filters.sources(rows[None]))
    own = values.keys[values.positions == len(rows) - 1]
    counts = np.bincount(values.keys[values.positions < len(rows) - 1], minlength=int(values.keys.max(initial=0)) + 1)
    return bool((counts[own] >= at_most).any())
