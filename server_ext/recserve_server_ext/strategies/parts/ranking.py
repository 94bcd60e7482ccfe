"""What the strategy `ranker` knows of a candidate: the features of its model, for a whole batch at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from recserve_client.contract import RequestError
from recserve_server_ext.common.arrays import NO_ROWS, Floats, Ints, Rows
from recserve_server_ext.counts.popularity import WINDOWS
from recserve_server_ext.strategies.base import Candidates, Query, Strategy, total
from recserve_server_ext.strategies.parts.scatter import Scatter
from recserve_server_ext.strategies.parts.sparse import best_rows

#: Candidates of each source; a row that is not among them has this rank.
DEPTH: Final = 50
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
#: Features of each source; `_fill_scores` and `features` write them in this order.
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


class Asked(NamedTuple):
    """A query as the sources are asked it.

    Attributes:
        queries: [sources] the query of each source, with a cache of its own: two sources may be one strategy.
        reasons: [sources] why a source cannot use the profile; `None` where it can.
    """

    queries: list[Query]
    reasons: list[RequestError | None]

    def query(self, number: int, of: Query) -> Query | None:
        """The query of a source with the filter of another query; `None` where it cannot use the profile."""
        if self.reasons[number] is not None:
            return None
        own = self.queries[number]
        return own if own.spec is of.spec else own.with_spec(of.spec)


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


class CandidateSources:
    """Strategies that propose candidates to the ranker, and what they and the counts say of each candidate."""

    def __init__(self, sources: Sequence[Source], scatter: Scatter) -> None:
        self.sources = sources
        self._scatter = scatter

    def asked(self, queries: Sequence[Query]) -> list[Asked]:
        """Ask each source which profiles it can use."""
        found = [Asked([], []) for _ in queries]
        for source in self.sources:
            own = [Query(of.profile, of.data, of.spec, source.options, of.context) for of in queries]
            reasons = source.strategy.cold(own) if source.strategy.is_personal else [None] * len(own)
            for of, query, reason in zip(found, own, reasons, strict=True):
                of.queries.append(query)
                of.reasons.append(reason)
        return found

    def propose(self, queries: Sequence[Query], of_sources: Sequence[Asked], pool: int) -> list[Proposed]:
        """Ask all sources for candidates, and merge them into at most `pool` rows for each query."""
        found = [Proposed([], [], NO_ROWS) for _ in queries]
        depth = max(DEPTH, *(query.spec.n for query in queries))
        for number, source in enumerate(self.sources):
            every = [of.query(number, query) for of, query in zip(of_sources, queries, strict=True)]
            own = [query for query in every if query is not None]
            rankings = iter(source.strategy.candidates(own, [depth] * len(own)) if own else [])
            for proposed, query in zip(found, every, strict=True):
                proposed.queries.append(query)
                proposed.rankings.append(NO_ROWS if query is None else next(rankings)[:depth])
        reciprocal = 1.0 / (RANK_CONSTANT + np.arange(depth))
        scatter = self._scatter.over(len(queries[0].data.view.available))
        for proposed, query in zip(found, queries, strict=True):
            of_rankings = np.concatenate([reciprocal[: len(ranking)] for ranking in proposed.rankings])
            rows, sums = scatter.sums(np.concatenate(proposed.rankings), of_rankings)
            proposed.pool = best_rows(rows, sums, max(pool, query.spec.n))
        return found

    def features(self, queries: Sequence[Query], proposed: Sequence[Proposed], rows: Sequence[Rows]) -> Floats:
        """[rows of all queries, features] the features of some rows of each query, one query after the other."""
        ends = np.cumsum([len(of) for of in rows]).tolist()
        found = np.empty((ends[-1], len(feature_names([source.name for source in self.sources]))))
        # A view of the first columns: what is written into it is in the matrix.
        of_sources = found[:, : len(self.sources) * len(_OF_SOURCE)].reshape(len(found), -1, len(_OF_SOURCE))
        scatter = self._scatter.over(len(queries[0].data.view.available))
        ranks = _ranks(proposed, rows, ends, scatter)
        is_ranked = ranks >= 0
        of_sources[:, :, 2] = np.where(is_ranked, np.minimum(ranks, DEPTH), DEPTH)
        self._fill_scores(of_sources, proposed, rows, ends)
        column = of_sources.shape[1] * of_sources.shape[2]
        # What is not ranked has a reciprocal rank of 0.
        reciprocal = np.divide(1.0, RANK_CONSTANT + ranks, out=np.zeros_like(ranks), where=is_ranked)
        found[:, column], found[:, column + 1] = reciprocal.sum(axis=1), is_ranked.sum(axis=1)
        _fill_popularity(found[:, column + 2 : -len(_OF_USER)], queries, rows, ends)
        for query, own, end in zip(queries, rows, ends, strict=True):
            found[end - len(own) : end, -len(_OF_USER) :] = query.profile.count, query.profile.idle_s
        return found

    def _fill_scores(
        self, found: Floats, proposed: Sequence[Proposed], rows: Sequence[Rows], ends: Sequence[int]
    ) -> None:
        """Write the scores of each source, and their shares of its first candidate's; 0 where it cannot be asked."""
        found[:, :, :2] = 0.0
        # The first candidate of each source is scored with the others.
        joined = [
            Candidates(np.concatenate([own, *(ranking[:1] for ranking in of.rankings)]))
            for own, of in zip(rows, proposed, strict=True)
        ]
        best_at = [_first_places(of.rankings, len(own)) for own, of in zip(rows, proposed, strict=True)]
        for number, source in enumerate(self.sources):
            asked = [(place, query) for place, of in enumerate(proposed) if (query := of.queries[number]) is not None]
            if not asked:
                continue
            places = [place for place, _ in asked]
            parts = source.strategy.score([query for _, query in asked], [joined[place] for place in places])
            scores = [total(own, len(joined[place].rows)) for place, own in zip(places, parts, strict=True)]
            bests = [
                0.0 if (at := best_at[place][number]) is None else of[at]
                for place, of in zip(places, scores, strict=True)
            ]
            lengths = [len(rows[place]) for place in places]
            values = np.concatenate([of[:length] for of, length in zip(scores, lengths, strict=True)])
            best = np.repeat(bests, lengths)
            lines: Any = slice(None)
            if len(asked) < len(proposed):
                lines = np.concatenate([np.arange(ends[place] - len(rows[place]), ends[place]) for place in places])
            found[lines, number, 0] = values
            found[lines, number, 1] = np.divide(values, best, out=np.zeros_like(values), where=best > 0)


