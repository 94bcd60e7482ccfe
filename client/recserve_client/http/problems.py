"""Problem documents (RFC 9457): what a refused or failed HTTP request is answered with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from recserve_client.contract import ErrorKind, RequestError
from recserve_client.errors import RecserveError

_log: Final = logging.getLogger("recserve.http")
CONTENT_TYPE: Final = "application/problem+json"
#: Seconds after which a caller may try again what could not be taken.
RETRY_AFTER_S: Final = 1


class HttpKind(StrEnum):
    """Reasons for refusing a request that only HTTP has, and those of gRPC itself."""

    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    MEDIA_TYPE = "media_type"
    PRECONDITION_FAILED = "precondition_failed"
    WRONG_HOST = "wrong_host"
    BODY_TIMEOUT = "body_timeout"
    UNSUPPORTED = "unsupported"
    DEADLINE_EXCEEDED = "deadline_exceeded"


#: HTTP status of each kind.
HTTP_STATUS_OF: Final[Mapping[str, int]] = {
    ErrorKind.INVALID_JSON: 400,
    ErrorKind.INVALID_REQUEST: 400,
    ErrorKind.TOO_LARGE: 413,
    ErrorKind.UNKNOWN_ITEM: 404,
    ErrorKind.UNKNOWN_FIELD: 400,
    ErrorKind.EMPTY_HISTORY: 422,
    ErrorKind.ZERO_WEIGHTS: 422,
    ErrorKind.VECTORS_CANCEL: 422,
    ErrorKind.EXPIRED_CURSOR: 410,
    ErrorKind.WRONG_TENSOR: 400,
    ErrorKind.REQUEST_ID_REUSED: 422,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.OVERLOADED: 503,
    ErrorKind.STALE_REVISION: 503,
    ErrorKind.UNAUTHENTICATED: 401,
    ErrorKind.PERMISSION_DENIED: 403,
    ErrorKind.INTERNAL: 500,
    HttpKind.NOT_FOUND: 404,
    HttpKind.METHOD_NOT_ALLOWED: 405,
    HttpKind.MEDIA_TYPE: 415,
    HttpKind.PRECONDITION_FAILED: 412,
    HttpKind.WRONG_HOST: 421,
    HttpKind.BODY_TIMEOUT: 408,
    HttpKind.UNSUPPORTED: 501,
    HttpKind.DEADLINE_EXCEEDED: 504,
}
#: Kind of a refusal by Triton or gRPC, which has none; every other status is `internal`.
_KIND_OF_STATUS: Final[Mapping[str, str]] = {
    "INVALID_ARGUMENT": ErrorKind.INVALID_REQUEST,
    "UNAUTHENTICATED": ErrorKind.UNAUTHENTICATED,
    "PERMISSION_DENIED": ErrorKind.PERMISSION_DENIED,
    "OUT_OF_RANGE": ErrorKind.INVALID_REQUEST,
    "RESOURCE_EXHAUSTED": ErrorKind.TOO_LARGE,
    # The model is being brought back, or the server does without it.
    "NOT_FOUND": ErrorKind.UNAVAILABLE,
    "UNAVAILABLE": ErrorKind.UNAVAILABLE,
    "CANCELLED": ErrorKind.UNAVAILABLE,
    "DEADLINE_EXCEEDED": HttpKind.DEADLINE_EXCEEDED,
    "UNIMPLEMENTED": HttpKind.UNSUPPORTED,
}


class Problem(Struct, frozen=True, omit_defaults=True, gc=False):
    """Why a request was refused or failed.

    Attributes:
        type: URN of the kind.
        title: The kind in words.
        status: Status of the answer.
        detail: What was wrong, which value, and what to do.
        kind: Reason, by which programs tell problems apart; see docs/reference/errors.md.
        request_id: Id of the request, as in the header `X-Request-Id`.
        line: Number of the first line of a stream that has no result, from 1. Absent outside of streams.
    """

    type: str
    title: str
    status: int
    detail: str
    kind: str
    request_id: str
    line: int | UnsetType = UNSET


class ProblemError(Exception):
    """A request that is answered with a problem document.

    Attributes:
        kind: A value of `ErrorKind` or `HttpKind`.
        detail: What was wrong, which value, and what to do.
        headers: Further headers of the answer.
        line: Number of the first line of a stream that has no result, from 1.
    """

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.line: int | UnsetType = UNSET

    def problem(self, request_id: str) -> Problem:
        """The document."""
        kind = str(self.kind)
        title = kind.replace("_", " ").capitalize()
        urn = f"urn:problem-type:recserve:{kind}"
        return Problem(urn, title, HTTP_STATUS_OF[self.kind], self.detail, kind, request_id, self.line)


#: Errors that are refusals, and tell why.
KNOWN_ERRORS: Final = (RecserveError, RequestError, ProblemError)


def problem_of(error: RecserveError | RequestError | ProblemError) -> ProblemError:
    """The problem that an error is."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestError):
        return ProblemError(error.kind, error.text)
    if error.kind is not None:
        return ProblemError(error.kind, error.message)
    kind = _KIND_OF_STATUS.get(error.status, ErrorKind.INTERNAL)
    # The words of Triton and gRPC may hold paths and addresses of other machines.
    hidden: dict[str, str] = {
        ErrorKind.INTERNAL: "the server failed; its log has the details",
        ErrorKind.UNAVAILABLE: "the server cannot be reached, or is being brought back; try again later",
    }
    return ProblemError(kind, hidden.get(kind, error.message))


def busy(most: int) -> ProblemError:
    """The problem of too many requests at a time."""
    return ProblemError(ErrorKind.UNAVAILABLE, f"{most:,} requests are under way; try again later")


def fault(error: BaseException, request_id: str) -> ProblemError:
    """The problem of an error that nobody expected; the log has its traceback, the answer does not."""
    _log.error("request %s failed", request_id, exc_info=error)
    return ProblemError(ErrorKind.INTERNAL, "the HTTP server failed; its log has the details under the request id")


def problem_response(error: ProblemError, request_id: str) -> Response:
    """The answer with a problem document."""
    problem = error.problem(request_id)
    headers = dict(error.headers)
    if problem.status == HTTP_STATUS_OF[ErrorKind.UNAVAILABLE]:
        headers.setdefault("retry-after", str(RETRY_AFTER_S))
    if problem.status == HTTP_STATUS_OF[ErrorKind.UNAUTHENTICATED]:
        headers["www-authenticate"] = "Bearer"
    return Response(msgspec.json.encode(problem), problem.status, headers, media_type=CONTENT_TYPE)
