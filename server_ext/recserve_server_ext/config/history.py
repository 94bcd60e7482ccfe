"""The rules by which interactions become a weighted history: typed, frozen, and named by a version."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.units import DAY_S

#: Goes into the version; raise it when the same rules begin to give other weights.
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
        bot_events: A user with more interactions than this within `bot_window_s` is a bot: all of it is left out.
        bot_window_s: Length of that window.
        bounce_types: Types whose interactions may be bounces.
        bounce_s: A shorter duration is a bounce; without a duration nothing is.
    """

    bot_events: Annotated[int, Meta(ge=1)] = 200
    bot_window_s: Positive = 60.0
    bounce_types: tuple[str, ...] = ("view", "listen")
    bounce_s: NotNegative = 2.0


class Rating(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the value of a rating becomes a factor, which is negative for what the user rates below the own mean.

    Attributes:
        types: Types whose value is a rating; without a value they are left out as missing.
        method: `points` = the distance to the user's mean as it is; else standardised, which needs fitted statistics.
        middle: What users are drawn to as long as no mean is fitted: the middle of the scale.
        prior: How many ratings at the middle a user's mean starts with, so that a first rating counts.
    """

    types: tuple[str, ...] = ("rating",)
    method: Method | Literal["points"] = "points"
    middle: Annotated[float, Meta(ge=-1e12, le=1e12)] = 3.0
    prior: Annotated[float, Meta(ge=0, le=1e6)] = 5.0


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a feature becomes a factor: exp(strength * s), with s the standardised value.

    Attributes:
        method: Of standardisation; see `recserve_server_ext.history.features.standardised`.
        strength: 0 = the feature does not count.
    """

    method: Method
    strength: Strength = 0.5


class Statistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one feature over the interactions of a time range.

    Attributes:
        count: Values; without any, the feature is neutral.
        mean: Their mean.
        std: Their standard deviation (of the population).
        least: The least.
        most: The greatest.
        knots: 101 quantiles: of 0, 1 % ... 100 %.
    """

    count: int
    mean: float
    std: float
    least: float
    most: float
    knots: tuple[float, ...]


class Fitted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Statistics, and the time range they were fitted on: nothing outside of it went in.

    Attributes:
        name: Of the range, as in `train`.
        start_us: First microsecond since 1970.
        end_us: First microsecond that is not in it.
        events: Interactions in the range, after cleaning.
        dwell: Statistics of this feature; see `recserve_server_ext.history.features.features`. So the next three.
        clicks: Of this one.
        amount: Of this one.
        rating: Of this one.
    """

    name: str
    start_us: int
    end_us: int
    events: int
    dwell: Statistics
    clicks: Statistics
    amount: Statistics
    rating: Statistics


class HistoryRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How interactions become weights: the product of the factors of `recserve_server_ext.history.weights`.

    Attributes:
        base: Base weight by type; a type without one is left out. Negative ones push away.
        cleaning: What is left out.
        rating: How ratings count.
        features: How dwell time, clicks and amounts count; those that are not named do not.
        half_life_s: Time after which a weight has halved, in seconds; with `None` time does not count.
        half_life_events: Newer interactions after which a weight has halved; with `None` position does not count.
        half_life_sessions: Later sessions after which a weight has halved; with `None` sessions do not count.
        session_gap_s: A longer pause begins a session.
        damps_repeats: Whether repeats of one item or text count less each.
        fitted: What `fit` found; methods of standardisation need it.
    """

    base: dict[str, Weight] = msgspec.field(default_factory=lambda: dict(BASE_WEIGHTS))
    cleaning: Cleaning = Cleaning()
    rating: Rating = Rating()
    features: dict[FeatureName, Feature] = {}
    half_life_s: Positive | None = 30 * DAY_S
    half_life_events: Positive | None = 7.0
    half_life_sessions: Positive | None = None
    session_gap_s: Positive = 1800.0
    damps_repeats: bool = True
    fitted: Fitted | None = None

    @property
    def version(self) -> str:
        """Names these rules with their statistics: 16 hexadecimal digits of a SHA-256 over all of it."""
        content = b"%d\n" % _FORMULAS + msgspec.json.encode(self, order="sorted")
        return hashlib.sha256(content).hexdigest()[:16]

    @property
    def needs_fit(self) -> bool:
        """Whether a method of standardisation is used."""
        return bool(self.features) or self.rating.method != "points"


def read_rules(path: Path) -> HistoryRules:
    """Rules from a TOML file, or from the JSON file that `recserve interactions fit` writes.

    Raises:
        ConfigError: It cannot be read, or does not fit the schema.
    """
    decode = msgspec.json.decode if path.suffix == ".json" else msgspec.toml.decode
    try:
        return decode(path.read_bytes(), type=HistoryRules)
    except OSError as error:
        raise ConfigError(f"cannot read the rules {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"the rules {path}: {error}") from error
