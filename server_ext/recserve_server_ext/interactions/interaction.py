"""One interaction: what a user did, and the checks it must pass before it is stored."""

from __future__ import annotations

import hashlib
import math
import re
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from recserve_client.contract import shown
from recserve_server_ext.common.units import INT64, MICROSECONDS
from recserve_server_ext.interactions.pseudonyms import is_pseudonym

Scalar = str | int | float | bool

#: Fields that hold a number.
MEASURES: Final = ("value", "duration_s", "price", "quantity")
MAX_ITEM_LENGTH: Final = 512
MAX_TEXT_BYTES: Final = 32 * 1024
#: Most characters of an event id, a recommendation id and a session id.
MAX_ID_LENGTH: Final = 128
MAX_CONTEXT: Final = 16
MAX_CONTEXT_LENGTH: Final = 256
#: Largest value, duration, price and quantity; a larger number is an error and would spoil every statistic.
MAX_NUMBER: Final = 1e12
_TYPE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


class Interaction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user did.

    Attributes:
        user: Pseudonym of the user; see `recserve_server_ext.interactions.pseudonyms`.
        type: What was done: a lower-case word of at most 32 characters, such as view, click, cart, purchase, rating,
            like, dislike or listen.
        timestamp: Seconds since 1970; stored in whole microseconds.
        item: Item id; the catalogue need not have it.
        text: A free text, such as a search; beside an item, what the user wrote about it, such as a review.
        value: Value of a rating, or whatever else the type measures.
        event_id: Unique among the interactions of the user; for the default see `content_id`.
        recommendation_id: The slate it came from.
        duration_s: How long it lasted.
        price: Price of one piece.
        quantity: Number of pieces.
        session_id: The application's name of the session.
        context: Anything else, at most 16 values by name.
    """

    user: str
    type: str
    timestamp: float
    item: str | None = None
    text: str | None = None
    value: float | None = None
    event_id: str | None = None
    recommendation_id: str | None = None
    duration_s: float | None = None
    price: float | None = None
    quantity: float | None = None
    session_id: str | None = None
    context: dict[str, Scalar] = {}


class Refused(StrEnum):
    """Why an interaction is refused."""

    USER = "invalid_user"
    TYPE = "invalid_type"
    SUBJECT = "invalid_subject"
    TIMESTAMP = "invalid_timestamp"
    FUTURE = "in_future"
    NUMBER = "invalid_number"
    ID = "invalid_id"
    CONTEXT = "invalid_context"
    ERASED = "erased"


class RefusedError(Exception):
    """An interaction that cannot be stored.

    Attributes:
        reason: Why.
        detail: Names the field and the value; never the user.
    """

    def __init__(self, reason: Refused, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class Recorded(msgspec.Struct, frozen=True):
    """The outcome of recording one interaction.

    Attributes:
        status: `duplicate`: the user has an interaction with this event id already, which stays as it is.
        event_id: Given or made; empty for an interaction that was refused before.
        reason: Why it was refused.
        detail: Names the field and the value; never the user.
    """

    status: Literal["recorded", "duplicate", "refused"]
    event_id: str = ""
    reason: Refused | None = None
    detail: str = ""


def checked(interaction: Interaction, latest_s: float) -> dict[str, Any]:
    """The columns of an interaction except the number of its user; the timestamp is `time_us`.

    Args:
        interaction: The interaction; its fields may have any type.
        latest_s: Newest accepted timestamp.

    Raises:
        RefusedError: With the reason.
    """
    if not is_pseudonym(interaction.user):
        raise RefusedError(Refused.USER, "user is no pseudonym (64 or 96 hexadecimal digits)")
    if not is_type(interaction.type):
        raise _refused(Refused.TYPE, "type", interaction.type, "expected a lower-case word of at most 32 characters")
    columns = {
        "time_us": _microseconds(interaction.timestamp, latest_s),
        "type": interaction.type,
        **_subject(interaction),
        **{name: _number(name, getattr(interaction, name)) for name in MEASURES},
        **{name: _id(name, getattr(interaction, name)) for name in ("recommendation_id", "session_id")},
        "context": _context(interaction.context),
    }
    event_id = _id("event_id", interaction.event_id)
    return {"event_id": event_id or content_id(columns), **columns}


def is_type(name: object) -> bool:
    """Whether a value can be the type of an interaction."""
    return isinstance(name, str) and _TYPE.fullmatch(name) is not None


def content_id(columns: dict[str, Any]) -> str:
    """The event id of an interaction without one; the same interaction sent again gets the same id.

    It is the hexadecimal SHA-256 of a compact JSON object in UTF-8 with sorted keys, of every given field: type,
    time_us (integer), item, text, recommendation_id, session_id (strings), value, duration_s, price, quantity (always
    written as floats), context.
    """
    return content_hash(Content(**columns))


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the event id of an interaction is a hash of; the fields are sorted by name."""

    context: dict[str, Scalar] | None = None
    duration_s: float | None = None
    item: str | None = None
    price: float | None = None
    quantity: float | None = None
    recommendation_id: str | None = None
    session_id: str | None = None
    text: str | None = None
    time_us: int | None = None
    type: str | None = None
    value: float | None = None


