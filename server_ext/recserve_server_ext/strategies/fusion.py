"""The strategy `fusion`: a weighted combination of strategies, by standardised scores or by reciprocal ranks.

Reciprocal rank fusion: G. Cormack, C. Clarke and S. Buettcher, "Reciprocal rank fusion outperforms Condorcet and
individual rank learning methods", SIGIR 2009.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.batching.batcher import ModelCall
from recserve_server_ext.common.arrays import NO_ROWS, Floats, Rows
from recserve_server_ext.strategies.base import (
    Candidates,
    Data,
    Explanation,
    Options,
    Parts,
    Query,
    Strategy,
    total,
)
from recserve_server_ext.strategies.parts.ranking import RANK_CONSTANT
from recserve_server_ext.strategies.parts.scatter import Scatter
from recserve_server_ext.strategies.parts.weighted import WeightedParts, split, weighted_sums

#: Candidates of each component: this many times the items wanted, and at least so many. Where scores are added up, more
#: change nothing on MovieLens 100k; ranks need them: docs/decisions/054-what-a-search-costs.md.
_CANDIDATES: Final = {"score": (2, 20), "rank": (4, 50)}


class FusionOptions(Options, frozen=True):
    """Options of `fusion`.

    score = (1 - b) sum_i w_i s_i + b sum_j w_j s_j. i runs over the personal strategies that can use the profile, j
    over the others. The weights of each sum are scaled to add up to 1. b = prior / (prior + n), where n = the user's
    behaviours * 2^(-idle / stale_half_life_s). idle is the time since the newest behaviour, or 0 in a session: after a
    long pause, current popularity predicts more than the history.

    Attributes:
        weights: Weight w of each strategy, by name.
        by: s is the strategy's score over its standard deviation in the catalogue (`score`), or 1 / (60 + its rank)
            among the strategy's own candidates (`rank`).
        prior: The n at which strategies that are not personal have half of the score. With 0 they count only for
            users without a usable profile.
        stale_half_life_s: Seconds without an interaction after which n is halved.
        options: Options of the strategies, by name.
    """

    weights: dict[str, Annotated[float, Meta(ge=0, le=1e6)]] = msgspec.field(default_factory=dict)
    by: Literal["score", "rank"] = "score"
    prior: Annotated[float, Meta(ge=0, le=1e9)] = 5.0
    stale_half_life_s: Annotated[float, Meta(gt=0, le=1e12)] = 3 * 3600.0
    options: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


class Component(NamedTuple):
    """One of the fused strategies.

    Attributes:
        strategy: The strategy.
        options: Its prepared options.
        weight: Its weight among the personal components, or among the others.
    """

    strategy: Strategy
    options: Any
    weight: float

    def queries(self, queries: Sequence[Query]) -> list[Query]:
        """The queries of the fusion, as this component is asked them."""
        return [query.with_options(self.options) for query in queries]


class PreparedOptions(NamedTuple):
    """Options of a fusion with the strategies that they name.

    Attributes:
        options: The options.
        components: The strategies with a weight above 0.
        asking: Those that wait for models.
    """

    options: FusionOptions
    components: list[Component]
    asking: list[Component]


#: Finds a strategy by name and prepares its options.
Resolve = Callable[[str, Mapping[str, Any]], tuple[Strategy, Any]]


class _Pool(NamedTuple):
    """Candidates of a query and the parts of their scores."""

    rows: Rows
    parts: Parts


@dataclass(slots=True, eq=False)
class _FusionState:
    """What is computed once for a query.

    Attributes:
        reasons: [components] why a component cannot use the profile; `None` where it can.
        factors: [components] factor of each score; 0 for a component that does not count.
        rankings: [components] ranked candidates; `None` where ranks are not used yet.
        pool: The candidates that were proposed last; `None` before.
    """

    reasons: list[RequestError | None]
    factors: list[float]
    rankings: list[Rows | None]
    pool: _Pool | None = None


class Fusion(Strategy):
    """Proposes the candidates of all components, and adds up their weighted scores."""

    Options = FusionOptions
    takes_components = True
    per_request = frozenset({"weights", "by", "prior", "stale_half_life_s", "options"})

    def __init__(self, name: str, resolve: Resolve, defaults: msgspec.Struct) -> None:
        """
        Args:
            name: Name in requests and settings.
            resolve: Finds the strategies that the options name.
            defaults: The server's options; their components decide which counts and texts are needed.
        """
        super().__init__(name)
        self._resolve = resolve
        self._scatter = Scatter()
        components = self.prepare(defaults).components
        strategies = [component.strategy for component in components]
        self.grid = _grid(components)
        self.needs_texts = any(strategy.needs_texts for strategy in strategies)
        self.counts = frozenset().union(*(strategy.counts for strategy in strategies))
        self.answers_cold = any(not strategy.is_personal for strategy in strategies)

    def prepare(self, options: Any) -> PreparedOptions:
        """Find the strategies that the options name.

        Raises:
            RequestError: A strategy is unknown, or one of its options is invalid.
        """
        assert isinstance(options, FusionOptions)
        components = [
            Component(*self._resolve(name, options.options.get(name, {})), weight)
            for name, weight in options.weights.items()
            if weight
        ]
        asking = [component for component in components if component.strategy.asks_models]
        return PreparedOptions(options, components, asking)

    def trainings(self, options: PreparedOptions) -> frozenset[str]:
        """Those of its components."""
        return frozenset().union(*(component.strategy.trainings(component.options) for component in options.components))

    def lacking(self, data: Data, options: PreparedOptions) -> RequestError | None:
        """Needs at least one component, and whatever the components need."""
        if not options.components:
            return RequestError(
                ErrorKind.INVALID_REQUEST, f"the strategy {self.name!r} has no parts: name some in its option weights"
            )
        reasons = (component.strategy.lacking(data, component.options) for component in options.components)
        return next((reason for reason in reasons if reason is not None), None)

    def pending(self, query: Query) -> ModelCall | None:
        """The first call that a component waits for."""
        asking: list[Component] = query.options.asking
        calls = (component.strategy.pending(query.with_options(component.options)) for component in asking)
        return next((call for call in calls if call is not None), None)

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """Refuses profiles that no personal component can use."""
        personal = [n for n, component in enumerate(queries[0].options.components) if component.strategy.is_personal]
        found: list[RequestError | None] = []
        for state in self._states(queries):
            reasons = [state.reasons[number] for number in personal]
            found.append(None if None in reasons or not reasons else reasons[0])
        return found

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The candidates of all components that count, by their scores; ties in the order of the components."""
        states = self._factored(queries)
        scatter = self._over(queries)
        joined = [np.concatenate([NO_ROWS, *of.values()]) for of in self._proposed(queries, n)]
        distinct = [rows[scatter.firsts(rows)] for rows in joined]
        scored = self._scored(queries, [Candidates(rows) for rows in distinct])
        for state, rows, parts in zip(states, distinct, scored.split(), strict=True):
            state.pool = _Pool(rows, parts)
        totals = zip(distinct, scored.totals(), strict=True)
        return [rows[np.argsort(-total, kind="stable")] for rows, total in totals]

    def sources(self, query: Query, n: int) -> dict[str, Rows]:
        """The candidates of each component."""
        return self._proposed([query], [n])[0]

    def _proposed(self, queries: Sequence[Query], n: Sequence[int]) -> list[dict[str, Rows]]:
        """[queries] the candidates of the components that count, by name."""
        found: list[dict[str, Rows]] = [{} for _ in queries]
        states, is_by_rank = self._factored(queries), _is_by_rank(queries)
        for component, number, places in self._counting(queries):
            own = component.queries([queries[place] for place in places])
            wanted = [max(n[place], _candidates(queries[place])) for place in places]
            candidates = component.strategy.candidates(own, wanted)
            for place, rows in zip(places, candidates, strict=True):
                found[place][component.strategy.name] = rows
                # The first list of a query is that of its own filter; those of quotas share its state.
                if is_by_rank and states[place].rankings[number] is None:
                    states[place].rankings[number] = rows
        return found

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """Weighted standardised scores or reciprocal ranks, a part for each component; the pool's are known already."""
        scatter = self._over(queries)
        scored = [
            _known(state.pool, items.rows, scatter)
            for state, items in zip(self._factored(queries), candidates, strict=True)
        ]
        new = [place for place, parts in enumerate(scored) if parts is None]
        if new:
            found = self._scored([queries[place] for place in new], [candidates[place] for place in new])
            for place, parts in zip(new, found.split(), strict=True):
                scored[place] = parts
        return [parts for parts in scored if parts is not None]

    def _scored(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> WeightedParts:
        """The parts of the scores of any rows."""
        states, scored = self._factored(queries), WeightedParts([len(items.rows) for items in candidates])
        for component, number, places in self._counting(queries):
            name, rows = component.strategy.name, [candidates[place] for place in places]
            if _is_by_rank(queries):
                ranks = self._reciprocal_ranks(number, [queries[place] for place in places], rows)
                scored.add(places, [{name: of} for of in ranks], [1.0] * len(places))
                continue
            own = component.queries([queries[place] for place in places])
            factors = [states[place].factors[number] for place in places]
            scored.add(places, component.strategy.score(own, rows), factors)
        return scored

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """Explanations of the components, scaled like their scores; facts only for users without a profile."""
        states, parts = self._factored(queries), WeightedParts([len(items.rows) for items in picks])
        told: list[list[tuple[Floats, float | Floats]]] = [[] for _ in queries]
        facts: list[list[dict[str, Any]] | None] = [None] * len(queries)
        are_approximate = [False] * len(queries)
        for component, number, places in self._counting(queries):
            own, rows = component.queries([queries[place] for place in places]), [picks[n] for n in places]
            explained = component.strategy.explain(own, rows)
            factors: list[float | Floats] = [states[place].factors[number] for place in places]
            if _is_by_rank(queries):
                ranks = self._reciprocal_ranks(number, [queries[place] for place in places], rows)
                factors = _ratios(ranks, [explanation.parts for explanation in explained])
            parts.add(places, [explanation.parts for explanation in explained], factors)
            for place, explanation, factor in zip(places, explained, factors, strict=True):
                if explanation.contributions is not None:
                    told[place].append((explanation.contributions, factor))
                    are_approximate[place] |= explanation.is_approximate
                if not queries[place].profile.count:
                    facts[place] = explanation.facts
        shapes = [(len(items.rows), len(query.profile.rows)) for query, items in zip(queries, picks, strict=True)]
        explanations = zip(parts.split(), weighted_sums(told, shapes), facts, are_approximate, strict=True)
        return [Explanation(*explanation) for explanation in explanations]

    def std(self, queries: Sequence[Query]) -> Floats:
        """1 for a sum of standardised scores; otherwise estimated from a sample."""
        return super().std(queries) if _is_by_rank(queries) else np.ones(len(queries))

    def _counting(self, queries: Sequence[Query]) -> list[tuple[Component, int, list[int]]]:
        """Each component with its number and the places of the queries that it counts for, where there are any."""
        states = self._factored(queries)
        counting = []
        for number, component in enumerate(queries[0].options.components):
            if places := [place for place, state in enumerate(states) if state.factors[number]]:
                counting.append((component, number, places))
        return counting

    def _states(self, queries: Sequence[Query]) -> list[_FusionState]:
        """What the components say of each profile, asked once."""
        new = [query for query in queries if self not in query.kept]
        if new:
            components: list[Component] = new[0].options.components
            reasons = [
                one.strategy.cold(one.queries(new)) if one.strategy.is_personal else [None] * len(new)
                for one in components
            ]
            for place, query in enumerate(new):
                # Nothing here names the query, which keeps this: each request would leave a cycle.
                query.kept[self] = _FusionState([of[place] for of in reasons], [], [None] * len(components))
        return [query.kept[self] for query in queries]

    def _factored(self, queries: Sequence[Query]) -> list[_FusionState]:
        """The states with the factors of the components, computed once for each query."""
        states = self._states(queries)
        new = [place for place, state in enumerate(states) if not state.factors]
        if new:
            factors = _factors([queries[place] for place in new], [states[place] for place in new])
            for place, of in zip(new, factors.tolist(), strict=True):
                states[place].factors = of
        return states

    def _reciprocal_ranks(
        self, number: int, queries: Sequence[Query], candidates: Sequence[Candidates]
    ) -> list[Floats]:
        """[queries] factor / (60 + rank) of rows in the ranking of a component; 0 for rows outside it."""
        states = self._states(queries)
        new = [place for place, state in enumerate(states) if state.rankings[number] is None]
        if new:
            component: Component = queries[0].options.components[number]
            own = component.queries([queries[place] for place in new])
            wanted = [_candidates(queries[place]) for place in new]
            for place, rows in zip(new, component.strategy.candidates(own, wanted), strict=True):
                states[place].rankings[number] = rows
        scatter, found = self._over(queries), []
        rankings = [state.rankings[number] for state in states]
        constants = RANK_CONSTANT + np.arange(max(len(ranking) for ranking in rankings if ranking is not None))
        for state, ranking, items in zip(states, rankings, candidates, strict=True):
            assert ranking is not None
            found.append(scatter.at(ranking, state.factors[number] / constants[: len(ranking)], items.rows))
        return found

    def _over(self, queries: Sequence[Query]) -> Scatter:
        return self._scatter.over(len(queries[0].data.view.available))


def _known(pool: _Pool | None, rows: Rows, scatter: Scatter) -> Parts | None:
    """The parts of rows that are all in a pool; `None` where one is not."""
    if pool is None:
        return None
    places = scatter.places(pool.rows, rows)
    return None if places.min(initial=0) < 0 else {name: values[places] for name, values in pool.parts.items()}


def _grid(components: Sequence[Component]) -> Sequence[Mapping[str, Any]]:
    """Priors where a component is not personal; otherwise the weights, and each of them doubled."""
    if not all(component.strategy.is_personal for component in components):
        return tuple({"prior": prior} for prior in (0.0, 2.0, 5.0, 20.0))
    weights = {component.strategy.name: component.weight for component in components}
    return ({}, *({"weights": {**weights, name: 2.0 * weight}} for name, weight in weights.items()))


def _candidates(query: Query) -> int:
    """Candidates of each component for a query of the fusion."""
    times, at_least = _CANDIDATES[query.options.options.by]
    return max(times * query.spec.n, at_least)


def _is_by_rank(queries: Sequence[Query]) -> bool:
    return bool(queries[0].options.options.by == "rank")


def _factors(queries: Sequence[Query], states: Sequence[_FusionState]) -> Floats:
    """[queries, components] factor of each component's score; 0 where it cannot use the profile."""
    options, components = queries[0].options.options, queries[0].options.components
    is_cold = np.array([[reason is not None for reason in state.reasons] for state in states], np.bool_)
    weights = np.where(is_cold, 0.0, [component.weight for component in components])
    scales = np.ones_like(weights)
    if options.by == "score":
        for number, component in enumerate(components):
            std = component.strategy.std(component.queries(queries))
            scales[:, number] = np.where(std > 0, 1.0 / np.where(std > 0, std, 1.0), 0.0)
    profiles = [query.profile for query in queries]
    weights[scales == 0] = 0.0
    is_personal = np.array([component.strategy.is_personal for component in components], np.bool_)
    has_personal = weights[:, is_personal].sum(axis=1) != 0
    active = np.array([profile.count * 2.0 ** (-profile.idle_s / options.stale_half_life_s) for profile in profiles])
    # A prior of 0 leaves the impersonal components out, however long ago the user was active.
    impersonal = np.zeros(len(queries)) if not options.prior else options.prior / (options.prior + active)
    impersonal[~has_personal] = 1.0
    for group, share in ((is_personal, 1.0 - impersonal), (~is_personal, impersonal)):
        mass = weights[:, group].sum(axis=1)
        weights[:, group] *= np.where(mass > 0, share / np.where(mass > 0, mass, 1.0), 0.0)[:, None]
    factors: Floats = weights * scales
    return factors


def _ratios(values: Sequence[Floats], parts: Sequence[Parts]) -> list[float | Floats]:
    """[queries] [rows] factors that turn a component's own scores into these values; 0 where a score is 0."""
    lengths = list(map(len, values))
    scores = np.concatenate([total(own, length) for own, length in zip(parts, lengths, strict=True)])
    ratios = np.divide(np.concatenate(values), scores, out=np.zeros(len(scores)), where=scores != 0)
    return list(split(ratios, lengths))
