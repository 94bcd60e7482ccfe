"""What can go wrong with a request, and which gRPC status says so: one table for server and clients.

A refused request carries the message ``<kind>: <text>``; ``kind`` is a value of `ErrorKind`, the text names the
offending value. Clients read the kind from the prefix, so the text may change from version to version.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class ErrorKind(StrEnum):
    """The typed reasons for refusing a request."""

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
    STALE_REVISION = "stale_revision"
    INTERNAL = "internal"


#: The status code each kind has on the wire (names of ``grpc.StatusCode``).
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
    ErrorKind.STALE_REVISION: "UNAVAILABLE",
    ErrorKind.INTERNAL: "INTERNAL",
}

#: What each kind means; docs/reference/errors.md says the same.
MEANING_OF: Final[dict[ErrorKind, str]] = {
    ErrorKind.INVALID_JSON: "The packed request is not JSON, or not UTF-8.",
    ErrorKind.INVALID_REQUEST: "The JSON does not fit the schema; the message names the path and the value.",
    ErrorKind.TOO_LARGE: "A limit of the server was passed; the message names the limit and the size.",
    ErrorKind.UNKNOWN_ITEM: "Item ids that the catalogue does not have; send on_unknown=ignore to skip them.",
    ErrorKind.UNKNOWN_FIELD: "A field or an attribute that no item has; the nearest name is suggested.",
    ErrorKind.EMPTY_HISTORY: "No behaviour is left to make a user vector from.",
    ErrorKind.ZERO_WEIGHTS: "Every weight is zero.",
    ErrorKind.VECTORS_CANCEL: "The weighted behaviours add up to (nearly) nothing, so no direction is left.",
    ErrorKind.EXPIRED_CURSOR: "The cursor is not one of this request, or its ranking is gone; ask for the first page.",
    ErrorKind.WRONG_TENSOR: "The tensor does not hold exactly one readable BYTES element.",
    ErrorKind.REQUEST_ID_REUSED: "Another change was made under this `request_id`; nothing was done.",
    ErrorKind.UNAVAILABLE: "The encoder, the store or the queue cannot take the request now; try again.",
    ErrorKind.STALE_REVISION: "The server waited, and the catalogue did not get to `min_revision`.",
    ErrorKind.INTERNAL: "A fault of the server; its log holds the details under the error id.",
}


def split_message(message: str) -> tuple[ErrorKind | None, str]:
    """Split ``<kind>: <text>``; a message in another form (Triton's own) comes back whole, with no kind.

    Triton puts ``in ensemble 'recommend_text', `` before what a step of the ensemble answers; that is left out.
    """
    own = message.partition("', ")[2] if message.startswith("in ensemble '") else message
    head, separator, text = own.partition(": ")
    try:
        return (ErrorKind(head), text) if separator else (None, message)
    except ValueError:
        return None, message
