"""The strategy `auto`: what the evaluation of the home's own log found best, by the activity of the user."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import numpy as np

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.batching.batcher import ModelCall
from recserve_server_ext.common.arrays import Floats, Rows
from recserve_server_ext.strategies.base import Candidates, Data, Explanation, Options, Parts, Query, Strategy
from recserve_server_ext.strategies.fusion import Resolve
from recserve_server_ext.strategies.parts.chosen import MOST_FEW, Choice

#: What answers where nothing is chosen, or where the chosen strategy cannot use the profile.
_TEXT: Final = Choice("text")
_POPULAR: Final = Choice("popular")
_NO_HISTORY: Final = RequestError(ErrorKind.EMPTY_HISTORY, "no usable interaction of the user is recorded")
T = TypeVar("T")


class AutoOptions(Options, frozen=True):
    """Options of `auto`; `recserve evaluate` writes them to the home, and the settings can overrule them.

    Attributes:
        cold: Strategy for users without a behaviour.
        few: Strategy for users with at most five behaviours.
        many: Strategy for users with more behaviours.
    """

    cold: Choice = _POPULAR
    few: Choice = _TEXT
    many: Choice = _TEXT


class _Chosen(NamedTuple):
    """A strategy with prepared options."""

    strategy: Strategy
    options: Any


class PreparedOptions(NamedTuple):
    """The strategies to ask for each activity, the first one first.

    Attributes:
        cold: For users without a behaviour.
        few: For users with few behaviours.
        many: For users with many behaviours.
    """

    cold: list[_Chosen]
    few: list[_Chosen]
    many: list[_Chosen]

    def of(self, query: Query) -> list[_Chosen]:
        """The strategies for the user of a query."""
        count = query.profile.count
        return self.cold if not count else self.few if count <= MOST_FEW else self.many


class Auto(Strategy):
    """Asks the chosen strategy, and `text` where that is not trained or cannot use the profile."""

    Options = AutoOptions
    answers_cold = True
    is_filled_up = True

    def __init__(self, name: str, resolve: Resolve, defaults: msgspec.Struct) -> None:
        """
        Args:
            name: Name in requests and settings.
            resolve: Finds the strategies that the options name.
            defaults: The server's options; the strategies that they name decide which counts and texts are needed.
        """
        super().__init__(name)
        self._resolve = resolve
        strategies = {chosen.strategy for chain in self.prepare(defaults) for chosen in chain}
        self.needs_texts = any(strategy.needs_texts for strategy in strategies)
        self.is_ranked = all(strategy.is_ranked for strategy in strategies)
        self.counts = frozenset().union(*(strategy.counts for strategy in strategies))

    def prepare(self, options: Any) -> PreparedOptions:
        """Find the strategies that the options name.

        Raises:
            RequestError: A strategy is unknown, or one of its options is invalid.
        """
        assert isinstance(options, AutoOptions)
        text, popular = self._found(_TEXT), self._found(_POPULAR)
        cold, few, many = (self._found(choice) for choice in (options.cold, options.few, options.many))
        return PreparedOptions([cold, popular], [few, text], [many, text])

    def pending(self, query: Query) -> ModelCall | None:
        """What the first strategy waits for that is trained."""
        for chosen in query.options.of(query):
            if chosen.strategy.lacking(query.data, chosen.options) is None:
                call: ModelCall | None = chosen.strategy.pending(query.with_options(chosen.options))
                return call
        return None

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """Refuses profiles that neither the chosen strategy nor `text` can use, as `text` does."""
        self._choose(queries)
        kept = (query.kept[self] for query in queries)
        return [found if isinstance(found, RequestError) else None for found in kept]

    def answering(self, query: Query) -> str:
        """The chosen strategy."""
        return self._chosen([query])[0].strategy.name

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """The candidates of the strategy of each query."""
        return self._asked(queries, lambda chosen, own, places: chosen.candidates(own, [n[at] for at in places]))

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """The scores of the strategy of each query."""
        return self._asked(queries, lambda chosen, own, places: chosen.score(own, [candidates[at] for at in places]))

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """The explanations of the strategy of each query."""
        return self._asked(queries, lambda chosen, own, places: chosen.explain(own, [picks[at] for at in places]))

    def std(self, queries: Sequence[Query]) -> Floats:
        """The standard deviations of the strategy of each query."""
        return np.array(self._asked(queries, lambda chosen, own, _: chosen.std(own).tolist()))

    def trainings(self, options: PreparedOptions) -> frozenset[str]:
        """Those of the chosen strategies."""
        return frozenset().union(*(of.strategy.trainings(of.options) for chain in options for of in chain))

    def lacking(self, data: Data, options: Any) -> RequestError | None:
        """Nothing: what is not trained is passed over."""
        return None

    def _found(self, choice: Choice) -> _Chosen:
        return _Chosen(*self._resolve(choice.strategy, choice.options))

    def _asked(
        self, queries: Sequence[Query], ask: Callable[[Strategy, list[Query], list[int]], Sequence[T]]
    ) -> list[T]:
        """[queries] what the strategy of each says; `ask` asks one about the queries at some places."""
        groups: dict[int, list[int]] = defaultdict(list)
        chosen = self._chosen(queries)
        for place, one in enumerate(chosen):
            groups[id(one)].append(place)
        answers: dict[int, T] = {}
        for places in groups.values():
            strategy, options = chosen[places[0]]
            # Not kept in the query: they share its cache, and requests must make no cycles.
            own = [queries[place].with_options(options) for place in places]
            answers.update(zip(places, ask(strategy, own, places), strict=True))
        return [answers[place] for place in range(len(queries))]

    def _chosen(self, queries: Sequence[Query]) -> list[_Chosen]:
        """[queries] the first strategy of each that is trained and can use the profile; none is cold."""
        self._choose(queries)
        return [query.kept[self] for query in queries]

    def _choose(self, queries: Sequence[Query]) -> None:
        """Keep the strategy of each query, or why none can use the profile."""
        groups: dict[int, list[Query]] = defaultdict(list)
        for query in queries:
            if self not in query.kept:
                groups[id(query.options.of(query))].append(query)
        for group in groups.values():
            for chosen in group[0].options.of(group[0]):
                left = []
                own = [query.with_options(chosen.options) for query in group]
                for query, reason in zip(group, _reasons(chosen, own), strict=True):
                    query.kept[self] = chosen if reason is None else reason
                    if reason is not None:
                        left.append(query)
                group = left
                if not group:
                    break


def _reasons(chosen: _Chosen, queries: Sequence[Query]) -> list[RequestError | None]:
    """[queries] why a strategy cannot answer them; they have its options."""
    strategy, options = chosen
    lacking = strategy.lacking(queries[0].data, options)
    if lacking is not None or not strategy.is_personal:
        return [lacking] * len(queries)
    usable = [query for query in queries if query.profile.is_usable]
    reasons = iter(strategy.cold(usable) if usable else [])
    without = None if strategy.answers_cold else _NO_HISTORY
    return [next(reasons) if query.profile.is_usable else without for query in queries]
