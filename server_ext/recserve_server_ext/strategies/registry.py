"""The strategy registry: built-in strategies, those of installed packages, and those that the settings define."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final, NamedTuple

import msgspec
from cachetools import LRUCache

from recserve_client.contract import ErrorKind, RequestError, ServedStrategies, ServedStrategy, nearest, shown
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.strategies.auto import Auto
from recserve_server_ext.strategies.base import ConfiguredStrategy, Strategy
from recserve_server_ext.strategies.fusion import Fusion
from recserve_server_ext.strategies.item_knn import ItemKnn
from recserve_server_ext.strategies.popular import Popular
from recserve_server_ext.strategies.ranker import Ranker
from recserve_server_ext.strategies.spaces.als import Als
from recserve_server_ext.strategies.spaces.ease import Ease
from recserve_server_ext.strategies.spaces.generate import Generate
from recserve_server_ext.strategies.spaces.item2vec import Item2Vec
from recserve_server_ext.strategies.spaces.sequence import SequenceStrategy
from recserve_server_ext.strategies.spaces.text import Text
from recserve_server_ext.strategies.spaces.text_head import TextHead
from recserve_server_ext.strategies.spaces.vectors import OwnVectors
from recserve_server_ext.strategies.transitions import Transitions
from recserve_server_ext.strategies.user_knn import UserKnn

#: Entry point group by which an installed package adds strategies: name = the class.
GROUP: Final = "recserve.strategies"
#: A strategy is one file, and one line here.
BUILT_IN: Final[Mapping[str, type[Strategy]]] = {
    "als": Als,
    "auto": Auto,
    "ease": Ease,
    "fusion": Fusion,
    "generate": Generate,
    "item2vec": Item2Vec,
    "item_knn": ItemKnn,
    "popular": Popular,
    "ranker": Ranker,
    "sequence": SequenceStrategy,
    "text": Text,
    "text_head": TextHead,
    "transitions": Transitions,
    "user_knn": UserKnn,
    "vectors": OwnVectors,
}
#: Strategies that are others with options of their own.
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "blend": {
        "kind": "fusion",
        "weights": {"text": 0.1, "item_knn": 0.9, "popular": 1.0},
        "options": {"popular": {"by": "recent"}},
    },
    # Twice the ranker won on the validation of leave-one-out: docs/decisions/031-an-evaluation-that-ends.md.
    "ensemble": {
        "kind": "fusion",
        "by": "rank",
        "weights": {"ranker": 2.0, "sequence": 1.0},
        "prior": 0.0,
    },
    # Equal weights won on validation, by both protocols of docs/results/quality.md.
    "hybrid": {
        "kind": "fusion",
        "weights": {"ease": 1.0, "transitions": 1.0, "als": 1.0, "popular": 1.0},
        "prior": 2.0,
        "options": {"popular": {"by": "recent"}},
    },
    "linear": {
        "kind": "fusion",
        "by": "rank",
        "weights": {"ease": 1.0, "transitions": 1.0, "als": 1.0},
        "prior": 0.0,
    },
}
#: Prepared options of requests that are cached.
_CACHED: Final = 256
_KIND: Final = "kind"
_BOUNDS: Final = "bounds"


class _Entry(NamedTuple):
    """A registered strategy.

    Attributes:
        defaults: The strategy with the server's options.
        given: These options, as configured.
        bounds: Values that a request may give to an option, by name.
    """

    defaults: ConfiguredStrategy
    given: dict[str, Any]
    bounds: Mapping[str, Any]


class Registry:
    """Finds strategies by name, and validates the options of requests."""

    def __init__(self, settings: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """
        Args:
            settings: Options by strategy; see `ServeSettings.strategies`.

        Raises:
            ConfigError: A strategy has an unknown kind, or an option is invalid.
        """
        self._kinds: dict[str, type[Strategy]] = dict(BUILT_IN)
        for point in entry_points(group=GROUP):
            self._kinds.setdefault(point.name, point.load())
        merged: dict[str, dict[str, Any]] = {name: {} for name in self._kinds}
        for source in (PRESETS, settings or {}):
            for name, given in source.items():
                merged[name] = {**merged.get(name, {}), **given}
        self._settings = merged
        self._in_progress: list[str] = []
        self._entries: dict[str, _Entry] = {}
        self._cache: LRUCache[tuple[str, bytes], ConfiguredStrategy] = LRUCache(_CACHED)
        for name in merged:
            self._entry(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all strategies, sorted."""
        return tuple(sorted(self._entries))

    def served(self, default: str, fallback: str) -> ServedStrategies:
        """What clients are told of the strategies.

        Args:
            default: Name of the strategy of requests that name none.
            fallback: Name of the strategy of requests without a usable profile.
        """
        options = {name: sorted(self._entries[name].defaults.strategy.per_request) for name in self.names}
        return ServedStrategies(default, fallback, [ServedStrategy(name, of) for name, of in options.items()])

    def choose(self, name: str, options: Mapping[str, Any]) -> ConfiguredStrategy:
        """A strategy with the options of a request on top of the server's.

        Raises:
            RequestError: invalid_request: the strategy is unknown, or an option is unknown, invalid or out of the
                server's bounds.
        """
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(self.names)
            raise _invalid(f"there is no strategy {shown(name)}{nearest(name, self.names)}; the server has: {known}")
        if not options:
            return entry.defaults
        key = name, msgspec.json.encode(options, order="deterministic")
        configured = self._cache.get(key)
        if configured is None:
            _check_allowed(entry, options)
            strategy = entry.defaults.strategy
            configured = ConfiguredStrategy(strategy, _prepared(strategy, {**entry.given, **options}))
            self._cache[key] = configured
        return configured

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            if name not in self._settings:
                raise _invalid(f"there is no strategy {shown(name)}; there are: {', '.join(sorted(self._settings))}")
            if name in self._in_progress:
                raise _invalid(f"the strategy {name!r} is a part of itself")
            self._in_progress.append(name)
            self._entries[name] = self._new_entry(name)
            self._in_progress.remove(name)
        return self._entries[name]

    def _new_entry(self, name: str) -> _Entry:
        given = dict(self._settings[name])
        kind, bounds = given.pop(_KIND, name), given.pop(_BOUNDS, {})
        strategy_class = self._kinds.get(kind)
        if strategy_class is None:
            raise ConfigError(f"strategies.{name}: no kind {kind!r}; there are: {', '.join(sorted(self._kinds))}")
        try:
            make: Callable[..., Strategy] = strategy_class
            components = (self.component, _converted(strategy_class, name, given))
            strategy = make(name, *(components if strategy_class.takes_components else ()))
            defaults = ConfiguredStrategy(strategy, _prepared(strategy, given))
        except RequestError as error:
            raise ConfigError(f"strategies.{name}: {error.text}") from None
        if unknown := set(bounds) - strategy.per_request:
            raise ConfigError(f"strategies.{name}.bounds: {sorted(unknown)[0]!r} is no option of a request")
        return _Entry(defaults, given, bounds)

    def new_item_options(self) -> dict[str, Mapping[str, Any]]:
        """The strategies that rank items without interactions and their options; those of packages come first."""
        options = {name: kind.for_new_items for name, kind in reversed(self._kinds.items())}
        return {name: given for name, given in options.items() if given is not None}

    def component(self, name: str, options: Mapping[str, Any]) -> ConfiguredStrategy:
        """A component of a strategy that is made of others, with its options on top of the server's.

        Bounds for requests do not count.

        Raises:
            RequestError: invalid_request: the strategy is unknown or a selector, or an option is invalid.
        """
        entry = self._entry(name)
        if entry.defaults.strategy.is_selector:
            raise _invalid(f"the strategy {name!r} selects among others and cannot be a part of one")
        if not options:
            return entry.defaults
        strategy = entry.defaults.strategy
        return ConfiguredStrategy(strategy, _prepared(strategy, {**entry.given, **options}))


