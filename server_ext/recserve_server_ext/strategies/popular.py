"""The strategy `popular`: the items with the most users or recent interactions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np

from recserve_server_ext.common.arrays import Floats, Rows
from recserve_server_ext.counts.popularity import PopularWindow
from recserve_server_ext.strategies.base import Candidates, Explanation, Options, Parts, Query, Strategy
from recserve_server_ext.strategies.parts.counts_view import PopularRows
from recserve_server_ext.strategies.parts.sparse import SparseVector

#: Windows that an evaluation tries: where fashions change within a week, a month says little.
_WINDOWS: Final[tuple[PopularWindow, ...]] = ("mixed", "all", "month", "week", "day")


class PopularOptions(Options, frozen=True):
    """Options of `popular`.

    Attributes:
        window: The last 1, 7 or 30 days, the whole log (`all`), or `mixed`: all windows smoothed into one share, where
            a shorter window counts the more, the more users it has.
        by: `users` scores by the share of active users that had an item. `recent` scores by ln(1 + x), where x counts
            the interactions with the item, each decayed by its age.
    """

    window: PopularWindow = "mixed"
    by: Literal["users", "recent"] = "users"


class Popular(Strategy):
    """Popularity: the same ranking for everybody in a context. It needs no profile, so it can be the fallback."""

    Options = PopularOptions
    per_request = frozenset({"window", "by"})
    is_personal = False
    counts = frozenset({"popularity"})
    grid = tuple({"by": by, "window": window} for by in ("users", "recent") for window in _WINDOWS)

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The most popular items."""
        return [_values(query).best(wanted, query.usable) for query, wanted in zip(queries, n, strict=True)]

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """Popularity of the candidates."""
        return [
            {self.name: _popular(query).at(query.options.by, items.rows)}
            for query, items in zip(queries, candidates, strict=True)
        ]

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """Adds the facts `users` and `window_s`, the window they are counted in (`None` for the whole log)."""
        scored = self.score(queries, picks)
        return [
            Explanation(parts, None, _facts(_popular(query), items.rows))
            for query, items, parts in zip(queries, picks, scored, strict=True)
        ]

    def std(self, queries: Sequence[Query]) -> Floats:
        """Standard deviation of the popularity, computed once for each ranking."""
        return np.array([_popular(query).std(query.options.by) for query in queries])


def _popular(query: Query) -> PopularRows:
    """The popularity ranking for the context of this visit."""
    return query.data.counts.popular(query.context, query.options.window)


def _values(query: Query) -> SparseVector:
    return _popular(query).values(query.options.by)


def _facts(popular: PopularRows, rows: Rows) -> list[dict[str, Any]]:
    is_counted = np.isin(rows, popular.rows).tolist()
    facts = [popular.facts(row) if known else (0, None) for row, known in zip(rows.tolist(), is_counted, strict=True)]
    return [{"users": users, "window_s": window_s} for users, window_s in facts]
