"""The strategy `popular`: what many users turned to, lately or in all of the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from recserve_server_ext.common.arrays import Floats, Rows
from recserve_server_ext.counts.popularity import PopularWindow
from recserve_server_ext.strategies.base import Candidates, Explanation, Options, Parts, Query, Strategy
from recserve_server_ext.strategies.counts_view import PopularRows
from recserve_server_ext.strategies.sparse import Sparse


class PopularOptions(Options, frozen=True):
    """Options of `popular`.

    Attributes:
        window: The last 1, 7 or 30 days, all of the log, or `mixed`: a shorter window counts the more, the more users
            it has.
        by: `users` scores by the part of all active users who turned to an item; `recent` by ln(1 + x), x = the
            interactions with it, each halved with its age.
    """

    window: PopularWindow = "mixed"
    by: Literal["users", "recent"] = "users"


class Popular(Strategy):
    """The same for everybody: no profile is needed, so it is what others fall back to."""

    Options = PopularOptions
    per_request = frozenset({"window", "by"})
    is_personal = False
    counts = frozenset({"popularity"})
    grid = tuple({"by": by, "window": window} for by in ("users", "recent") for window in ("mixed", "all", "month"))

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The most popular."""
        return [_values(query).best(most, query.usable) for query, most in zip(queries, n, strict=True)]

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """Their popularity."""
        return [{self.name: _values(query).at(of.rows)} for query, of in zip(queries, candidates, strict=True)]

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """How many users each item had, and within how many seconds (`None` = in all of the log)."""
        explained = []
        for query, of, parts in zip(queries, picks, self.score(queries, picks), strict=True):
            explained.append(Explanation(parts, None, _facts(_popular(query), of.rows)))
        return explained

    def std(self, queries: Sequence[Query]) -> Floats:
        """Worked out once for a ranking."""
        return np.array([_popular(query).std(query.options.by) for query in queries])


def _popular(query: Query) -> PopularRows:
    """What is popular among the likes of this visit."""
    return query.data.counts.popular(query.context, query.options.window)


def _values(query: Query) -> Sparse:
    return _popular(query).values(query.options.by)


def _facts(popular: PopularRows, rows: Rows) -> list[dict[str, Any]]:
    known = set(popular.rows.tolist())
    reasons = [popular.reason(row) if row in known else (0, None) for row in rows.tolist()]
    return [{"users": users, "window_s": window_s} for users, window_s in reasons]
