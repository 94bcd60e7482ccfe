"""The strategies by name: built-in ones, those of installed packages, and those that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final, NamedTuple

import msgspec
from cachetools import LRUCache

from recserve_client.contract import ErrorKind, RequestError, nearest, shown
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.strategies.base import Strategy
from recserve_server_ext.strategies.fusion import Fusion
from recserve_server_ext.strategies.item_knn import ItemKnn
from recserve_server_ext.strategies.popular import Popular
from recserve_server_ext.strategies.text import Text

#: Entry points by which a package adds strategies: name = the class.
GROUP: Final = "recserve.strategies"
#: A strategy is one file, and one line here.
BUILT_IN: Final[Mapping[str, type[Strategy]]] = {
    "fusion": Fusion,
    "item_knn": ItemKnn,
    "popular": Popular,
    "text": Text,
}
#: Strategies that are others with options of their own.
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "blend": {
        "kind": "fusion",
        "weights": {"text": 0.1, "item_knn": 0.9, "popular": 1.0},
        "options": {"popular": {"by": "recent"}},
    },
}
#: Options of requests that are kept ready.
_KEPT: Final = 256
_KIND: Final = "kind"
_BOUNDS: Final = "bounds"


class Chosen(NamedTuple):
    """A strategy with options for a query.

    Attributes:
        strategy: The strategy.
        options: What its queries carry; the same object for equal options, so that a batch can be grouped by it.
    """

    strategy: Strategy
    options: Any


class _Entry(NamedTuple):
    strategy: Strategy
    defaults: Chosen
    given: dict[str, Any]
    bounds: Mapping[str, Any]


class Registry:
    """Finds strategies by name, and checks the options that requests carry."""

    def __init__(self, settings: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """
        Args:
            settings: By name; see `ServeSettings.strategies`.

        Raises:
            ConfigError: A strategy is of no known kind, or an option is wrong.
        """
        self._kinds: dict[str, type[Strategy]] = dict(BUILT_IN)
        for point in entry_points(group=GROUP):
            self._kinds.setdefault(point.name, point.load())
        merged: dict[str, dict[str, Any]] = {name: {} for name in self._kinds}
        for source in (PRESETS, settings or {}):
            for name, given in source.items():
                merged[name] = {**merged.get(name, {}), **given}
        self._waiting = merged
        self._making: list[str] = []
        self._entries: dict[str, _Entry] = {}
        #: Equal requests get the same object, so that a batch can be grouped by it.
        self._chosen: LRUCache[tuple[str, bytes], Chosen] = LRUCache(_KEPT)
        for name in merged:
            self._entry(name)

    @property
    def names(self) -> tuple[str, ...]:
        """All there are, in alphabetical order."""
        return tuple(sorted(self._entries))

    def choose(self, name: str, options: Mapping[str, Any]) -> Chosen:
        """A strategy with the options of a request over those of the server.

        Raises:
            RequestError: invalid_request: there is none of this name, or an option is not one of it, wrong, or beyond
                what the server allows.
        """
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(self.names)
            raise _invalid(f"there is no strategy {shown(name)}{nearest(name, self.names)}; the server has: {known}")
        if not options:
            return entry.defaults
        key = name, msgspec.json.encode(options, order="deterministic")
        found = self._chosen.get(key)
        if found is None:
            _check_allowed(entry, options)
            found = Chosen(entry.strategy, _prepared(entry.strategy, {**entry.given, **options}))
            self._chosen[key] = found
        return found

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            if name not in self._waiting:
                raise _invalid(f"there is no strategy {shown(name)}; there are: {', '.join(sorted(self._waiting))}")
            if name in self._making:
                raise _invalid(f"the strategy {name!r} is a part of itself")
            self._making.append(name)
            given = dict(self._waiting[name])
            kind, bounds = given.pop(_KIND, name), given.pop(_BOUNDS, {})
            made = self._kinds.get(kind)
            if made is None:
                raise ConfigError(f"strategies.{name}: no kind {kind!r}; there are: {', '.join(sorted(self._kinds))}")
            try:
                strategy = self._made(made, name, given)
                defaults = Chosen(strategy, _prepared(strategy, given))
            except RequestError as error:
                raise ConfigError(f"strategies.{name}: {error.text}") from None
            if unknown := set(bounds) - strategy.per_request:
                raise ConfigError(f"strategies.{name}.bounds: {sorted(unknown)[0]!r} is no option of a request")
            self._entries[name] = _Entry(strategy, defaults, given, bounds)
            self._making.remove(name)
        return self._entries[name]

    def _made(self, kind: type[Strategy], name: str, given: Mapping[str, Any]) -> Strategy:
        if issubclass(kind, Fusion):
            return kind(name, self._resolve, _converted(kind, name, given))
        return kind(name)

    def _resolve(self, name: str, options: Mapping[str, Any]) -> tuple[Strategy, Any]:
        """A part of a fusion, with its options over those of the server."""
        entry = self._entry(name)
        given = {**entry.given, **options}
        return entry.strategy, entry.defaults.options if not options else _prepared(entry.strategy, given)


def _prepared(strategy: Strategy, given: Mapping[str, Any]) -> Any:
    return strategy.prepare(_converted(type(strategy), strategy.name, given))


def _converted(kind: type[Strategy], name: str, given: Mapping[str, Any]) -> msgspec.Struct:
    try:
        return msgspec.convert(dict(given), kind.Options)
    except msgspec.ValidationError as error:
        raise _invalid(f"options of the strategy {name!r}: {error}") from None


def _check_allowed(entry: _Entry, options: Mapping[str, Any]) -> None:
    """Refuse what a request may not set, or not to that."""
    strategy = entry.strategy
    for name, value in options.items():
        if name not in strategy.per_request:
            allowed = ", ".join(sorted(strategy.per_request)) or "none"
            raise _invalid(
                f"the strategy {strategy.name!r} takes no option {shown(name)}; a request may set: {allowed}"
            )
        bound = entry.bounds.get(name)
        if bound is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and len(bound) == 2 and all(isinstance(end, int | float) for end in bound):
            fits = bound[0] <= value <= bound[1]
        else:
            fits = value in bound
        if not fits:
            what = f"the option {name!r} of the strategy {strategy.name!r} is {shown(value)}"
            raise _invalid(f"{what}: this server allows {bound}")


def _invalid(text: str) -> RequestError:
    return RequestError(ErrorKind.INVALID_REQUEST, text)
