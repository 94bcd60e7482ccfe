"""Parses and formats filters as text: ``year >= 1990 and "Drama" in genre``.

The grammar, loosest operator first. Keywords are reserved; a name that is a keyword, or has other characters, stands in
backticks::

    filter   = all {"or" all}
    all      = one {"and" one}
    one      = "not" one | "(" filter ")" | "exists" "(" name ")"
             | "within" "(" name "," lat "," lon "," number ("m" | "km") ")"
             | name ("=" | "!=" | "<" | "<=" | ">" | ">=") value | name "prefix" string
             | name "in" "[" value {"," value} "]" | value "in" name
             | value ("<" | "<=" | ">" | ">=") name [("<" | "<=" | ">" | ">=") value]
    value    = string | number | "true" | "false"
"""

from __future__ import annotations

import json
import math
import re
from typing import Final, NamedTuple

from recserve_client.contract.errors import ErrorKind
from recserve_client.contract.filters import (
    BOUNDS,
    And,
    Contains,
    Eq,
    Exists,
    Filter,
    In,
    Leaf,
    Ne,
    Not,
    Or,
    Prefix,
    Range,
    Value,
    Within,
    check_filter,
)
from recserve_client.contract.packing import RequestError

_KEYWORDS: Final = frozenset({"and", "or", "not", "in", "prefix", "exists", "within", "true", "false"})
_TOKEN: Final = re.compile(
    r"""(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<quoted>`(?:[^`]|``)+`)
      | (?P<name>[^\W\d]\w*(?:[.-]\w+)*)
      | (?P<sign>!=|<=|>=|[=<>(),\[\]])""",
    re.VERBOSE | re.DOTALL,
)
_SPACE: Final = re.compile(r"\s*")
_NAME: Final = re.compile(r"[^\W\d]\w*(?:[.-]\w+)*")
_BOUND: Final = {">": "gt", ">=": "ge", "<": "lt", "<=": "le"}
_SIGN: Final = {bound: sign for sign, bound in _BOUND.items()}
_FLIPPED: Final = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}
_A_VALUE: Final = 'a number, a "text", true or false'
#: Characters of the text that are shown on each side of an error.
_AROUND: Final = 40
_NO_TOKEN: Final = {
    '"': "this text has no end",
    "`": "this name has no end",
    "'": "texts stand in double quotes, names in none or in backticks",
}
_UNITS: Final = {"m": 1.0, "km": 1000.0}


class WhereError(RequestError):
    """A text that is not a filter; the message has two lines, the text and a caret below the error.

    Attributes:
        position: Position of the error in the text, from 0.
    """

    def __init__(self, text: str, position: int, what: str) -> None:
        start = max(0, position - _AROUND)
        line = re.sub(r"\s", " ", text[start : position + _AROUND])
        super().__init__(ErrorKind.INVALID_REQUEST, f"{line}\n{' ' * (position - start)}^ {what}")
        self.position = position

    def __str__(self) -> str:
        # Without the kind, which would move the caret.
        return self.text


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def parse_where(text: str) -> Filter:
    """Parse the text of a filter.

    Raises:
        WhereError: The text does not follow the grammar.
        RequestError: The filter is refused by `check_filter`.
    """
    condition = _Parser(text).filter()
    check_filter(condition)
    return condition


def format_where(condition: Filter) -> str:
    """Format a filter as text. `parse_where` reads it back as an equal filter, but for groups of a single condition.

    Raises:
        RequestError: The filter is refused by `check_filter`.
    """
    check_filter(condition)
    return _text(condition)


