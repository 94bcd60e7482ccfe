"""Errors that the clients raise.

::

    RecserveError
    ├── InvalidRequest      INVALID_ARGUMENT   the request is refused (or too large); retrying does not help
    │   ├── ExpiredCursor   INVALID_ARGUMENT   the ranking of a page is no longer kept; ask for the first page again
    │   ├── Unauthenticated UNAUTHENTICATED    no key, or none that is valid; INVALID_ARGUMENT without a gateway
    │   └── PermissionDenied PERMISSION_DENIED the key lacks the scope; INVALID_ARGUMENT without a gateway
    ├── NotFound            NOT_FOUND          the server has no such model
    │   └── UnknownItem     NOT_FOUND          the catalogue lacks items; the message lists them
    ├── AlreadyExists       ALREADY_EXISTS     another change was made with this request id
    ├── Unavailable         UNAVAILABLE        the server cannot take the request now; retrying is safe
    │   ├── Overloaded      UNAVAILABLE        more waits than can be answered in time; see `retry_after_ms`
    │   └── StaleRevision   UNAVAILABLE        the catalogue did not reach `min_revision` in the server's waiting time
    ├── DeadlineExceeded    DEADLINE_EXCEEDED  no answer in time
    ├── Cancelled           CANCELLED          cancelled by the caller
    ├── Unsupported         UNIMPLEMENTED      the server has no such method
    └── ServerFault         INTERNAL and all others
"""

from __future__ import annotations

from typing import Final

import grpc

from recserve_client.contract import ErrorKind, RequestError, retry_after_ms, split_message


class RecserveError(Exception):
    """Base class of the clients' errors.

    Attributes:
        message: What was wrong, which value, and what to do.
        status: Name of the gRPC status code.
        kind: The server's reason; `None` where Triton or gRPC refused the request before recserve saw it.
    """

    def __init__(self, message: str, *, status: str, kind: ErrorKind | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind


class InvalidRequest(RecserveError):  # noqa: N818 - named like the gRPC status
    """The request is refused; retrying does not help."""


class ExpiredCursor(InvalidRequest):
    """The cursor belongs to another request, or its ranking is no longer kept; ask for the first page again."""


class Unauthenticated(InvalidRequest):
    """The request has no key, or none that is valid."""


class PermissionDenied(InvalidRequest):
    """The key lacks the scope that the request needs."""


class NotFound(RecserveError):  # noqa: N818 - named like the gRPC status
    """The server lacks a model or, as `UnknownItem`, items."""


class UnknownItem(NotFound):
    """The catalogue lacks some item ids."""


class AlreadyExists(RecserveError):  # noqa: N818 - named like the gRPC status
    """Another change was made with this request id; nothing was done."""


class Unavailable(RecserveError):  # noqa: N818 - named like the gRPC status
    """The server cannot take the request now; retrying is safe."""


class Overloaded(Unavailable):
    """The server has more to do than it can in time; the client tries again after `retry_after_ms`, within its budget.

    Attributes:
        retry_after_ms: When the server expects to have time; `None` where it does not say.
    """

    @property
    def retry_after_ms(self) -> int | None:
        return retry_after_ms(self.message)


class StaleRevision(Unavailable):
    """The catalogue did not reach `min_revision` within the server's waiting time; the client does not retry."""


class DeadlineExceeded(RecserveError):  # noqa: N818 - named like the gRPC status
    """No answer in time."""


class Cancelled(RecserveError):  # noqa: N818 - named like the gRPC status
    """The caller cancelled the call."""


class Unsupported(RecserveError):  # noqa: N818 - named like the gRPC status
    """The server has no such method."""


class ServerFault(RecserveError):  # noqa: N818 - named like the gRPC status
    """A fault of the server; its log has the details."""


#: Error of each gRPC status; every other status is a `ServerFault`.
ERROR_OF: Final[dict[str, type[RecserveError]]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    # Larger than `ClientOptions.max_message_bytes` or the server's own bound.
    "RESOURCE_EXHAUSTED": InvalidRequest,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "UNIMPLEMENTED": Unsupported,
}

#: Error of kinds that have their own, a subclass of the error of their status.
ERROR_OF_KIND: Final[dict[ErrorKind, type[RecserveError]]] = {
    ErrorKind.UNKNOWN_ITEM: UnknownItem,
    ErrorKind.EXPIRED_CURSOR: ExpiredCursor,
    ErrorKind.UNAUTHENTICATED: Unauthenticated,
    ErrorKind.PERMISSION_DENIED: PermissionDenied,
    ErrorKind.OVERLOADED: Overloaded,
    ErrorKind.STALE_REVISION: StaleRevision,
}


def from_status(status: str, details: str) -> RecserveError:
    """The error for a status and its message."""
    kind, message = split_message(details)
    return _error(status, kind, message)


def from_rpc(error: grpc.RpcError) -> RecserveError:
    """The error for a failed gRPC call."""
    return from_status(error.code().name, error.details() or "")


def from_request(error: RequestError) -> RecserveError:
    """The error for a request that was refused before it was sent."""
    return _error(error.status, error.kind, error.text)


def _error(status: str, kind: ErrorKind | None, message: str) -> RecserveError:
    general = ERROR_OF.get(status, ServerFault)
    special = ERROR_OF_KIND.get(kind, general) if kind is not None else general
    return (special if issubclass(special, general) else general)(message, status=status, kind=kind)
