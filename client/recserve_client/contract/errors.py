"""Error kinds and their gRPC statuses: one table for server and clients.

A refused request carries the message ``<kind>: <text>``. The kind is a value of `ErrorKind`; the text names the
offending value. Clients read the kind from the prefix, so the text may change between versions; only that of
`overloaded` always begins with ``retry_after_ms=<number>;``.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

#: How the text of an `overloaded` refusal begins.
_RETRY_AFTER: Final = re.compile(r"retry_after_ms=(\d{1,9});")


class ErrorKind(StrEnum):
    """Reasons for refusing a request."""

    INVALID_JSON = "invalid_json"
    INVALID_REQUEST = "invalid_request"
    TOO_LARGE = "too_large"
    UNKNOWN_ITEM = "unknown_item"
    UNKNOWN_FIELD = "unknown_field"
    EMPTY_HISTORY = "empty_history"
    ZERO_WEIGHTS = "zero_weights"
    VECTORS_CANCEL = "vectors_cancel"
    EXPIRED_CURSOR = "expired_cursor"
    WRONG_TENSOR = "wrong_tensor"
    REQUEST_ID_REUSED = "request_id_reused"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    STALE_REVISION = "stale_revision"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    INTERNAL = "internal"


#: gRPC status of each kind (names of ``grpc.StatusCode``).
STATUS_OF: Final[dict[ErrorKind, str]] = {
    ErrorKind.INVALID_JSON: "INVALID_ARGUMENT",
    ErrorKind.INVALID_REQUEST: "INVALID_ARGUMENT",
    ErrorKind.TOO_LARGE: "INVALID_ARGUMENT",
    ErrorKind.UNKNOWN_ITEM: "NOT_FOUND",
    ErrorKind.UNKNOWN_FIELD: "INVALID_ARGUMENT",
    ErrorKind.EMPTY_HISTORY: "INVALID_ARGUMENT",
    ErrorKind.ZERO_WEIGHTS: "INVALID_ARGUMENT",
    ErrorKind.VECTORS_CANCEL: "INVALID_ARGUMENT",
    ErrorKind.EXPIRED_CURSOR: "INVALID_ARGUMENT",
    ErrorKind.WRONG_TENSOR: "INVALID_ARGUMENT",
    ErrorKind.REQUEST_ID_REUSED: "ALREADY_EXISTS",
    ErrorKind.UNAVAILABLE: "UNAVAILABLE",
    # Triton's Python models have no RESOURCE_EXHAUSTED.
    ErrorKind.OVERLOADED: "UNAVAILABLE",
    ErrorKind.STALE_REVISION: "UNAVAILABLE",
    # Triton's Python models have neither UNAUTHENTICATED nor PERMISSION_DENIED; the gateway makes them of these.
    ErrorKind.UNAUTHENTICATED: "INVALID_ARGUMENT",
    ErrorKind.PERMISSION_DENIED: "INVALID_ARGUMENT",
    ErrorKind.INTERNAL: "INTERNAL",
}

#: Meaning of each kind, and what to do about it; printed on the protocol page.
MEANING_OF: Final[dict[ErrorKind, str]] = {
    ErrorKind.INVALID_JSON: "The packed request is not JSON, or not UTF-8.",
    ErrorKind.INVALID_REQUEST: "The JSON does not fit the schema; the message names the path and the value.",
    ErrorKind.TOO_LARGE: "The request exceeds a limit of the server; the message names the limit and the size.",
    ErrorKind.UNKNOWN_ITEM: "The catalogue lacks some item ids; send on_unknown=ignore to skip them.",
    ErrorKind.UNKNOWN_FIELD: "No item has this field or attribute; the nearest name is suggested.",
    ErrorKind.EMPTY_HISTORY: "No usable behaviour is left in the history.",
    ErrorKind.ZERO_WEIGHTS: "Every weight is zero.",
    ErrorKind.VECTORS_CANCEL: "The weighted behaviours cancel out, so the user vector has no direction.",
    ErrorKind.EXPIRED_CURSOR: "The cursor is of another request, or its ranking is gone; ask for the first page.",
    ErrorKind.WRONG_TENSOR: "The tensor does not hold exactly one readable BYTES element.",
    ErrorKind.REQUEST_ID_REUSED: "Another change was made with this `request_id`; nothing was done.",
    ErrorKind.UNAVAILABLE: "The encoder, the store or the queue cannot take the request now; try again later.",
    ErrorKind.OVERLOADED: "More requests wait than can be answered in time; try again after `retry_after_ms`.",
    ErrorKind.STALE_REVISION: "The catalogue did not reach `min_revision` within the server's waiting time.",
    ErrorKind.UNAUTHENTICATED: "The request has no key, or none that is valid (any more).",
    ErrorKind.PERMISSION_DENIED: "The key lacks the scope that the request needs.",
    ErrorKind.INTERNAL: "A fault of the server; its log has the details under the error id.",
}


def retry_after_ms(text: str) -> int | None:
    """Milliseconds after which an `overloaded` request may be tried again; `None` where its text names none."""
    found = _RETRY_AFTER.match(text)
    return int(found[1]) if found else None


def split_message(message: str) -> tuple[ErrorKind | None, str]:
    """Split ``<kind>: <text>``; a message of another form, such as Triton's own, is returned whole and without a kind.

    Triton prefixes errors of an ensemble's steps with ``in ensemble 'recommend_text', ``; the prefix is removed.
    """
    step_message = message.partition("', ")[2] if message.startswith("in ensemble '") else message
    head, separator, text = step_message.partition(": ")
    try:
        return (ErrorKind(head), text) if separator else (None, message)
    except ValueError:
        return None, message
