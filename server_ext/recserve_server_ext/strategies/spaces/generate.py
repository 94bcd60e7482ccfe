"""The strategy `generate`: a decoder generates the semantic ids of items, by beam search over the ids that exist.

S. Rajput et al., "Recommender systems with generative retrieval", NeurIPS 2023 (TIGER).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from msgspec import Meta

from recserve_client.contract import models
from recserve_server_ext.common.arrays import Floats, Rows, Vectors
from recserve_server_ext.index.space import Space
from recserve_server_ext.networks.decoder import DecoderRunner
from recserve_server_ext.retrieval.search import CandidateSpec
from recserve_server_ext.strategies.base import Candidates, Explanation, Parts, Query
from recserve_server_ext.strategies.parts.id_tree import IdTree, Search, SortedIds, Wanted, ids_of_space, tree_of
from recserve_server_ext.strategies.parts.leaving_out import LeavingOutOptions
from recserve_server_ext.strategies.parts.sparse import SparseVector
from recserve_server_ext.strategies.spaces.sequence import SequenceStrategy

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.view import SpaceView


class GenerateOptions(LeavingOutOptions, frozen=True):
    """Options of `generate`.

    Attributes:
        beam: Beginnings of ids that are followed at each level. More are followed where fewer items than are wanted
            are below them.
    """

    beam: Annotated[int, Meta(ge=1, le=200)] = 10


class _Loaded(NamedTuple):
    """The decoder of a space and the ids of its vectors."""

    space: Space
    runner: DecoderRunner
    ids: SortedIds


class _Reached(NamedTuple):
    """What a search reached.

    Attributes:
        spec: The items that were allowed.
        beam: Beginnings of ids that were followed.
        n: Items wanted.
        rows: The best allowed ones, best first.
        p: The probabilities of all that were reached.
    """

    spec: CandidateSpec
    beam: int
    n: int
    rows: Rows
    p: SparseVector

    def fits(self, query: Query, n: int) -> bool:
        """Whether it answers a query: one for a quota has the same cache and another filter."""
        spec, asked = self.spec, query.spec
        is_same = spec.allowed is asked.allowed and spec.banned is asked.banned and self.beam == query.options.beam
        return is_same and self.n >= n


class Generate(SequenceStrategy):
    """score(i) = p(i | history) = prod_l p(c_l | c_1 ... c_(l-1), u) p(i | c_1 ... c_m, u).

    c_1 ... c_m are the codes of item i, and u is the network's output for the last behaviours. The last factor is a
    softmax over the items that share all codes.
    """

    Options = GenerateOptions
    per_request = frozenset({"reasons", "beam"})
    space = models.GENERATE
    grid = tuple({"beam": beam} for beam in (10, 50))
    _loaded: _Loaded | None = None
    _tree: tuple[SpaceView, IdTree] | None = None

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The most probable items that the beam reaches."""
        return [found.rows[:wanted] for found, wanted in zip(self._reached(queries, n), n, strict=True)]

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """p of the candidates; 0 for items that may not be recommended."""
        rows = [items.rows for items in candidates]
        scores = [np.zeros(len(of)) for of in rows]
        missing = []
        for number, query in enumerate(queries):
            kept: _Reached | None = query.kept.get(self._key)
            known = np.zeros(len(rows[number]), np.bool_) if kept is None else np.isin(rows[number], kept.p.rows)
            if kept is not None:
                scores[number] = kept.p.at(rows[number])
            missing.append(np.flatnonzero(~known))
        asked = [of[at] for of, at in zip(rows, missing, strict=True)]
        if sum(map(len, asked)):
            found = self._p(queries[0], self._matrix(queries), asked)
            for line, at, p in zip(scores, missing, found, strict=True):
                line[at] = p
        return [{self.name: line} for line in scores]

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """What each of the newest behaviours adds: p less that of the history without it. Approximate."""
        scored = self.score(queries, picks)
        explained = [Explanation(parts) for parts in scored]
        asked = [self._asked(query) for query in queries]
        owners = [number for number, of in enumerate(asked) for _ in of.places]
        if not owners:
            return explained
        users = np.stack([query.kept[one] for query, of in zip(queries, asked, strict=True) for one in of.inputs[1:]])
        less = iter(self._p(queries[0], users, [picks[number].rows for number in owners]))
        for number, (query, of) in enumerate(zip(queries, asked, strict=True)):
            if len(of.places):
                contributions = np.zeros((len(picks[number].rows), len(query.profile.rows)))
                for place in of.places.tolist():
                    contributions[:, place] = scored[number][self.name] - next(less)
                explained[number] = Explanation(scored[number], contributions, is_approximate=True)
        return explained

    def std(self, queries: Sequence[Query]) -> Floats:
        """Standard deviation of p over the catalogue: sqrt(sum p^2 / items - 1 / items^2), of what the beam reaches."""
        items = len(queries[0].data.view.available)
        reached = self._reached(queries, [query.spec.n for query in queries])
        squares = np.array([float((found.p.values**2).sum()) for found in reached])
        variances: Floats = np.maximum(squares / items - 1.0 / items**2, 0.0)
        return np.sqrt(variances)

    @property
    def _key(self) -> Any:
        return self, "reached"

    def _reached(self, queries: Sequence[Query], n: Sequence[int]) -> list[_Reached]:
        """What the search reaches for each query, found once."""
        key = self._key
        found: list[_Reached | None] = [
            kept if (kept := query.kept.get(key)) and kept.fits(query, wanted) else None
            for query, wanted in zip(queries, n, strict=True)
        ]
        places = [place for place, of in enumerate(found) if of is None]
        if places:
            new = [queries[place] for place in places]
            wanted = [
                Wanted(query.options.beam, n[place], None if query.spec.allowed is None else query.spec.allowed.mask,
                       query.spec.banned)
                for query, place in zip(new, places, strict=True)
            ]  # fmt: skip
            for query, place, of in zip(new, places, self._search(new[0], self._matrix(new)).best(wanted), strict=True):
                found[place] = query.kept[key] = _Reached(query.spec, query.options.beam, n[place], *of)
        return [of for of in found if of is not None]

    def _p(self, query: Query, users: Vectors, rows: Sequence[Rows]) -> list[Floats]:
        """[users] p of some rows of each user."""
        tree, search = self._tree_of(query), self._search(query, users)
        owner = np.repeat(np.arange(len(rows)), [len(of) for of in rows])
        places = tree.place_of[np.concatenate(rows)]
        p = np.zeros(len(places))
        there = np.flatnonzero(places >= 0)
        p[there] = search.probabilities(owner[there], places[there])
        return np.split(p, np.cumsum([len(of) for of in rows])[:-1])

    def _search(self, query: Query, users: Vectors) -> Search:
        return Search(self._tree_of(query), self.view(query), self._load(self.view(query).space).runner, users)

    def _tree_of(self, query: Query) -> IdTree:
        """The tree of a view, made once."""
        view = self.view(query)
        if self._tree is None or self._tree[0] is not view:
            self._tree = view, tree_of(view, self._load(view.space).ids)
        return self._tree[1]

    def _load(self, space: Space) -> _Loaded:
        """The decoder and the ids of a space, made once."""
        if self._loaded is None or self._loaded.space is not space:
            assert space.network is not None
            assert space.network.decoder is not None
            self._loaded = _Loaded(space, DecoderRunner(space.network.decoder), ids_of_space(space))
        return self._loaded
