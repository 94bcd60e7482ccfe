"""The strategy `ranker`: a model that ranks the candidates of several strategies by features (LambdaMART).

C. Burges, "From RankNet to LambdaRank to LambdaMART: an overview", Microsoft Research MSR-TR-2010-82, 2010.
G. Ke et al., "LightGBM: a highly efficient gradient boosting decision tree", NeurIPS 2017.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.attributes.view import Allowed
from recserve_server_ext.common.arrays import Floats, Rows
from recserve_server_ext.index.model import Model
from recserve_server_ext.strategies.base import Candidates, Count, Data, Explanation, Options, Parts, Query, Strategy
from recserve_server_ext.strategies.fusion import Resolve
from recserve_server_ext.strategies.parts.chosen import Choice
from recserve_server_ext.strategies.parts.ranking import Proposed, Source, feature_names, features, propose
from recserve_server_ext.strategies.parts.training_needed import not_trained

NAME: Final = "ranker"
#: Arrays of the model: the text of LightGBM's booster, and the JSON of `Trained`, both as bytes.
BOOSTER: Final = "booster"
ABOUT: Final = "about"
#: Name of the part of a score that all candidates of all users share.
_BASE: Final = "base"
_NO_LIGHTGBM: Final = RequestError(
    ErrorKind.UNAVAILABLE, "the strategy 'ranker' needs the module 'lightgbm': pip install 'recserve[train]'"
)


class Trained(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model was trained with.

    Attributes:
        sources: Names of the sources among the options, in the order of their features.
        features: Names of the features, in the order of the columns.
    """

    sources: list[str]
    features: list[str]


def default_sources() -> dict[str, Choice]:
    """The strategies whose candidates are ranked."""
    return {
        "ease": Choice("ease"),
        "transitions": Choice("transitions"),
        "als": Choice("als"),
        "item_knn": Choice("item_knn"),
        "user_knn": Choice("user_knn"),
        "popular": Choice("popular", {"by": "recent"}),
    }


class RankerOptions(Options, frozen=True):
    """Options of `ranker`.

    Attributes:
        sources: Strategies with options whose candidates are ranked, by the names that their parts have in reasons.
            The model must have been trained with them.
        pool: Candidates that are ranked at most, unless more are asked for.
    """

    sources: dict[str, Choice] = msgspec.field(default_factory=default_sources)
    pool: Annotated[int, Meta(ge=1, le=2000)] = 200


class PreparedOptions(NamedTuple):
    """Options of the ranker with the strategies that they name."""

    options: RankerOptions
    sources: dict[str, Source]


class _State(NamedTuple):
    """What is computed once for a query with its filter.

    Attributes:
        allowed: The filter that it was computed with.
        banned: Rows that were banned.
        proposed: What the sources proposed.
        scores: [pool] the scores of the pool.
    """

    allowed: Allowed | None
    banned: Rows
    proposed: Proposed
    scores: Floats

    def fits(self, query: Query) -> bool:
        """Whether it was computed with the filter of this query."""
        return self.allowed is query.spec.allowed and self.banned is query.spec.banned


class _Loaded(NamedTuple):
    """A model that is ready to score."""

    model: Model
    booster: Any
    about: Trained


