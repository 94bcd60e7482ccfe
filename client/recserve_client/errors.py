"""Errors that the clients raise.

::

    RecserveError
    ├── InvalidRequest      INVALID_ARGUMENT   the request is refused (or too large); sending it again changes nothing
    │   └── ExpiredCursor   INVALID_ARGUMENT   the ranking of a page is gone; ask for the first page again
    ├── NotFound            NOT_FOUND          the server has no such model
    │   └── UnknownItem     NOT_FOUND          the catalogue has no such items; the message lists them
    ├── AlreadyExists       ALREADY_EXISTS     another change was made under this request id
    ├── Unavailable         UNAVAILABLE        the server cannot take it now; safe to try again
    │   └── StaleRevision   UNAVAILABLE        the server waited, and the catalogue did not get to `min_revision`
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


class ExpiredCursor(InvalidRequest):
    """The cursor of a page is not one of this request, or its ranking is gone; ask for the first page again."""


class NotFound(RecserveError):  # noqa: N818 - as above
    """Something that the server does not have: a model, or (`UnknownItem`) items."""


class UnknownItem(NotFound):
    """Item ids that the catalogue does not have."""


class AlreadyExists(RecserveError):  # noqa: N818 - as above
    """Another change was made under this request id; nothing was done."""


class Unavailable(RecserveError):  # noqa: N818 - as above
    """The server cannot take the request now; safe to try again."""


class StaleRevision(Unavailable):
    """The server waited, and the catalogue did not get to `min_revision`; it is not asked again."""


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
    # Larger than `ClientOptions.max_message_bytes` or the server's own bound.
    "RESOURCE_EXHAUSTED": InvalidRequest,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "UNIMPLEMENTED": Unsupported,
}

#: Kinds with an error of their own, below the one of their status.
ERROR_OF_KIND: Final[dict[ErrorKind, type[RecserveError]]] = {
    ErrorKind.UNKNOWN_ITEM: UnknownItem,
    ErrorKind.EXPIRED_CURSOR: ExpiredCursor,
    ErrorKind.STALE_REVISION: StaleRevision,
}


def from_status(status: str, details: str) -> RecserveError:
    """The error for a status and its message."""
    kind, message = split_message(details)
    return _error(status, kind, message)


def from_rpc(error: grpc.RpcError) -> RecserveError:
    """The error for what a gRPC call raised."""
    return from_status(error.code().name, error.details() or "")


def from_request(error: RequestError) -> RecserveError:
    """The error for a request that was refused before it was sent."""
    return _error(error.status, error.kind, error.text)


def _error(status: str, kind: ErrorKind | None, message: str) -> RecserveError:
    general = ERROR_OF.get(status, ServerFault)
    special = ERROR_OF_KIND.get(kind, general) if kind is not None else general
    return (special if issubclass(special, general) else general)(message, status=status, kind=kind)
