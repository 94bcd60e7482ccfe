"""The strategy `ranker`: a model that ranks the candidates of several strategies by features (LambdaMART).

C. Burges, "From RankNet to LambdaRank to LambdaMART: an overview", Microsoft Research MSR-TR-2010-82, 2010.
G. Ke et al., "LightGBM: a highly efficient gradient boosting decision tree", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.arrays import Floats, Rows
from recserve_server_ext.index.model import Model
from recserve_server_ext.retrieval.search import CandidateSpec
from recserve_server_ext.strategies.base import Candidates, Count, Data, Explanation, Parts, Query, Strategy, total
from recserve_server_ext.strategies.fusion import Resolve
from recserve_server_ext.strategies.parts.chosen import Choice
from recserve_server_ext.strategies.parts.leaving_out import LeavingOutOptions, in_order, left_out, without
from recserve_server_ext.strategies.parts.ranking import Asked, CandidateSources, Proposed, Source, feature_names
from recserve_server_ext.strategies.parts.scatter import Scatter
from recserve_server_ext.strategies.parts.training_needed import not_trained
from recserve_server_ext.strategies.parts.tree_tables import TreeTables
from recserve_server_ext.strategies.parts.weighted import split

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


class RankerOptions(LeavingOutOptions, frozen=True):
    """Options of `ranker`.

    Attributes:
        sources: Strategies with options whose candidates are ranked, by the names that their parts have in reasons.
            The model must have been trained with them.
        pool: Candidates that are ranked at most, unless more are asked for.
        reasons: Newest behaviours whose share in the scores is told, where the request asks to explain: the sources
            and the model run once more for each, without it. 0 for none.
    """

    sources: dict[str, Choice] = msgspec.field(default_factory=default_sources)
    pool: Annotated[int, Meta(ge=1, le=2000)] = 100


class PreparedOptions(NamedTuple):
    """Options of the ranker with the strategies that they name."""

    options: RankerOptions
    sources: dict[str, Source]


class _State(NamedTuple):
    """What is computed once for a query with its filter.

    Attributes:
        spec: The candidates that it was computed for.
        proposed: What the sources proposed.
        features: [pool, features] the features of the pool.
        scores: [pool] its scores.
    """

    spec: CandidateSpec
    proposed: Proposed
    features: Floats
    scores: Floats

    def fits(self, query: Query) -> bool:
        """Whether it was computed with the filter of this query."""
        return self.spec.allowed is query.spec.allowed and self.spec.banned is query.spec.banned


class _Loaded(NamedTuple):
    """A model that is ready to score.

    Attributes:
        model: The model.
        about: What it was trained with.
        parts: Names of the parts of a score.
        trees: Its trees: scores, and what each part adds to them.
    """

    model: Model
    about: Trained
    parts: list[str]
    trees: TreeTables


class Ranker(Strategy):
    """score(i) = sum_t f_t(x_i): f_t trees, x_i the features of candidate i of `strategies.parts.ranking`."""

    Options = RankerOptions
    takes_components = True
    per_request = frozenset({"reasons"})
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
        self._scatter = Scatter()
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
        reasons = (source.strategy.lacking(data, source.options) for source in self._sources(data, options).sources)
        return next((reason for reason in reasons if reason is not None), None)

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """Refuses profiles that no personal source can use."""
        sources = self._sources(queries[0].data, queries[0].options).sources
        personal = [number for number, source in enumerate(sources) if source.strategy.is_personal]
        found: list[RequestError | None] = []
        for asked in self._asked(queries):
            reasons = [asked.reasons[number] for number in personal]
            found.append(None if None in reasons or not reasons else reasons[0])
        return found

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The best of the pool by score; ties in the order of the pool."""
        found = []
        for state, wanted in zip(self._states(queries), n, strict=True):
            found.append(state.proposed.pool[np.argsort(-state.scores, kind="stable")[:wanted]])
        return found

    def sources(self, query: Query, n: int) -> dict[str, Rows]:
        """What each source ranked."""
        (state,) = self._states([query])
        sources = self._sources(query.data, query.options).sources
        return {source.name: rows for source, rows in zip(sources, state.proposed.rankings, strict=True)}

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """The scores of the model."""
        rows = [items.rows for items in candidates]
        matrix = self._features(queries, rows)
        return [{self.name: scores} for scores in split(self._predict(queries[0], matrix), list(map(len, rows)))]

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """What each source, the popularity and the history add to a score, by TreeSHAP; the parts add up to the score.

        What a behaviour adds is the score less that of the history without it, which is approximate.

        S. Lundberg et al., "From local explanations to global understanding with explainable AI for trees", Nature
        Machine Intelligence 2020.
        """
        rows = [items.rows for items in picks]
        if not any(map(len, rows)):
            return [Explanation({self.name: np.zeros(0)}) for _ in queries]
        matrix = self._features(queries, rows)
        loaded = self._load(queries[0].data.view.snapshot.models[NAME])
        values = split(loaded.trees.shares(matrix), list(map(len, rows)))
        explained = [Explanation(dict(zip(loaded.parts, of.T, strict=True))) for of in values]
        return self._with_contributions(queries, rows, explained)

    def _with_contributions(
        self, queries: Sequence[Query], rows: Sequence[Rows], explained: list[Explanation]
    ) -> list[Explanation]:
        """The explanations with what each of the newest behaviours adds, where that is asked for.

        All histories without one behaviour are one batch.
        """
        chosen = [left_out(query, in_order(query.profile), query.options.options.reasons) for query in queries]
        owner = np.repeat(np.arange(len(queries)), [len(of) for of in chosen]).tolist()
        if not owner:
            return explained
        positions = np.concatenate(chosen).tolist()
        shorter = [without(queries[place], position) for place, position in zip(owner, positions, strict=True)]
        own = [rows[place] for place in owner]
        sources = self._sources(queries[0].data, queries[0].options)
        proposed = sources.propose(shorter, self._asked(shorter), queries[0].options.options.pool)
        scores = split(self._predict(queries[0], sources.features(shorter, proposed, own)), list(map(len, own)))
        wholes = [total(explanation.parts, len(of)) for explanation, of in zip(explained, rows, strict=True)]
        contributions = [np.zeros((len(of), len(query.profile.rows))) for of, query in zip(rows, queries, strict=True)]
        for place, position, less in zip(owner, positions, scores, strict=True):
            contributions[place][:, position] = wholes[place] - less
        return [
            replace(explanation, contributions=of, is_approximate=True) if len(told) else explanation
            for explanation, of, told in zip(explained, contributions, chosen, strict=True)
        ]

    def _asked(self, queries: Sequence[Query]) -> list[Asked]:
        """The queries as the sources are asked, made once."""
        key = self, "asked"
        new = [query for query in queries if key not in query.kept]
        if new:
            for query, asked in zip(new, self._sources(new[0].data, new[0].options).asked(new), strict=True):
                query.kept[key] = asked
        return [query.kept[key] for query in queries]

    def _states(self, queries: Sequence[Query]) -> list[_State]:
        """What the sources proposed for each query, and the scores of it, computed once."""
        states = [kept if (kept := query.kept.get(self)) and kept.fits(query) else None for query in queries]
        places = [place for place, state in enumerate(states) if state is None]
        if places:
            new = [queries[place] for place in places]
            sources, pool = self._sources(new[0].data, new[0].options), new[0].options.options.pool
            proposed = sources.propose(new, self._asked(new), pool)
            rows = [of.pool for of in proposed]
            matrix = sources.features(new, proposed, rows)
            lengths = list(map(len, rows))
            scored = split(self._predict(new[0], matrix), lengths)
            for place, of, own, scores in zip(places, proposed, split(matrix, lengths), scored, strict=True):
                # A query for a quota has the same cache and another filter.
                query = queries[place]
                states[place] = query.kept[self] = _State(query.spec, of, own, scores)
        return [state for state in states if state is not None]

    def _features(self, queries: Sequence[Query], rows: Sequence[Rows]) -> Floats:
        """[rows of all queries, features] the features of some rows; those of the pool are known already."""
        states, scatter = self._states(queries), self._scatter.over(len(queries[0].data.view.available))
        places = [scatter.places(state.proposed.pool, own) for state, own in zip(states, rows, strict=True)]
        if all(of.min(initial=0) >= 0 for of in places):
            return np.concatenate([state.features[of] for state, of in zip(states, places, strict=True)])
        sources = self._sources(queries[0].data, queries[0].options)
        return sources.features(queries, [state.proposed for state in states], rows)

    def _predict(self, query: Query, matrix: Floats) -> Floats:
        """[rows] the scores of all rows of a batch, in one call."""
        if not len(matrix):
            return np.empty(0)
        return self._load(query.data.view.snapshot.models[NAME]).trees.scores(matrix)

    def _sources(self, data: Data, options: PreparedOptions) -> CandidateSources:
        """The sources that the model was trained with."""
        about = self._load(data.view.snapshot.models[NAME]).about
        return CandidateSources([options.sources[name] for name in about.sources], self._scatter)

    def _load(self, model: Model) -> _Loaded:
        """The booster of a model, read once."""
        if self._loaded is None or self._loaded.model is not model:
            # Here, since only this strategy needs it.
            from lightgbm import Booster

            about = msgspec.json.decode(model.arrays[ABOUT].tobytes(), type=Trained)
            booster = Booster(model_str=model.arrays[BOOSTER].tobytes().decode())
            part_of = [name.partition(".")[0] for name in [*about.features, _BASE]]
            parts = list(dict.fromkeys(part_of))
            trees = TreeTables(booster, [parts.index(name) for name in part_of])
            self._loaded = _Loaded(model, about, parts, trees)
        return self._loaded


def model_arrays(booster: str, sources: Sequence[str]) -> Mapping[str, Any]:
    """The arrays of a model, from the text of its booster."""
    about = msgspec.json.encode(Trained(list(sources), feature_names(sources)))
    return {BOOSTER: np.frombuffer(booster.encode(), np.uint8), ABOUT: np.frombuffer(about, np.uint8)}
