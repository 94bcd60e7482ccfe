"""Parses slate and strategy options from command line words: ``director=2``, ``year:10:0.1``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from recserve_client.contract.slate_options import Boost, Group, Pin, Popularity, Recency, SlateOptions

T = TypeVar("T")
GROUP, RECENCY, POPULARITY, PIN = "ATTRIBUTE=N", "ATTRIBUTE:HALF_LIFE:WEIGHT", "ATTRIBUTE:WEIGHT", "ID=PLACE"


def slate_options(
    *,
    groups: Sequence[str] = (),
    recency: Sequence[str] = (),
    now: float | None = None,
    popularity: Sequence[str] = (),
    pins: Sequence[str] = (),
    diversify: float = 0.0,
    min_score: float | None = None,
) -> SlateOptions | None:
    """Parse slate options; `None` where nothing is set.

    Args:
        groups: Words of the form `GROUP`.
        recency: Words of the form `RECENCY`; the half-life is in the attribute's unit.
        now: Current time in that unit; `None` for this year.
        popularity: Words of the form `POPULARITY`.
        pins: Words of the form `PIN`.
        diversify: 0 to 1.
        min_score: Minimum score.

    Raises:
        ValueError: A word has another form, or a value out of bounds; the message names it.
    """
    today = float(datetime.now(UTC).year) if now is None else now
    boosts: list[Boost] = [_read(word, "--boost-recency", RECENCY, lambda w: _recency(w, today)) for word in recency]
    boosts += [_read(word, "--boost-popularity", POPULARITY, _popularity) for word in popularity]
    options = SlateOptions(
        diversify=diversify,
        min_score=min_score,
        groups=[_read(word, "--group", GROUP, _group) for word in groups],
        boosts=boosts,
        pins=[_read(word, "--pin", PIN, _pin) for word in pins],
    )
    return None if options == SlateOptions() else options


def strategy_options(words: Sequence[str]) -> dict[str, Any]:
    """Parse options of a strategy from words ``NAME=VALUE``; a value that is not JSON is a string.

    Raises:
        ValueError: A word has another form.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not name or not separator:
            raise ValueError(f"--option {word}: write --option NAME=VALUE")
        try:
            options[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            options[name] = value
    return options


def _group(word: str) -> Group:
    attribute, _, number = word.rpartition("=")
    return msgspec.convert({"attribute": attribute, "at_most": int(number)}, Group)


def _recency(word: str, now: float) -> Recency:
    attribute, half_life, weight = word.rsplit(":", 2)
    fields = {
        "by": "recency",
        "attribute": attribute,
        "half_life": float(half_life),
        "weight": float(weight),
        "now": now,
    }
    return msgspec.convert(fields, Recency)


def _popularity(word: str) -> Popularity:
    attribute, weight = word.rsplit(":", 1)
    return msgspec.convert({"by": "popularity", "attribute": attribute, "weight": float(weight)}, Popularity)


def _pin(word: str) -> Pin:
    item, _, place = word.rpartition("=")
    return msgspec.convert({"item": item, "place": int(place)}, Pin)


def _read(word: str, option: str, form: str, read: Callable[[str], T]) -> T:
    try:
        return read(word)
    except ValueError as error:
        detail = f" ({error})" if isinstance(error, msgspec.ValidationError) else ""
        raise ValueError(f"{option} {word}: write {option} {form}{detail}") from None