class _Parser:
    """A recursive descent parser of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    def filter(self) -> Filter:
        condition = self._any()
        if self._token.kind != "end":
            raise self._error("and, or, or the end of the filter is expected here")
        return condition

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _error(self, what: str, token: _Token | None = None) -> WhereError:
        return WhereError(self._text, (token or self._token).position, what)

    def _take(self) -> _Token:
        token = self._token
        self._next += token.kind != "end"
        return token

    def _accept(self, *texts: str) -> str | None:
        """Consume the next token if it is one of these signs or keywords."""
        token = self._token
        if token.kind in ("sign", "keyword") and token.text in texts:
            self._take()
            return token.text
        return None

    def _expect(self, sign: str) -> None:
        if self._accept(sign) is None:
            raise self._error(f"{sign} is expected here")

    def _any(self) -> Filter:
        parts = [self._all()]
        while self._accept("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(parts)

    def _all(self) -> Filter:
        parts = [self._one()]
        while self._accept("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(parts)

    def _one(self) -> Filter:
        start = self._token
        # Only brackets and `not` nest, in the text and on this parser's stack.
        if not (opened := self._accept("not", "(")):
            return self._leaf()
        self._depth += 1
        if self._depth > BOUNDS.depth:
            raise self._error(f"nested too deeply; limits.filter.depth allows {BOUNDS.depth}", start)
        if opened == "not":
            condition: Filter = Not(self._one())
        else:
            condition = self._any()
            self._expect(")")
        self._depth -= 1
        return condition

    def _leaf(self) -> Leaf:
        if self._accept("exists"):
            self._expect("(")
            name = self._name()
            self._expect(")")
            return Exists(name)
        if self._accept("within"):
            return self._within()
        if self._token.kind in ("name", "quoted"):
            return self._comparison(self._name())
        value = self._value(f"a condition is expected here: a name, {_A_VALUE}, not, exists, within or (")
        if self._accept("in"):
            return Contains(self._name(), value)
        return self._range_from(value)

    def _comparison(self, name: str) -> Leaf:
        """The rest of a condition that begins with a name."""
        if self._accept("="):
            return Eq(name, self._value())
        if self._accept("!="):
            return Ne(name, self._value())
        if sign := self._accept(*_BOUND):
            return Range(name, **{_BOUND[sign]: self._bound()})
        if self._accept("prefix"):
            if self._token.kind != "string":
                raise self._error('a "text" is expected here')
            return Prefix(name, str(self._value()))
        if self._accept("in"):
            return In(name, self._values())
        raise self._error("= != < <= > >= in or prefix is expected here")

    def _range_from(self, value: Value) -> Range:
        """The rest of a range that begins with a value: ``1990 <= year < 2000``."""
        if isinstance(value, bool):
            raise self._error("in and a name are expected here")
        if not (sign := self._accept(*_BOUND)):
            raise self._error("in, or < <= > >= and a name, is expected here")
        first = _FLIPPED[_BOUND[sign]]
        name = self._name()
        token = self._token
        if not (sign := self._accept(*_BOUND)):
            return Range(name, **{first: value})
        second = _BOUND[sign]
        if first[0] == second[0]:
            raise self._error("one lower and one upper bound are expected", token)
        return Range(name, **{first: value, second: self._bound()})

    def _values(self) -> list[Value]:
        self._expect("[")
        values = [self._value()]
        while self._accept(","):
            values.append(self._value())
        if self._accept("]") is None:
            raise self._error(", or ] is expected here")
        return values

    def _within(self) -> Within:
        self._expect("(")
        name = self._name()
        self._expect(",")
        lat = self._number("degrees north, -90 to 90,", -90, 90)
        self._expect(",")
        lon = self._number("degrees east, -180 to 180,", -180, 180)
        self._expect(",")
        distance = self._number("a distance such as 10km", 0, math.inf)
        unit = self._token
        if unit.kind != "name" or unit.text not in _UNITS:
            raise self._error("m or km is expected here")
        self._take()
        self._expect(")")
        return Within(name, lat, lon, distance * _UNITS[unit.text])

    def _name(self) -> str:
        token = self._token
        if token.kind == "keyword":
            raise self._error(f"the name of an attribute is expected here (a keyword as a name: `{token.text}`)")
        if token.kind not in ("name", "quoted"):
            raise self._error("the name of an attribute is expected here")
        self._take()
        return token.text[1:-1].replace("``", "`") if token.kind == "quoted" else token.text

    def _number(self, what: str, low: float, high: float) -> float:
        token = self._token
        value = self._value(f"{what} is expected here") if token.kind == "number" else None
        if not isinstance(value, int | float) or not low <= value <= high:
            raise self._error(f"{what} is expected here", token)
        return float(value)

    def _bound(self) -> str | int | float:
        token = self._token
        value = self._value()
        if isinstance(value, bool):
            raise self._error("true and false have no order: compare them with = or !=", token)
        return value

    def _value(self, otherwise: str = f"a value is expected here: {_A_VALUE}") -> Value:
        token = self._token
        if token.kind == "string":
            value: Value = self._string(token)
        elif token.kind == "number":
            value = self._parsed_number(token)
        elif token.kind == "keyword" and token.text in ("true", "false"):
            value = token.text == "true"
        elif token.kind == "name":
            raise self._error(f'{otherwise} (a text stands in quotes: "{token.text[:20]}")')
        else:
            raise self._error(otherwise)
        self._take()
        return value

    def _string(self, token: _Token) -> str:
        try:
            return str(json.loads(token.text, strict=False))
        except ValueError:
            raise self._error(
                r"this text has an escape that is not one of JSON's: \" \\ \/ \n \t \r \b \f \u0041", token
            ) from None

    def _parsed_number(self, token: _Token) -> int | float:
        try:
            value = float(token.text) if re.search("[.eE]", token.text) else int(token.text)
        except ValueError:
            raise self._error("a number with fewer digits is expected here", token) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise self._error("this number is too large", token)
        return value


def _tokens(text: str) -> list[_Token]:
    """The tokens of a text, with an end token."""
    tokens = []
    position = 0
    while (position := _SPACE.match(text, position).end()) < len(text):  # type: ignore[union-attr] # always matches
        match = _TOKEN.match(text, position)
        if match is None:
            raise WhereError(text, position, _NO_TOKEN.get(text[position], f"{text[position]} has no meaning here"))
        kind = match.lastgroup or ""
        word = match.group()
        is_keyword = kind == "name" and word.lower() in _KEYWORDS
        tokens.append(_Token("keyword", word.lower(), position) if is_keyword else _Token(kind, word, position))
        position = match.end()
    return [*tokens, _Token("end", "", len(text))]


def _text(condition: Filter) -> str:
    if isinstance(condition, Not):
        return f"not {_grouped(condition.of)}"
    if isinstance(condition, And | Or):
        if len(condition.of) == 1:
            return _text(condition.of[0])
        word = " and " if isinstance(condition, And) else " or "
        # `and` binds tighter than `or`, so it needs no brackets inside.
        unbracketed = And if isinstance(condition, Or) else ()
        return word.join(_text(part) if isinstance(part, unbracketed) else _grouped(part) for part in condition.of)
    return _leaf_text(condition)


def _grouped(condition: Filter) -> str:
    while isinstance(condition, And | Or) and len(condition.of) == 1:
        condition = condition.of[0]
    return f"({_text(condition)})" if isinstance(condition, And | Or) else _text(condition)


def _leaf_text(leaf: Leaf) -> str:
    name = _name_text(leaf.attribute)
    if isinstance(leaf, Range):
        return _range_text(leaf, name)
    if isinstance(leaf, In):
        return f"{name} in [{', '.join(map(_value_text, leaf.values))}]"
    if isinstance(leaf, Contains):
        return f"{_value_text(leaf.value)} in {name}"
    if isinstance(leaf, Exists):
        return f"exists({name})"
    if isinstance(leaf, Within):
        return f"within({name}, {leaf.lat!r}, {leaf.lon!r}, {_distance_text(leaf.radius_m)})"
    sign = {Eq: "=", Ne: "!=", Prefix: "prefix"}[type(leaf)]
    return f"{name} {sign} {_value_text(leaf.value)}"


def _range_text(leaf: Range, name: str) -> str:
    set_bounds = [(bound, value) for bound in ("gt", "ge", "lt", "le") if (value := getattr(leaf, bound)) is not None]
    bound, value = set_bounds[-1]
    text = f"{name} {_SIGN[bound]} {_value_text(value)}"
    if len(set_bounds) == 1:
        return text
    bound, value = set_bounds[0]
    return f"{_value_text(value)} {_SIGN[_FLIPPED[bound]]} {text}"


def _name_text(name: str) -> str:
    if _NAME.fullmatch(name) and name.lower() not in _KEYWORDS:
        return name
    return "`" + name.replace("`", "``") + "`"


def _value_text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _distance_text(metres: float) -> str:
    # Whole kilometres, where the conversion back to metres is exact.
    if metres and metres % 1000 == 0 and metres < 1e15:
        return f"{int(metres) // 1000}km"
    return f"{metres!r}m"
