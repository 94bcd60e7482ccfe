"""The newest requests whose answers were logged, held in memory so that their walks can be worked out later."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from recserve_client.contract import ErrorKind, RecommendRequest, RequestError, shown
from recserve_server_ext.config.server import Limits
from recserve_server_ext.recommend.requests import unpack

#: Requests that are held, and the largest of them: 4 MiB together.
MOST: Final = 256
MOST_BYTES: Final = 16 * 1024


class HeldRequests:
    """Packed requests by the recommendation that each led to. They name users, so they never leave the memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._raw: dict[str, bytes] = {}
        self._erasures: tuple[int, int] = (0, 0)

    def hold(self, recommendation_id: str, raw: bytes) -> None:
        """Hold a request, in place of the oldest one where there are enough; one that is too large is not held."""
        if len(raw) > MOST_BYTES:
            return
        self._raw[recommendation_id] = raw
        if len(self._raw) > MOST:
            del self._raw[next(iter(self._raw))]

    def forget_erased(self, erasures: tuple[int, int]) -> None:
        """Forget all requests where a user was erased since the last call.

        Args:
            erasures: Erasures of the interaction store.
        """
        if erasures != self._erasures:
            self._erasures = erasures
            self._raw.clear()

    def again(self, asked: RecommendRequest) -> RecommendRequest:
        """The request that led to the recommendation of `asked.walk`, with the walk and the form that `asked` has.

        Its answer has neither contributions nor the history: who knows the recommendation need not know the user.

        Raises:
            RequestError: invalid_request: it is not held, or more than the walk was asked.
        """
        assert asked.walk is not None
        if asked.history or asked.user_id is not None:
            raise _invalid("$.walk.recommendation_id takes the place of history and user_id; leave those out")
        found = self._raw.get(asked.walk.recommendation_id)
        if found is None:
            raise _invalid(
                f"the request of recommendation {shown(asked.walk.recommendation_id)} is not held: the server holds "
                f"the newest {MOST} since its start, up to {MOST_BYTES:,} bytes each, and none after an erasure"
            )
        held = unpack(found, self._limits)
        return replace(held, walk=asked.walk, accept=asked.accept, explain=False, traceparent="")


def is_replay(request: RecommendRequest) -> bool:
    """Whether a request asks for the walk of a held one."""
    return request.walk is not None and bool(request.walk.recommendation_id)


def _invalid(text: str) -> RequestError:
    return RequestError(ErrorKind.INVALID_REQUEST, text)
