"""Systems that are the plain text mean with one option of the rules each, then several, then all as served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any, Final, get_args

import numpy as np

from recserve_benchmarks.evaluation.ranking import Known
from recserve_benchmarks.evaluation.system import Settings, System
from recserve_benchmarks.evaluation.text import by_rules, text_scores
from recserve_server_ext.common.arrays import Scores
from recserve_server_ext.common.units import DAY_S
from recserve_server_ext.config.history import BASE_WEIGHTS, Cleaning, HistoryRules, Method, Rating
from recserve_server_ext.interactions.columns import EventColumns

_POSITIONS: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 7.0, 15.0)
_RATINGS: Final = (Rating(), *(Rating(method=method) for method in get_args(Method)))


def _grid(name: str, *values: Any) -> tuple[Settings, ...]:
    return tuple({name: value} for value in values)


def by_types(known: Known, settings: Settings) -> Scores:
    """Ratings as types with their built-in base weights: 4 and more a like, less than 3 a dislike, the rest a view."""
    typed = Known(known.part, as_types(known.columns), known.vectors)
    weights: Mapping[str, float] = {**BASE_WEIGHTS, "dislike": settings["dislike"]}
    return by_rules(typed, {"base": {name: weights[name] for name in ("like", "view", "dislike")}})


def as_types(columns: EventColumns) -> EventColumns:
    """The same interactions with types in place of ratings; without a rating it is a view."""
    types = np.select([columns.value >= 4, columns.value < 3], [0, 2], 1)
    return replace(columns, type=types, types=["like", "view", "dislike"])


def as_served(known: Known, _: Settings) -> Scores:
    """The built-in rules, unchanged."""
    return text_scores(known, HistoryRules())


def _option(name: str, grid: tuple[Settings, ...]) -> System:
    return System(name=name, kind="text", score=by_rules, grid=grid)


SYSTEMS: Final = (
    _option("text, plain mean", ({},)),
    _option("text, bots left out", _grid("cleaning", Cleaning())),
    _option("text, repeats damped", _grid("damps_repeats", True)),
    _option("text, ratings centred", _grid("rating", *_RATINGS)),
    System(name="text, ratings as types", kind="text", score=by_types, grid=_grid("dislike", -2.0, -0.5, 0.0)),
    _option("text, decay by time", _grid("half_life_s", 10.0, 60.0, 600.0, 3600.0, DAY_S, 30 * DAY_S)),
    _option("text, decay by position", _grid("half_life_events", *_POSITIONS)),
    _option("text, decay by session", _grid("half_life_sessions", 0.25, 0.5, 1.0, 2.0, 4.0)),
    _option(
        "text, ratings and position",
        tuple({"rating": of, "half_life_events": half} for of, half in product(_RATINGS, _POSITIONS[1::2])),
    ),
    System(name="text, rules as served", kind="text", score=as_served),
)
