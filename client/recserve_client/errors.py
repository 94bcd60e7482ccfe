"""Errors that the clients raise.

::

    RecserveError
    ├── InvalidRequest      INVALID_ARGUMENT   the request is refused; sending it again changes nothing
    ├── UnknownItem         NOT_FOUND          item ids (or a model) that the server does not have
    ├── Unavailable         UNAVAILABLE        the server cannot take it now; safe to try again
    ├── DeadlineExceeded    DEADLINE_EXCEEDED  no answer in time
    ├── Cancelled           CANCELLED          given up by the caller
    ├── Unsupported         UNIMPLEMENTED      the server has no such method
    └── ServerFault         INTERNAL and all others
"""

from __future__ import annotations

from typing import Final

import grpc

from recserve_client.contract import ErrorKind, RequestError, split_message


class RecserveError(Exception):
    """Root of the clients' errors.

    Attributes:
        message: What was wrong, which value, and what to do.
        status: Name of the gRPC status code.
        kind: The server's typed reason; None where Triton or gRPC refused before recserve saw the request.
    """

    def __init__(self, message: str, *, status: str, kind: ErrorKind | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind


class InvalidRequest(RecserveError):  # noqa: N818 - named by what it says, as gRPC's codes are
    """The request is refused; sending it again changes nothing."""


class UnknownItem(RecserveError):  # noqa: N818 - as above
    """Item ids (or a model) that the server does not have."""


class Unavailable(RecserveError):  # noqa: N818 - as above
    """The server cannot take the request now; safe to try again."""


class DeadlineExceeded(RecserveError):  # noqa: N818 - as above
    """No answer in time."""


class Cancelled(RecserveError):  # noqa: N818 - as above
    """Given up by the caller."""


class Unsupported(RecserveError):  # noqa: N818 - as above
    """The server has no such method."""


class ServerFault(RecserveError):  # noqa: N818 - as above
    """A fault of the server; its log has the details."""


#: gRPC status -> error; every other status is a `ServerFault`.
ERROR_OF: Final[dict[str, type[RecserveError]]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "NOT_FOUND": UnknownItem,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "UNIMPLEMENTED": Unsupported,
}


def from_status(status: str, details: str) -> RecserveError:
    """The error for a status and its message."""
    kind, message = split_message(details)
    return ERROR_OF.get(status, ServerFault)(message, status=status, kind=kind)


def from_rpc(error: grpc.RpcError) -> RecserveError:
    """The error for what a gRPC call raised."""
    return from_status(error.code().name, error.details() or "")


def from_request(error: RequestError) -> RecserveError:
    """The error for a request that was refused before it was sent."""
    return ERROR_OF.get(error.status, ServerFault)(error.text, status=error.status, kind=error.kind)
