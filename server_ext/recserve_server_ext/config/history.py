"""Rules by which interactions become a weighted history; a version names them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import reading
from recserve_server_ext.common.units import DAY_S

#: Part of the version; raise it when the same rules give other weights.
_FORMULAS: Final = 1

Method = Literal["z", "minmax", "log", "quantile"]
FeatureName = Literal["dwell", "clicks", "amount"]
Positive = Annotated[float, Meta(gt=0, le=1e12)]
NotNegative = Annotated[float, Meta(ge=0, le=1e12)]
Weight = Annotated[float, Meta(ge=-1000, le=1000)]
Strength = Annotated[float, Meta(ge=-2, le=2)]

BASE_WEIGHTS: Final[dict[str, float]] = {
    "view": 0.5,
    "click": 1.0,
    "search": 1.0,
    "listen": 1.0,
    "rating": 1.0,
    "like": 2.0,
    "cart": 2.0,
    "purchase": 4.0,
    "dislike": -2.0,
}


class Cleaning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is left out, in this order; see `recserve_server_ext.history.cleaning`.

    Attributes:
        bot_interactions: A user with more interactions within `bot_window_s` is a bot, whose history is left out.
        bot_window_s: Length of that window.
        bounce_types: Types whose interactions may be bounces.
        bounce_s: A shorter duration is a bounce; an interaction without a duration is none.
    """

    bot_interactions: Annotated[int, Meta(ge=1)] = 200
    bot_window_s: Positive = 60.0
    bounce_types: tuple[str, ...] = ("view", "listen")
    bounce_s: NotNegative = 2.0


class Rating(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the value of a rating becomes a factor, negative for a rating below the user's mean.

    Attributes:
        types: Types whose value is a rating; an interaction without a value is left out as missing.
        method: `points` takes the distance to the user's mean; the other methods standardise it by fitted statistics.
        middle: Middle of the scale, which stands for the mean of all users until one is fitted.
        prior: Number of ratings at the middle that a user's mean starts with, so that a first rating counts.
    """

    types: tuple[str, ...] = ("rating",)
    method: Method | Literal["points"] = "points"
    middle: Annotated[float, Meta(ge=-1e12, le=1e12)] = 3.0
    prior: Annotated[float, Meta(ge=0, le=1e6)] = 5.0


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a feature becomes a factor: exp(strength * s), with s the standardised value.

    Attributes:
        method: Method of standardisation; see `recserve_server_ext.history.features.standardised`.
        strength: 0 for a feature that does not count.
    """

    method: Method
    strength: Strength = 0.5


class Statistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Statistics of one feature over the interactions of a time range.

    Attributes:
        count: Number of values; without values the feature is neutral.
        mean: Mean.
        std: Standard deviation of the population.
        least: Minimum.
        most: Maximum.
        knots: The 101 quantiles of 0 %, 1 % ... 100 %.
    """

    count: int
    mean: float
    std: float
    least: float
    most: float
    knots: tuple[float, ...]


class Fitted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Statistics, and the time range they were fitted on; nothing outside of it went in.

    Attributes:
        name: Name of the range, such as `train`.
        start_us: First microsecond since 1970 in the range.
        end_us: First microsecond since 1970 after the range.
        interactions: Number of interactions in the range, after cleaning.
        dwell: Statistics of dwell times; see `recserve_server_ext.history.features.features`.
        clicks: Statistics of clicks.
        amount: Statistics of amounts.
        rating: Statistics of ratings.
    """

    name: str
    start_us: int
    end_us: int
    interactions: int
    dwell: Statistics
    clicks: Statistics
    amount: Statistics
    rating: Statistics


class HistoryRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How interactions become weights: the product of the factors of `recserve_server_ext.history.weights`.

    Attributes:
        base: Base weight by type; a type without a weight is left out. Negative weights push away.
        cleaning: What is left out.
        rating: How ratings count.
        features: How dwell time, clicks and amounts count; a feature that is not named does not count.
        half_life_s: Time after which a weight has halved; `None` where time does not count.
        half_life_interactions: Number of newer interactions after which it has; `None` where they do not count.
        half_life_sessions: Number of later sessions after which it has; `None` where sessions do not count.
        session_gap_s: A longer pause begins a session.
        damps_repeats: Whether repeats of one item or text count less each.
        fitted: Fitted statistics, which methods of standardisation need.
    """

    base: dict[str, Weight] = msgspec.field(default_factory=lambda: dict(BASE_WEIGHTS))
    cleaning: Cleaning = Cleaning()
    rating: Rating = Rating()
    features: dict[FeatureName, Feature] = {}
    half_life_s: Positive | None = 30 * DAY_S
    half_life_interactions: Positive | None = 7.0
    half_life_sessions: Positive | None = None
    session_gap_s: Positive = 1800.0
    damps_repeats: bool = True
    fitted: Fitted | None = None

    @property
    def version(self) -> str:
        """16 hexadecimal digits of a SHA-256 over these rules and their statistics."""
        content = b"%d\n" % _FORMULAS + msgspec.json.encode(self, order="sorted")
        return hashlib.sha256(content).hexdigest()[:16]

    @property
    def needs_fit(self) -> bool:
        """Whether a method of standardisation is used."""
        return bool(self.features) or self.rating.method != "points"


def read_rules(path: Path) -> HistoryRules:
    """Rules from TOML, or from the JSON that `recserve interactions fit` writes; raises ConfigError for wrong ones."""
    decode = msgspec.json.decode if path.suffix == ".json" else msgspec.toml.decode
    with reading(path, ConfigError, "correct these rules"):
        return decode(path.read_bytes(), type=HistoryRules)
