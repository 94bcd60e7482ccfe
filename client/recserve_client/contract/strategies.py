"""What a server tells of its strategies, in the configuration of the model `recommend`."""

from __future__ import annotations

from msgspec import Struct


class ServedStrategy(Struct, frozen=True, gc=False):
    """A strategy that requests may name.

    Attributes:
        name: Name of the strategy.
        options: Names of the options that a request may set.
    """

    name: str
    options: list[str]


class ServedStrategies(Struct, frozen=True, gc=False):
    """The strategies of a server.

    Attributes:
        default: Strategy that answers requests that name none.
        fallback: Strategy that answers where nothing usable is known of the user.
        strategies: All strategies, sorted by name.
    """

    default: str
    fallback: str
    strategies: list[ServedStrategy]
