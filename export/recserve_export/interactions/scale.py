"""The scale of ratings, found in the first rows: stars, ten points, thumbs, and zeros that mean "not rated"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from recserve_export.interactions.mapping import InteractionMapping, Zeros
from recserve_export.tabular.values import number_in

#: Type of an interaction whose rating says "not rated".
UNRATED_TYPE: Final = "view"
_RATING: Final = "rating"
#: The middle that the built-in rules of a history take.
_MIDDLE: Final = 3.0
#: Ratings that are words.
THUMBS: Final = {"true": 1.0, "false": 0.0}
_MOST_VALUES: Final = 101


class Scale(msgspec.Struct, frozen=True):
    """What the values of ratings say.

    Attributes:
        kind: `points`, or `thumbs` where there are only two values, the lower of which is a dislike.
        least: Least rating.
        most: Largest rating.
        up: The value of a thumb up.
        skips_zeros: Whether 0 means "not rated".
        zeros: Share of zeros.
    """

    kind: Literal["none", "points", "thumbs"] = "none"
    least: float = 0.0
    most: float = 0.0
    up: float = 1.0
    skips_zeros: bool = False
    zeros: float = 0.0

    def read(self, value: Any, type_: str) -> tuple[Any, str]:
        """Value and type of an interaction, by what its rating says."""
        if type_ != _RATING or self.kind == "none" or value is None:
            return value, type_
        if self.kind == "thumbs":
            return None, "like" if value == self.up else "dislike"
        if self.skips_zeros and value == 0:
            return None, UNRATED_TYPE
        return value, type_

    @property
    def said(self) -> str:
        """What was found, in a line; empty without ratings."""
        if self.kind == "none" or self.least == self.most:
            return ""
        if self.kind == "thumbs":
            return f"ratings are thumbs: {self.up:g} is recorded as like, the other value as dislike"
        line = f"ratings are from {self.least:g} to {self.most:g}"
        if self.skips_zeros:
            line += f"; 0 means not rated ({self.zeros:.1%}) and is recorded as {UNRATED_TYPE}: --zeros rating keeps it"
        middle = (self.least + self.most) / 2
        if abs(middle - _MIDDLE) > 0.5:
            line += f"; the rules of a history need to know: [rating] middle = {middle:g}, or recserve interactions fit"
        return line


def find_scale(mapping: InteractionMapping, rows: Iterable[dict[str, Any]], decimal: str = "") -> Scale:
    """The scale of the ratings in some rows; for `decimal` see `recserve_export.tabular.values.number_in`."""
    column = mapping.fields.get("value")
    if column is None or (mapping.type_column is None and mapping.type != _RATING):
        return Scale()
    counts: Counter[float] = Counter()
    for row in rows:
        if mapping.type_column is not None and str(row.get(mapping.type_column)).lower() != _RATING:
            continue
        value = row.get(column)
        number = value
        if isinstance(value, str):
            found = number_in(value.strip(), decimal)
            number = THUMBS.get(value.strip().lower()) if found is None else found
        if isinstance(number, int | float | Decimal) and number == number:
            counts[float(number)] += 1
    return _scale_of(counts, mapping.zeros)


def _scale_of(counts: Counter[float], zeros: Zeros) -> Scale:
    if not counts:
        return Scale()
    values = sorted(counts)
    share = counts[0.0] / counts.total()
    if values in ([0.0, 1.0], [-1.0, 1.0]) and zeros != "unrated":
        return Scale("thumbs", values[0], values[1], up=1.0)
    rated = [value for value in values if value != 0]
    # Half stars begin at .5, so a scale with a 0 that is a rating has values between 0 and 1.
    is_whole = bool(rated) and len(values) <= _MOST_VALUES and rated[0] >= 1
    skips = zeros == "unrated" or (zeros == "auto" and 0.0 in counts and is_whole and rated[-1] >= 5)
    if skips and rated:
        return Scale("points", rated[0], rated[-1], skips_zeros=True, zeros=share)
    return Scale("points", values[0], values[-1], zeros=share)