def _first_places(rankings: Sequence[Rows], after: int) -> list[int | None]:
    """[sources] where the first row of each ranking lies, one after the other after so many rows; `None` without."""
    places = iter(range(after, after + len(rankings)))
    return [next(places) if len(ranking) else None for ranking in rankings]


def _ranks(proposed: Sequence[Proposed], rows: Sequence[Rows], ends: Sequence[int], scatter: Scatter) -> Floats:
    """[rows, sources] the rank of each row in the ranking of each source, from 0; -1 where it is not ranked."""
    found = np.full((ends[-1], len(proposed[0].rankings)), -1.0)
    # Lengths of the rankings with the source and the rank of each place; mostly those of the query before.
    last: tuple[list[int], Ints, Ints] | None = None
    for of, own, end in zip(proposed, rows, ends, strict=True):
        lengths = [len(ranking) for ranking in of.rankings]
        if last is None or last[0] != lengths:
            rank = np.concatenate([np.arange(length) for length in lengths])
            last = lengths, np.repeat(np.arange(len(lengths)), lengths), rank
        place = scatter.places(own, np.concatenate(of.rankings))
        known = np.flatnonzero(place >= 0)
        found[end - len(own) + place[known], last[1][known]] = last[2][known]
    return found


def _fill_popularity(found: Floats, queries: Sequence[Query], rows: Sequence[Rows], ends: Sequence[int]) -> None:
    """Write popularity in the contexts of the queries, as shares of the most popular item, and the age."""
    counts = queries[0].data.counts
    groups: dict[int, list[int]] = defaultdict(list)
    for place, query in enumerate(queries):
        groups[id(counts.counts.popularity_in(query.context))].append(place)
    for places in groups.values():
        shares = counts.popular_shares(queries[places[0]].context, _POPULARITY)
        for place in places:
            found[ends[place] - len(rows[place]) : ends[place], :-1] = shares.of(rows[place])
    found[:, -1] = counts.age_s[np.concatenate(rows)]
