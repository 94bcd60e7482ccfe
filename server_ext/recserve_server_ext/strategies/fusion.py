"""The strategy `fusion`: others together, each with a weight, by standardised scores or by reciprocal ranks.

Reciprocal ranks: G. Cormack, C. Clarke and S. Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual
rank learning methods", SIGIR 2009.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.arrays import Floats, Rows
from recserve_server_ext.strategies.base import Candidates, Data, Explanation, Options, Parts, Query, Strategy

#: Candidates of each part, at least, and as many times as items are wanted.
_AT_LEAST: Final = 200
_TIMES: Final = 4


class FusionOptions(Options, frozen=True):
    """Options of `fusion`.

    score = (1 - b) sum_i w_i s_i + b sum_j w_j s_j: i runs over the personal strategies that know something of the
    user, j over the others, and the w of each of the two sums add up to 1. b = prior / (prior + n), n = the user's
    behaviours * 2^(-idle / stale_half_life_s), idle = the time since the newest of them, or 0 in a session: what comes
    next depends on what came just before, and after a pause on what is popular by then.

    Attributes:
        weights: w by the name of a strategy.
        by: s is the strategy's score over its standard deviation in the catalogue (`score`), or 1 / (60 + its rank)
            among the strategy's own candidates (`rank`).
        prior: The n at which strategies that are not personal have half of the score; 0 leaves them out where anything
            is known of the user.
        stale_half_life_s: Time without an interaction after which behaviours count as half as many.
        options: Options of the strategies, by name.
    """

    weights: dict[str, Annotated[float, Meta(ge=0, le=1e6)]] = msgspec.field(default_factory=dict)
    by: Literal["score", "rank"] = "score"
    prior: Annotated[float, Meta(ge=0, le=1e9)] = 5.0
    stale_half_life_s: Annotated[float, Meta(gt=0, le=1e12)] = 3 * 3600.0
    options: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


#: Added to a rank, from 0, before its reciprocal is taken.
_RANK_CONSTANT: Final = 61.0


class Part(NamedTuple):
    """One of the strategies together.

    Attributes:
        strategy: The strategy.
        options: Of it.
        weight: Of it, among the personal ones or among the others.
    """

    strategy: Strategy
    options: Any
    weight: float


class Fused(NamedTuple):
    """Options of a fusion, with the strategies that they name.

    Attributes:
        options: As they were given.
        parts: Those with a weight.
    """

    options: FusionOptions
    parts: list[Part]


#: Name and given options of a strategy -> the strategy and its options.
Resolve = Callable[[str, Mapping[str, Any]], tuple[Strategy, Any]]


@dataclass(slots=True, eq=False)
class _Kept:
    """What is known of a profile: of each part the factor of its score, and its ranking."""

    factors: list[float]
    ranked: list[Rows | None]


class Fusion(Strategy):
    """Proposes the candidates of all parts, and adds up their scores."""

    Options = FusionOptions
    per_request = frozenset({"weights", "by", "prior", "stale_half_life_s", "options"})
    is_ranked = False
    grid = tuple({"prior": prior} for prior in (0.0, 2.0, 5.0, 20.0))

    def __init__(self, name: str, resolve: Resolve, defaults: msgspec.Struct) -> None:
        """
        Args:
            name: As requests and settings call it.
            resolve: Finds the strategies that the options name.
            defaults: Options of the server: what they name decides what is waited for.
        """
        super().__init__(name)
        self._resolve = resolve
        parts = self.prepare(defaults).parts
        self.needs_texts = any(part.strategy.needs_texts for part in parts)
        self.counts = frozenset().union(*(part.strategy.counts for part in parts))
        self.answers_cold = any(not part.strategy.is_personal for part in parts)

    def prepare(self, options: Any) -> Fused:
        """Find the strategies that the options name.

        Raises:
            RequestError: There is none of a name, or an option of it is wrong.
        """
        assert isinstance(options, FusionOptions)
        return Fused(
            options,
            [
                Part(*self._resolve(name, options.options.get(name, {})), weight)
                for name, weight in options.weights.items()
                if weight
            ],
        )

    def lacking(self, data: Data, options: Fused) -> RequestError | None:
        """It needs a part, and each part what that one needs."""
        if not options.parts:
            return RequestError(
                ErrorKind.INVALID_REQUEST, f"the strategy {self.name!r} has no parts: name some in its option weights"
            )
        reasons = (part.strategy.lacking(data, part.options) for part in options.parts)
        return next((reason for reason in reasons if reason is not None), None)

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """Those of which no personal part knows anything."""
        reasons: list[RequestError | None] = [None] * len(queries)
        is_known = [False] * len(queries)
        for part in _personal(queries):
            for number, reason in enumerate(part.strategy.cold([_for(part, query) for query in queries])):
                is_known[number] |= reason is None
                reasons[number] = reasons[number] or reason
        return [None if known else reason for known, reason in zip(is_known, reasons, strict=True)]

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The candidates of all parts that count, one part after the other."""
        kept = self._known(queries)
        found: list[list[Rows]] = [[] for _ in queries]
        for number, part in enumerate(queries[0].options.parts):
            own = [place for place, of in enumerate(kept) if of.factors[number]]
            wide = [max(n[place], _AT_LEAST, _TIMES * queries[place].spec.n) for place in own]
            rows = part.strategy.candidates([_for(part, queries[place]) for place in own], wide) if own else []
            for place, of_part in zip(own, rows, strict=True):
                found[place].append(of_part)
        return [_distinct(of) for of in found]

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """The parts' scores, multiplied by what makes them comparable, and by their weights."""
        kept = self._known(queries)
        scored: list[Parts] = [{} for _ in queries]
        for number, part in enumerate(queries[0].options.parts):
            own = [place for place, of in enumerate(kept) if of.factors[number]]
            if not own:
                continue
            if queries[0].options.options.by == "rank":
                _rank(part, number, [(queries[place], kept[place]) for place in own])
                for place in own:
                    scored[place][part.strategy.name] = _reciprocal(kept[place], number, candidates[place].rows)
                continue
            raw = part.strategy.score([_for(part, queries[n]) for n in own], [candidates[n] for n in own])
            for place, parts in zip(own, raw, strict=True):
                factor = kept[place].factors[number]
                scored[place] |= {name: factor * values for name, values in parts.items()}
        return scored

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """The explanations of the parts, multiplied as their scores; what was known to nobody has facts."""
        kept = self._known(queries)
        parts: list[Parts] = [{} for _ in queries]
        contributions = [np.zeros((len(of.rows), len(q.profile.rows))) for q, of in zip(queries, picks, strict=True)]
        facts: list[list[dict[str, Any]] | None] = [None] * len(queries)
        is_rank = queries[0].options.options.by == "rank"
        for number, part in enumerate(queries[0].options.parts):
            own = [place for place, of in enumerate(kept) if of.factors[number]]
            if not own:
                continue
            found = part.strategy.explain([_for(part, queries[n]) for n in own], [picks[n] for n in own])
            if is_rank:
                _rank(part, number, [(queries[place], kept[place]) for place in own])
            for place, of in zip(own, found, strict=True):
                factor: float | Floats = kept[place].factors[number]
                if is_rank:
                    factor = _ratio(_reciprocal(kept[place], number, picks[place].rows), of.parts)
                parts[place] |= {name: factor * values for name, values in of.parts.items()}
                if of.contributions is not None:
                    contributions[place] += np.asarray(factor)[..., None] * of.contributions
                if not queries[place].profile.count:
                    facts[place] = of.facts
        return [Explanation(*of) for of in zip(parts, contributions, facts, strict=True)]

    def std(self, queries: Sequence[Query]) -> Floats:
        """Of a sum of standardised parts that are taken as independent: the root of the squares of their shares."""
        if queries[0].options.options.by == "rank":
            return super().std(queries)
        return np.array([1.0 for _ in self._known(queries)])

    def _known(self, queries: Sequence[Query]) -> list[_Kept]:
        """Factor and query of each part, worked out once for each query."""
        new = [query for query in queries if self not in query.kept]
        if new:
            options: Fused = new[0].options
            of_parts = [[_for(part, query) for query in new] for part in options.parts]
            factors = _factors(options, new, of_parts)
            for query, own in zip(new, factors.tolist(), strict=True):
                query.kept[self] = _Kept(own, [None] * len(own))
        return [query.kept[self] for query in queries]