class Ranker(Strategy):
    """score(i) = sum_t f_t(x_i): f_t trees, x_i the features of candidate i of `strategies.parts.ranking`."""

    Options = RankerOptions
    is_filled_up = True
    _loaded: _Loaded | None = None

    def __init__(self, name: str, resolve: Resolve, defaults: msgspec.Struct) -> None:
        """
        Args:
            name: Name in requests and settings.
            resolve: Finds the strategies that the options name.
            defaults: The server's options; their sources decide which counts and texts are needed.
        """
        super().__init__(name)
        self._resolve = resolve
        strategies = [source.strategy for source in self.prepare(defaults).sources.values()]
        self.needs_texts = any(strategy.needs_texts for strategy in strategies)
        counts: frozenset[Count] = frozenset({"popularity"})
        self.counts = counts.union(*(strategy.counts for strategy in strategies))

    def prepare(self, options: Any) -> PreparedOptions:
        """Find the strategies that the options name.

        Raises:
            RequestError: A strategy is unknown, or one of its options is invalid.
        """
        assert isinstance(options, RankerOptions)
        sources = {
            name: Source(name, *self._resolve(choice.strategy, choice.options))
            for name, choice in options.sources.items()
        }
        return PreparedOptions(options, sources)

    def trainings(self, options: PreparedOptions) -> frozenset[str]:
        """Its model, and those of its sources."""
        own = (source.strategy.trainings(source.options) for source in options.sources.values())
        return frozenset({NAME}).union(*own)

    def lacking(self, data: Data, options: PreparedOptions) -> RequestError | None:
        """Needs its model, what the sources of the model need, and LightGBM."""
        model = data.view.snapshot.models.get(NAME)
        if model is None:
            return not_trained(self.name, NAME)
        if find_spec("lightgbm") is None:
            return _NO_LIGHTGBM
        unknown = [name for name in self._load(model).about.sources if name not in options.sources]
        if unknown:
            return RequestError(
                ErrorKind.UNAVAILABLE,
                f"the model of the strategy {self.name!r} was trained with the source {unknown[0]!r}, which its "
                f"options lack; run: recserve train {NAME} && recserve index build",
            )
        reasons = (source.strategy.lacking(data, source.options) for source in self._sources(data, options))
        return next((reason for reason in reasons if reason is not None), None)

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """Refuses profiles that no personal source can use."""
        reasons: list[RequestError | None] = [None] * len(queries)
        is_usable = [False] * len(queries)
        for source in self._sources(queries[0].data, queries[0].options):
            if source.strategy.is_personal:
                own = [Query(of.profile, of.data, of.spec, source.options, of.context) for of in queries]
                for place, reason in enumerate(source.strategy.cold(own)):
                    is_usable[place] |= reason is None
                    reasons[place] = reasons[place] or reason
        return [None if usable else reason for usable, reason in zip(is_usable, reasons, strict=True)]

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The best of the pool by score; ties in the order of the pool."""
        found = []
        for state, wanted in zip(self._states(queries), n, strict=True):
            found.append(state.proposed.pool[np.argsort(-state.scores, kind="stable")[:wanted]])
        return found

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """The scores of the model; those of the pool are known already."""
        states = self._states(queries)
        scored = [_known(state, items.rows) for state, items in zip(states, candidates, strict=True)]
        new = [place for place, scores in enumerate(scored) if scores is None]
        if new:
            rows = [candidates[place].rows for place in new]
            matrix = self._features([queries[place] for place in new], [states[place].proposed for place in new], rows)
            for place, scores in zip(new, _split(self._predict(queries[0], matrix), rows), strict=True):
                scored[place] = scores
        return [{self.name: scores} for scores in scored if scores is not None]

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """What each source, the popularity and the history add to a score, by TreeSHAP.

        The parts add up to the score. S. Lundberg et al., "From local explanations to global understanding with
        explainable AI for trees", Nature Machine Intelligence 2020.
        """
        rows = [items.rows for items in picks]
        if not any(map(len, rows)):
            return [Explanation({self.name: np.zeros(0)}) for _ in queries]
        matrix = self._features(queries, [state.proposed for state in self._states(queries)], rows)
        loaded = self._load(queries[0].data.view.snapshot.models[NAME])
        values = loaded.booster.predict(matrix, pred_contrib=True, num_threads=1)
        places: dict[str, list[int]] = defaultdict(list)
        for place, name in enumerate([*loaded.about.features, _BASE]):
            places[name.partition(".")[0]].append(place)
        parts = {name: _split(values[:, own].sum(axis=1), rows) for name, own in places.items()}
        return [Explanation({name: of[place] for name, of in parts.items()}) for place in range(len(queries))]

    def _states(self, queries: Sequence[Query]) -> list[_State]:
        """What the sources proposed for each query, and the scores of it, computed once."""
        new = [query for query in queries if (kept := query.kept.get(self)) is None or not kept.fits(query)]
        if new:
            sources, pool = self._sources(new[0].data, new[0].options), new[0].options.options.pool
            proposed = propose(sources, new, pool)
            rows = [of.pool for of in proposed]
            scores = _split(self._predict(new[0], self._features(new, proposed, rows)), rows)
            for query, of, own in zip(new, proposed, scores, strict=True):
                query.kept[self] = _State(query.spec.allowed, query.spec.banned, of, own)
        return [query.kept[self] for query in queries]

    def _features(self, queries: Sequence[Query], proposed: Sequence[Proposed], rows: Sequence[Rows]) -> Floats:
        return features(self._sources(queries[0].data, queries[0].options), queries, proposed, rows)

    def _predict(self, query: Query, matrix: Floats) -> Floats:
        """[rows] the scores of all rows of a batch, in one call."""
        if not len(matrix):
            return np.empty(0)
        booster = self._load(query.data.view.snapshot.models[NAME]).booster
        return np.asarray(booster.predict(matrix, num_threads=1), np.float64)

    def _sources(self, data: Data, options: PreparedOptions) -> list[Source]:
        """The sources that the model was trained with."""
        about = self._load(data.view.snapshot.models[NAME]).about
        return [options.sources[name] for name in about.sources]

    def _load(self, model: Model) -> _Loaded:
        """The booster of a model, read once."""
        if self._loaded is None or self._loaded.model is not model:
            # Here, since only this strategy needs it.
            from lightgbm import Booster

            about = msgspec.json.decode(model.arrays[ABOUT].tobytes(), type=Trained)
            self._loaded = _Loaded(model, Booster(model_str=model.arrays[BOOSTER].tobytes().decode()), about)
        return self._loaded


def model_arrays(booster: str, sources: Sequence[str]) -> Mapping[str, Any]:
    """The arrays of a model, from the text of its booster."""
    about = msgspec.json.encode(Trained(list(sources), feature_names(sources)))
    return {BOOSTER: np.frombuffer(booster.encode(), np.uint8), ABOUT: np.frombuffer(about, np.uint8)}


def _known(state: _State, rows: Rows) -> Floats | None:
    """The scores of rows that are all in the pool; `None` where one is not."""
    pool = state.proposed.pool
    if not len(pool):
        return None
    order = np.argsort(pool, kind="stable")
    place = order[np.minimum(np.searchsorted(pool[order], rows), len(pool) - 1)]
    return state.scores[place] if (pool[place] == rows).all() else None


def _split(values: Floats, rows: Sequence[Rows]) -> list[Floats]:
    """The values of the rows of each query."""
    return np.split(values, np.cumsum([len(of) for of in rows])[:-1])