def _prepared(strategy: Strategy, given: Mapping[str, Any]) -> Any:
    return strategy.prepare(_converted(type(strategy), strategy.name, given))


def _converted(strategy_class: type[Strategy], name: str, given: Mapping[str, Any]) -> msgspec.Struct:
    try:
        return msgspec.convert(dict(given), strategy_class.Options)
    except msgspec.ValidationError as error:
        raise _invalid(f"options of the strategy {name!r}: {error}") from None


def _check_allowed(entry: _Entry, options: Mapping[str, Any]) -> None:
    """Refuse options that a request may not set, and values out of bounds."""
    strategy = entry.defaults.strategy
    for name, value in options.items():
        if name not in strategy.per_request:
            allowed = ", ".join(sorted(strategy.per_request)) or "none"
            raise _invalid(
                f"the strategy {strategy.name!r} takes no option {shown(name)}; a request may set: {allowed}"
            )
        bound = entry.bounds.get(name)
        if bound is not None and not _is_within(value, bound):
            what = f"the option {name!r} of the strategy {strategy.name!r} is {shown(value)}"
            raise _invalid(f"{what}: this server allows {bound}")


def _is_within(value: Any, bound: Any) -> bool:
    """Whether a value lies within a bound: `[low, high]` for numbers, otherwise a list of values."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and len(bound) == 2 and all(isinstance(end, int | float) for end in bound):
        return bool(bound[0] <= value <= bound[1])
    return value in bound


def _invalid(text: str) -> RequestError:
    return RequestError(ErrorKind.INVALID_REQUEST, text)
