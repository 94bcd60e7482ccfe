"""Answers of `recommend`, and a log of them that writes when it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from recserve_client.contract import AssignedVariant, RecommendTimings, Slate, SlateItem
from recserve_server_ext.config.experiments import Experiment
from recserve_server_ext.config.server import ImpressionLogSettings
from recserve_server_ext.interactions.impressions.log import ImpressionLog
from recserve_server_ext.interactions.store import InteractionStore
from support.events import NOW

_TIMINGS = RecommendTimings(1, 2, 3, 4, 5)


def plain(name: str, items: Sequence[str] = ("i1", "i2"), **more: Any) -> Slate:
    """The answer to a request without a user."""
    found = [SlateItem(item, 0.5, [0.25, 0.25]) for item in items]
    return Slate(name, found, [], 7, "encoder-1", _TIMINGS, **{"strategy": "text", **more})


def by_user(
    name: str, items: Sequence[str] = ("i1", "i2"), *variants: AssignedVariant, strategy: str = "text"
) -> Slate:
    """The answer to a request by user id."""
    return plain(name, items, strategy=strategy, history_rules="rules-1", experiments=list(variants) or UNSET)


def log_of(
    store: InteractionStore, *, now: float = NOW, served: Sequence[Experiment] = (), **settings: Any
) -> ImpressionLog:
    """A log whose thread does nothing before its end."""
    log = ImpressionLog(lambda: store, ImpressionLogSettings(**{"every_s": 1e6, **settings}), clock=lambda: now, seed=1)
    log.serve(served)
    return log
