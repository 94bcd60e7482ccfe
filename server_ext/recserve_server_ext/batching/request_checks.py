"""Checks of packed requests that all models share: size and texts."""

from __future__ import annotations

from collections.abc import Sequence

from recserve_client.contract import ErrorKind, RequestError, shown
from recserve_server_ext.config.server import Limits


def check_size(raw: bytes, limits: Limits) -> None:
    """Refuse a packed request over the limit before it is decoded.

    Raises:
        RequestError: too_large.
    """
    if len(raw) > limits.request_bytes:
        raise too_large("the request", len(raw), "bytes", "request_bytes", limits.request_bytes)


def check_texts(texts: Sequence[str], limits: Limits, place: str) -> None:
    """Refuse blank and oversized texts, and too many of them.

    Args:
        texts: The texts of one request.
        limits: The server's limits.
        place: JSON path of the list, for messages.

    Raises:
        RequestError: too_large or invalid_request.
    """
    if len(texts) > limits.texts:
        raise too_large(place, len(texts), "texts", "texts", limits.texts)
    for number, text in enumerate(texts):
        # A character has at most four bytes, so most texts pass without being encoded.
        if len(text) * 4 > limits.text_bytes and (size := len(text.encode())) > limits.text_bytes:
            raise too_large(f"text {number} of {place}, {shown(text)},", size, "bytes", "text_bytes", limits.text_bytes)
        if not text or text.isspace():
            raise RequestError(ErrorKind.INVALID_REQUEST, f"text {number} of {place} is blank: {shown(text)}")


def too_large(what: str, size: int, unit: str, limit: str, allowed: int) -> RequestError:
    """The error of something over a limit."""
    return RequestError(ErrorKind.TOO_LARGE, f"{what} has {size:,} {unit}; limits.{limit} allows {allowed:,}")
