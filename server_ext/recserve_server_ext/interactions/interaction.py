"""One interaction: what a user did, and the checks it must pass before it is stored."""

from __future__ import annotations

import hashlib
import math
import re
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from recserve_client.contract import shown
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.pseudonyms import is_pseudonym

Scalar = str | int | float | bool

MAX_ITEM_LENGTH: Final = 512
MAX_TEXT_BYTES: Final = 32 * 1024
#: Of an event id, a recommendation id and a session id, in characters.
MAX_ID_LENGTH: Final = 128
MAX_CONTEXT: Final = 16
MAX_CONTEXT_LENGTH: Final = 256
#: Of value, duration, price and quantity: what is larger is an error, and would spoil every statistic.
MAX_NUMBER: Final = 1e12
_TYPE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


class Interaction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user did.

    Attributes:
        user: Pseudonym of the user; see `recserve_server_ext.interactions.pseudonyms`.
        type: What was done: a lower-case word of at most 32 characters, such as view, click, cart, purchase, rating,
            like, dislike or listen.
        timestamp: When, in seconds since 1970; stored in whole microseconds.
        item: Item id; it need not be in the catalogue.
        text: A free text, such as a search, in place of an item.
        value: Of a rating, or whatever else the type measures.
        event_id: Tells it from every other interaction of the user; without one, see `content_id`.
        recommendation_id: The slate it came from.
        duration_s: How long it lasted.
        price: Of one piece.
        quantity: Pieces.
        session_id: As the application calls the session.
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
        reason: One of `Refused`.
        detail: Names the field and the value; never the user.
    """

    def __init__(self, reason: Refused, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class Recorded(msgspec.Struct, frozen=True):
    """What became of one interaction.

    Attributes:
        status: `duplicate` = the user has one with this event id already, and it stays as it is.
        event_id: Given or made; empty where it was refused before one was made.
        reason: One of `Refused` where it was refused.
        detail: Names the field and the value; never the user.
    """

    status: Literal["recorded", "duplicate", "refused"]
    event_id: str = ""
    reason: Refused | None = None
    detail: str = ""


def checked(interaction: Interaction, latest_s: float) -> dict[str, Any]:
    """The columns of an interaction, besides the number of its user; timestamps as `time_us`.

    Args:
        interaction: What came in; its fields may have any type.
        latest_s: Newest timestamp that is accepted.

    Raises:
        RefusedError: With the reason.
    """
    if not is_pseudonym(interaction.user):
        raise RefusedError(Refused.USER, "user is no pseudonym (64 or 96 hexadecimal digits)")
    if not isinstance(interaction.type, str) or not _TYPE.fullmatch(interaction.type):
        detail = f"type is {shown(interaction.type)}: expected a lower-case word of at most 32 characters"
        raise RefusedError(Refused.TYPE, detail)
    columns = {
        "time_us": _microseconds(interaction.timestamp, latest_s),
        "type": interaction.type,
        **_subject(interaction),
        "value": _number("value", interaction.value, -MAX_NUMBER),
        **{name: _number(name, getattr(interaction, name), 0.0) for name in ("duration_s", "price", "quantity")},
        **{name: _id(name, getattr(interaction, name)) for name in ("recommendation_id", "session_id")},
        "context": _context(interaction.context),
    }
    event_id = _id("event_id", interaction.event_id)
    return {"event_id": event_id or content_id(columns), **columns}


def content_id(columns: dict[str, Any]) -> str:
    """The event id of an interaction that came without one, so that the same one sent again has it again.

    It is the hexadecimal SHA-256 of the compact JSON object in UTF-8, keys in sorted order, of every field that is
    given: type, time_us (integer), item, text, recommendation_id, session_id (strings), value, duration_s, price,
    quantity (always written as floats), context. Two of a user that agree in all of these are one.
    """
    given = {name: value for name, value in columns.items() if value is not None}
    return hashlib.sha256(msgspec.json.encode(given, order="deterministic")).hexdigest()


def _microseconds(timestamp: object, latest_s: float) -> int:
    if not isinstance(timestamp, int | float) or isinstance(timestamp, bool):
        raise RefusedError(Refused.TIMESTAMP, f"timestamp is {shown(timestamp)}: expected seconds since 1970")
    if not timestamp >= 0:  # also NaN
        raise RefusedError(Refused.TIMESTAMP, f"timestamp is {shown(timestamp)}: it must be 0 or later")
    if timestamp > latest_s:
        detail = f"timestamp is {shown(timestamp)}: later than {latest_s:.0f}, the newest that is accepted now"
        raise RefusedError(Refused.FUTURE, detail)
    return round(timestamp * MICROSECONDS)


def _subject(interaction: Interaction) -> dict[str, str | None]:
    item, text = interaction.item, interaction.text
    if (item is None) == (text is None):
        raise RefusedError(Refused.SUBJECT, "expected either an item or a text")
    if item is not None and not (_is_text(item) and 0 < len(item) <= MAX_ITEM_LENGTH):
        detail = f"item is {shown(item)}: expected 1 to {MAX_ITEM_LENGTH} characters without NUL"
        raise RefusedError(Refused.SUBJECT, detail)
    if text is not None and not (_is_text(text) and text.strip() and len(text.encode()) <= MAX_TEXT_BYTES):
        detail = f"text is {shown(text)}: expected text of at most {MAX_TEXT_BYTES:,} bytes without NUL"
        raise RefusedError(Refused.SUBJECT, detail)
    return {"item": item, "text": text}


def _number(name: str, value: object, least: float) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= MAX_NUMBER:  # type: ignore[operator]  # is_number; NaN fails as well
        detail = f"{name} is {shown(value)}: expected a number from {least:g} to {MAX_NUMBER:g}"
        raise RefusedError(Refused.NUMBER, detail)
    # Minus zero is zero: both must give the same id.
    return float(value) + 0.0  # type: ignore[arg-type]  # is_number


def _id(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not (_is_text(value) and 0 < len(value) <= MAX_ID_LENGTH):  # type: ignore[arg-type]  # a string here
        detail = f"{name} is {shown(value)}: expected 1 to {MAX_ID_LENGTH} characters without NUL"
        raise RefusedError(Refused.ID, detail)
    return str(value)


def _context(context: object) -> dict[str, Scalar] | None:
    if not isinstance(context, dict) or len(context) > MAX_CONTEXT:
        raise RefusedError(
            Refused.CONTEXT, f"context is {shown(context)}: expected at most {MAX_CONTEXT} values by name"
        )
    for name, value in context.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            detail = f"context has the name {shown(name)}: expected a name of at most 64 characters"
            raise RefusedError(Refused.CONTEXT, detail)
        if not _is_scalar(value):
            detail = (
                f"context {name} is {shown(value)}: expected true, false, a finite number of 64 bits, "
                f"or a string of at most {MAX_CONTEXT_LENGTH} characters without NUL"
            )
            raise RefusedError(Refused.CONTEXT, detail)
    return dict(context) or None


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return _is_text(value) and len(value) <= MAX_CONTEXT_LENGTH
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
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