_encode: Final = msgspec.json.Encoder(order="deterministic").encode


def content_hash(content: Content) -> str:
    """Hexadecimal SHA-256 of the content."""
    return hashlib.sha256(_encode(content)).hexdigest()


def _refused(reason: Refused, name: str, value: object, rule: str) -> RefusedError:
    return RefusedError(reason, f"{name} is {shown(value)}: {rule}")


def _microseconds(timestamp: object, latest_s: float) -> int:
    if not isinstance(timestamp, int | float) or isinstance(timestamp, bool):
        raise _refused(Refused.TIMESTAMP, "timestamp", timestamp, "expected seconds since 1970")
    if not timestamp >= 0:  # also NaN
        raise _refused(Refused.TIMESTAMP, "timestamp", timestamp, "it must be 0 or later")
    if timestamp > latest_s:
        rule = f"later than {latest_s:.0f}, the newest that is accepted now"
        raise _refused(Refused.FUTURE, "timestamp", timestamp, rule)
    return round(timestamp * MICROSECONDS)


def _subject(interaction: Interaction) -> dict[str, str | None]:
    item, text = interaction.item, interaction.text
    if item is None and text is None:
        raise RefusedError(Refused.SUBJECT, "expected an item, a text, or an item with a text about it")
    if item is not None and not (_is_text(item) and 0 < len(item) <= MAX_ITEM_LENGTH):
        raise _refused(Refused.SUBJECT, "item", item, f"expected 1 to {MAX_ITEM_LENGTH} characters without NUL")
    if text is not None and not (_is_text(text) and text.strip() and len(text.encode()) <= MAX_TEXT_BYTES):
        raise _refused(Refused.SUBJECT, "text", text, f"expected text of at most {MAX_TEXT_BYTES:,} bytes without NUL")
    return {"item": item, "text": text}


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    least = -MAX_NUMBER if name == "value" else 0.0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= MAX_NUMBER:  # NaN fails as well
        raise _refused(Refused.NUMBER, name, value, f"expected a number from {least:g} to {MAX_NUMBER:g}")
    # Minus zero becomes zero: both must give the same id.
    return float(value) + 0.0


def _id(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not (_is_text(value) and 0 < len(value) <= MAX_ID_LENGTH):
        raise _refused(Refused.ID, name, value, f"expected 1 to {MAX_ID_LENGTH} characters without NUL")
    return str(value)


def _context(context: object) -> dict[str, Scalar] | None:
    if not isinstance(context, dict) or len(context) > MAX_CONTEXT:
        raise _refused(Refused.CONTEXT, "context", context, f"expected at most {MAX_CONTEXT} values by name")
    for name, value in context.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            detail = f"context has the name {shown(name)}: expected a name of at most 64 characters"
            raise RefusedError(Refused.CONTEXT, detail)
        if not _is_scalar(value):
            rule = (
                "expected true, false, a finite number of 64 bits, "
                f"or a string of at most {MAX_CONTEXT_LENGTH} characters without NUL"
            )
            raise _refused(Refused.CONTEXT, f"context {name}", value, rule)
    return dict(context) or None


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return _is_text(value) and len(value) <= MAX_CONTEXT_LENGTH
    if isinstance(value, int):
        return value in INT64
    return isinstance(value, float) and math.isfinite(value)


def _is_text(value: object) -> bool:
    """Whether both databases can hold it: a string that UTF-8 can carry, without NUL."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
