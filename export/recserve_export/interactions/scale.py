"""The scale of ratings, found in the first rows: stars, ten points, thumbs, and zeros that mean "not rated"."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
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
THUMBS: Final = {
    **dict.fromkeys(("true", "up", "thumbs_up", "like", "liked", "positive", "\U0001f44d"), 1.0),
    **dict.fromkeys(("false", "down", "thumbs_down", "dislike", "disliked", "negative", "\U0001f44e"), 0.0),
}
#: 4/5, 4.0 out of 5 stars, 4 stars.
_OF_STARS: Final = re.compile(r"([0-9]+(?:[.,][0-9]+)?) ?(?:(?:/|out of) ?[0-9]+)?(?: ?stars?)?", re.IGNORECASE)
_STARS: Final = re.compile("(\u2605*)\u2606*|((?:\u2b50\ufe0f?)*)")
#: Where the scales that people use end.
_ENDS: Final = (5.0, 10.0, 100.0)
_MOST_VALUES: Final = 101


class Scale(msgspec.Struct, frozen=True):
    """What the values of ratings say.

    Attributes:
        kind: `points`, or `thumbs` where there are only two values, the lower of which is a dislike.
        least: Least rating.
        most: Largest rating.
        unrated: The value that means "not rated"; `None` where none does.
        share: Its share.
    """

    kind: Literal["none", "points", "thumbs"] = "none"
    least: float = 0.0
    most: float = 0.0
    unrated: float | None = None
    share: float = 0.0

    def read(self, value: Any, type_: str) -> tuple[Any, str]:
        """Value and type of an interaction, by what its rating says."""
        if type_ != _RATING or self.kind == "none" or value is None:
            return value, type_
        if value == self.unrated:
            return None, UNRATED_TYPE
        if self.kind == "thumbs":
            return None, "like" if value == self.most else "dislike"
        return value, type_

    @property
    def said(self) -> str:
        """What was found, in a line; empty without ratings."""
        if self.kind == "none" or self.least == self.most:
            return ""
        line = f"ratings are from {self.least:g} to {self.most:g}"
        if self.kind == "thumbs":
            line = f"ratings are thumbs: {self.most:g} is recorded as like, {self.least:g} as dislike"
        if self.unrated is not None:
            line += f"; {self.unrated:g} means not rated ({self.share:.1%}) and is recorded as {UNRATED_TYPE}"
            line += ": --zeros rating keeps it"
        middle = self._middle
        if self.kind == "points" and abs(middle - _MIDDLE) > 0.5:
            line += f"; the rules of a history need to know: [rating] middle = {middle:g}, or recserve interactions fit"
        return line

    @property
    def _middle(self) -> float:
        """The middle of the scale that the ratings are on, which they need not reach the ends of."""
        end = next((end for end in _ENDS if self.most <= end), self.most)
        begin = self.least if self.least < 0 or end > _ENDS[-1] else float(self.least >= 1)
        return (begin + end) / 2 if begin >= 0 else (self.least + self.most) / 2


def rating_in(text: str, decimal: str = "", *, has_thumbs: bool = True) -> float | None:
    """The rating that a text stands for: a number, `4/5`, `4.0 out of 5 stars`, stars, or a word for a thumb."""
    text = text.strip()
    found = number_in(text, decimal)
    if found is None and has_thumbs:
        found = THUMBS.get(_word(text))
    if found is None and (of_stars := _OF_STARS.fullmatch(text)) is not None:
        found = number_in(of_stars[1].replace(",", "."))
    if found is None and text and _STARS.fullmatch(text) is not None:
        found = text.count("\u2605") + text.count("\u2b50")
    return None if found is None else float(found)


def _word(text: str) -> str:
    return text.strip().lower().replace(" ", "_")


def find_scale(mapping: InteractionMapping, rows: Iterable[dict[str, Any]], decimal: str = "") -> Scale:
    """The scale of the ratings in some rows; for `decimal` see `recserve_export.tabular.values.number_in`."""
    column = mapping.fields.get("value")
    if column is None or (mapping.type_column is None and mapping.type != _RATING):
        return Scale()
    counts: Counter[float] = Counter()
    has_words = False
    for row in rows:
        if mapping.type_column is not None and str(row.get(mapping.type_column)).lower() != _RATING:
            continue
        value = row.get(column)
        number = rating_in(value, decimal) if isinstance(value, str) else value
        has_words |= isinstance(value, bool) or (isinstance(value, str) and _word(value) in THUMBS)
        if isinstance(number, int | float | Decimal) and number == number:
            counts[float(number)] += 1
    if has_words and set(counts) <= {0.0, 1.0}:
        return Scale("thumbs", 0.0, 1.0)
    return _scale_of(counts, mapping.zeros)


def _scale_of(counts: Counter[float], zeros: Zeros) -> Scale:
    if not counts:
        return Scale()
    values = sorted(counts)
    unrated = _unrated(values, zeros)
    rated = [value for value in values if value != unrated]
    if unrated is not None and not rated:
        return Scale()
    share = 0.0 if unrated is None else counts[unrated] / counts.total()
    is_thumbs = zeros != "unrated" and rated in ([0.0, 1.0], [-1.0, 1.0])
    return Scale("thumbs" if is_thumbs else "points", rated[0], rated[-1], unrated=unrated, share=share)


def _unrated(values: Sequence[float], zeros: Zeros) -> float | None:
    """The value that means "not rated": 0, or -1, below a scale of whole points from 1, or between two thumbs."""
    if zeros == "unrated":
        return 0.0 if 0.0 in values else None
    # Half stars begin at .5, so a scale with a 0 that is a rating has values between 0 and 1.
    above = [value for value in values if value > 0]
    is_whole = bool(above) and len(values) <= _MOST_VALUES and above[0] >= 1 and above[-1] >= 5
    below = values[: len(values) - len(above)]
    if zeros == "auto" and ((is_whole and below in ([0.0], [-1.0])) or values == [-1.0, 0.0, 1.0]):
        return 0.0 if 0.0 in below else -1.0
    return None
