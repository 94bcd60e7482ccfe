"""The strategy `auto`: what the evaluation of the home's own log found best, by the activity of the user."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.batching.batcher import ModelCall
from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.strategies.base import Candidates, ConfiguredStrategy, Data, Options, Parts, Query, Strategy
from recserve_server_ext.strategies.fusion import Resolve
from recserve_server_ext.strategies.parts.chosen import MOST_FEW, Choice

#: What answers where nothing is chosen, or where the chosen strategy cannot use the profile.
_TEXT: Final = Choice("text")
_POPULAR: Final = Choice("popular")
_NO_HISTORY: Final = RequestError(ErrorKind.EMPTY_HISTORY, "no usable interaction of the user is recorded")


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


class PreparedOptions(NamedTuple):
    """The strategies to ask for each activity, the first one first.

    Attributes:
        cold: For users without a behaviour.
        few: For users with few behaviours.
        many: For users with many behaviours.
    """

    cold: list[ConfiguredStrategy]
    few: list[ConfiguredStrategy]
    many: list[ConfiguredStrategy]

    def of(self, query: Query) -> list[ConfiguredStrategy]:
        """The strategies for the user of a query."""
        count = query.profile.count
        return self.cold if not count else self.few if count <= MOST_FEW else self.many


class Auto(Strategy):
    """Selects the chosen strategy, and `text` where that is not trained or cannot use the profile."""

    Options = AutoOptions
    takes_components = True
    answers_cold = True
    is_selector = True

    def __init__(self, name: str, resolve: Resolve, defaults: msgspec.Struct) -> None:
        """
        Args:
            name: Name in requests and settings.
            resolve: Finds the strategies that the options name.
            defaults: The server's options; their strategies decide which counts, texts and models are needed.
        """
        super().__init__(name)
        self._resolve = resolve
        strategies = {chosen.strategy for chain in self.prepare(defaults) for chosen in chain}
        self.needs_texts = any(strategy.needs_texts for strategy in strategies)
        self.asks_models = any(strategy.asks_models for strategy in strategies)
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
        for strategy, options in query.options.of(query):
            if strategy.lacking(query.data, options) is None:
                return strategy.pending(query.with_options(options)) if strategy.asks_models else None
        return None

    def selected(self, queries: Sequence[Query]) -> list[ConfiguredStrategy | RequestError]:
        """The first strategy of each query that is trained and can use the profile, or the last one's refusal."""
        selected: list[ConfiguredStrategy | RequestError] = [_NO_HISTORY] * len(queries)
        groups: dict[int, list[int]] = defaultdict(list)
        for place, query in enumerate(queries):
            groups[id(query.options.of(query))].append(place)
        for places in groups.values():
            for configured in queries[places[0]].options.of(queries[places[0]]):
                reasons = _reasons(configured, [queries[place] for place in places])
                for place, reason in zip(places, reasons, strict=True):
                    selected[place] = configured if reason is None else reason
                places = [place for place, reason in zip(places, reasons, strict=True) if reason is not None]
                if not places:
                    break
        return selected

    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """Never asked: the selected strategies propose the candidates."""
        raise NotImplementedError

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """Never asked: the selected strategies score the candidates."""
        raise NotImplementedError

    def trainings(self, options: PreparedOptions) -> frozenset[str]:
        """Those of the chosen strategies."""
        return frozenset().union(*(of.strategy.trainings(of.options) for chain in options for of in chain))

    def lacking(self, data: Data, options: Any) -> RequestError | None:
        """Nothing: what is not trained is passed over."""
        return None

    def _found(self, choice: Choice) -> ConfiguredStrategy:
        return ConfiguredStrategy(*self._resolve(choice.strategy, choice.options))


def _reasons(configured: ConfiguredStrategy, queries: Sequence[Query]) -> list[RequestError | None]:
    """[queries] why a strategy cannot answer them."""
    strategy, options = configured
    lacking = strategy.lacking(queries[0].data, options)
    if lacking is not None or not strategy.is_personal:
        return [lacking] * len(queries)
    usable = [query.with_options(options) for query in queries if query.profile.is_usable]
    reasons = strategy.cold(usable) if usable else []
    if len(usable) == len(queries):
        return reasons
    rest, without = iter(reasons), None if strategy.answers_cold else _NO_HISTORY
    return [next(rest) if query.profile.is_usable else without for query in queries]
