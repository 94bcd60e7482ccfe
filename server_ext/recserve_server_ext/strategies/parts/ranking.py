"""What the strategy `ranker` knows of a candidate: the features of its model, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints, Mask, Rows
from recserve_server_ext.counts.popularity import WINDOWS
from recserve_server_ext.strategies.base import Candidates, Query, Strategy, total

#: Candidates of each source; a row that is not among them has this rank.
DEPTH: Final = 100
#: The constant k = 60 of reciprocal rank fusion, for ranks that begin at 0.
RANK_CONSTANT: Final = 61.0
#: Popularity features: by users and by recent interactions, within each window.
_POPULARITY: Final = tuple((by, window) for by in ("users", "recent") for window in WINDOWS)
#: Seconds since the first interaction with the item.
_AGE: Final = "age.first_s"
#: Features of the user and of the visit; the same for all candidates of a list.
_OF_USER: Final = ("history.count", "history.idle_s")
#: Features over all sources.
_OF_ALL: Final = ("sources.reciprocal_ranks", "sources.count")
_OF_SOURCE: Final = ("score", "share", "rank")


class Source(NamedTuple):
    """A strategy that proposes candidates to the ranker.

    Attributes:
        name: Its name among the features.
        strategy: The strategy.
        options: Its prepared options.
    """

    name: str
    strategy: Strategy
    options: Any


def feature_names(sources: Sequence[str]) -> list[str]:
    """Names of the features, in the order of the columns: `part.what`, where `part` is a source or a group."""
    of_sources = [f"{source}.{what}" for source in sources for what in _OF_SOURCE]
    of_items = [f"popularity.{by}_{window}" for by, window in _POPULARITY]
    return [*of_sources, *_OF_ALL, *of_items, _AGE, *_OF_USER]


@dataclass(slots=True, eq=False)
class Proposed:
    """What the sources proposed for one query.

    Attributes:
        rankings: [sources] rows that each source ranked, best first; empty where it cannot use the profile.
        queries: [sources] the query as each source is asked; `None` where it cannot use the profile.
        pool: The rows that are ranked: the first ones by the sum of their reciprocal ranks.
    """

    rankings: list[Rows]
    queries: list[Query | None]
    pool: Rows


def propose(sources: Sequence[Source], queries: Sequence[Query], pool: int) -> list[Proposed]:
    """Ask all sources for candidates, and merge them into at most `pool` rows for each query."""
    found = [Proposed([], [], np.empty(0, np.int64)) for _ in queries]
    depth = max(DEPTH, *(query.spec.n for query in queries))
    for source in sources:
        asked = _usable(source, queries)
        own = [query for query in asked if query is not None]
        rankings = iter(source.strategy.candidates(own, [depth] * len(own)) if own else [])
        for proposed, query in zip(found, asked, strict=True):
            proposed.queries.append(query)
            proposed.rankings.append(np.empty(0, np.int64) if query is None else next(rankings)[:depth])
    for proposed, query in zip(found, queries, strict=True):
        proposed.pool = _merged(proposed.rankings, max(pool, query.spec.n))
    return found


def _usable(source: Source, queries: Sequence[Query]) -> list[Query | None]:
    """[queries] the query as a source is asked; `None` where it cannot use the profile."""
    # A cache of its own: two sources may be one strategy with different options.
    own = [Query(of.profile, of.data, of.spec, source.options, of.context) for of in queries]
    reasons = source.strategy.cold(own) if source.strategy.is_personal else [None] * len(own)
    return [query if reason is None else None for query, reason in zip(own, reasons, strict=True)]


def _merged(rankings: Sequence[Rows], pool: int) -> Rows:
    """The rows of several rankings, the greatest sum of reciprocal ranks first; ties by row."""
    rows, places = np.unique(np.concatenate(rankings), return_inverse=True)
    reciprocal = np.concatenate([1.0 / (RANK_CONSTANT + np.arange(len(ranking))) for ranking in rankings])
    sums = np.bincount(places, reciprocal, minlength=len(rows))
    return np.asarray(rows[np.argsort(-sums, kind="stable")[:pool]])


def features(
    sources: Sequence[Source], queries: Sequence[Query], proposed: Sequence[Proposed], rows: Sequence[Rows]
) -> Floats:
    """[rows of all queries, features] the features of some rows of each query, one query after the other."""
    list_of = np.repeat(np.arange(len(queries)), [len(of) for of in rows])
    every = np.concatenate(rows)
    columns: list[Floats] = []
    reciprocal, count = np.zeros(len(every)), np.zeros(len(every))
    items = len(queries[0].data.view.available)
    for number, source in enumerate(sources):
        rank, is_ranked = _ranks([of.rankings[number] for of in proposed], list_of, every, items)
        columns += [*_scores(source, number, proposed, rows), rank]
        reciprocal += np.where(is_ranked, 1.0 / (RANK_CONSTANT + rank), 0.0)
        count += is_ranked
    age_s = queries[0].data.counts.popular({}, "all").age_s.at(every)
    columns += [reciprocal, count, *_popularity(queries, rows), age_s]
    of_user = np.array([[query.profile.count, query.profile.idle_s] for query in queries], np.float64)
    return np.column_stack([*columns, of_user[list_of]])


def _scores(source: Source, number: int, proposed: Sequence[Proposed], rows: Sequence[Rows]) -> tuple[Floats, Floats]:
    """The scores of a source, and their shares of the score of its first candidate; 0 where it cannot be asked."""
    asked = [place for place, of in enumerate(proposed) if of.queries[number] is not None]
    scores, shares = [np.zeros(len(of)) for of in rows], [np.zeros(len(of)) for of in rows]
    if asked:
        own = [cast(Query, proposed[place].queries[number]) for place in asked]
        # The first candidate is scored with the others.
        joined = [Candidates(np.append(rows[place], proposed[place].rankings[number][:1])) for place in asked]
        for place, parts, items in zip(asked, source.strategy.score(own, joined), joined, strict=True):
            found = total(parts, len(items.rows))
            scores[place] = found[: len(rows[place])]
            best = found[-1] if len(proposed[place].rankings[number]) else 0.0
            shares[place] = scores[place] / best if best > 0 else np.zeros(len(rows[place]))
    return np.concatenate(scores), np.concatenate(shares)


def _ranks(rankings: Sequence[Rows], list_of: Ints, rows: Rows, items: int) -> tuple[Floats, Mask]:
    """The ranks of rows in the rankings of their queries, from 0, and which rows are ranked."""
    keys = np.concatenate([place * items + ranking for place, ranking in enumerate(rankings)])
    ranks = np.concatenate([np.arange(len(ranking)) for ranking in rankings])
    found = np.full(len(rows), float(DEPTH))
    if not len(keys):
        return found, np.zeros(len(rows), np.bool_)
    order = np.argsort(keys, kind="stable")
    asked = list_of * items + rows
    place = order[np.minimum(np.searchsorted(keys[order], asked), len(keys) - 1)]
    is_ranked = keys[place] == asked
    found[is_ranked] = np.minimum(ranks[place[is_ranked]], DEPTH)
    return found, np.asarray(is_ranked)


def _popularity(queries: Sequence[Query], rows: Sequence[Rows]) -> list[Floats]:
    """The popularity of rows in the contexts of their queries, as shares of the most popular item."""
    columns = []
    groups: dict[int, tuple[Mapping[str, str], list[int]]] = {}
    for place, query in enumerate(queries):
        key = id(query.data.counts.counts.popularity_in(query.context))
        groups.setdefault(key, (query.context, []))[1].append(place)
    counts = queries[0].data.counts
    for by, window in _POPULARITY:
        found = [np.empty(0)] * len(queries)
        for context, places in groups.values():
            values = counts.popular(context, window).values(by)
            most = float(values.values.max(initial=0.0))
            shares = values.at(np.concatenate([rows[place] for place in places])) / (most or 1.0)
            ends = np.cumsum([len(rows[place]) for place in places])[:-1]
            for place, part in zip(places, np.split(shares, ends), strict=True):
                found[place] = part
        columns.append(np.concatenate(found))
    return columns