def _rank(part: Part, number: int, own: Sequence[tuple[Query, _Kept]]) -> None:
    """Rank the candidates of a part, where that was not done."""
    new = [(_for(part, query), kept) for query, kept in own if kept.ranked[number] is None]
    if not new:
        return
    queries = [query for query, _ in new]
    wide = [max(_AT_LEAST, _TIMES * query.spec.n) for query in queries]
    for (_, kept), rows in zip(new, part.strategy.candidates(queries, wide), strict=True):
        kept.ranked[number] = rows


def _personal(queries: Sequence[Query]) -> list[Part]:
    return [part for part in queries[0].options.parts if part.strategy.is_personal]


def _for(part: Part, query: Query) -> Query:
    return query.of(part.options)


def _factors(fused: Fused, queries: Sequence[Query], of_parts: Sequence[Sequence[Query]]) -> Floats:
    """[queries, parts] what the score of each part is multiplied by; 0 where it knows nothing."""
    options = fused.options
    shares = np.zeros((len(queries), len(fused.parts)))
    scales = np.ones_like(shares)
    for number, (part, own) in enumerate(zip(fused.parts, of_parts, strict=True)):
        reasons = part.strategy.cold(own) if part.strategy.is_personal else [None] * len(own)
        shares[:, number] = [part.weight if reason is None else 0.0 for reason in reasons]
        if options.by == "score":
            std = part.strategy.std(own)
            scales[:, number] = np.where(std > 0, 1.0 / np.where(std > 0, std, 1.0), 0.0)
    shares[scales == 0] = 0.0
    personal = np.array([part.strategy.is_personal for part in fused.parts], np.bool_)
    own_mass = shares[:, personal].sum(axis=1)
    fresh = np.array(
        [query.profile.count * 2.0 ** (-query.profile.idle_s / options.stale_half_life_s) for query in queries]
    )
    # A prior of 0 leaves the others out, however long ago the user was here.
    others = np.full(len(queries), 0.0) if not options.prior else options.prior / (options.prior + fresh)
    others[own_mass == 0] = 1.0
    for of, total in ((personal, 1.0 - others), (~personal, others)):
        mass = shares[:, of].sum(axis=1)
        shares[:, of] *= np.where(mass > 0, total / np.where(mass > 0, mass, 1.0), 0.0)[:, None]
    return shares * scales


def _distinct(found: Sequence[Rows]) -> Rows:
    """The rows of several lists, no row twice, in their order."""
    return np.array(list(dict.fromkeys(np.concatenate(found).tolist())), np.int64) if found else np.empty(0, np.int64)


def _reciprocal(kept: _Kept, number: int, rows: Rows) -> Floats:
    """[rows] the factor over the rank in a part's ranking; 0 for those that are not in it."""
    ranked = kept.ranked[number]
    assert ranked is not None
    place_of = {row: place for place, row in enumerate(ranked.tolist())}
    ranks = np.array([place_of.get(row, np.inf) for row in rows.tolist()], np.float64)
    return kept.factors[number] / (_RANK_CONSTANT + ranks)


def _ratio(values: Floats, parts: Parts) -> Floats:
    """[rows] what a part's own score is multiplied by to become these values."""
    score = sum(parts.values(), start=np.zeros(len(values)))
    return np.where(score != 0, values / np.where(score != 0, score, 1.0), 0.0)
