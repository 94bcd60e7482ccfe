"""The newest requests whose answers were logged, held in memory so that their walks can be worked out later."""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec.structs import replace

from recserve_client.contract import ErrorKind, RecommendRequest, RequestError, shown

#: Requests that are held, and the largest of them as they came: 4 MiB together.
MOST: Final = 256
MOST_BYTES: Final = 16 * 1024
#: In place of the user id of a held request.
_SOMEBODY: Final = "somebody"


class Held(NamedTuple):
    """A held request.

    Attributes:
        request: The request, with `somebody` in place of the user id.
        pseudonym: Pseudonym of the user; `None` for a request with a history.
        keys: Fingerprint of the key ring that made it.
    """

    request: RecommendRequest
    pseudonym: str | None
    keys: str


class HeldRequests:
    """Requests by the recommendation that each led to. They tell of users, so they never leave the memory."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._erasures: tuple[int, int] = (0, 0)

    def hold(self, recommendation_id: str, held: Held, size_bytes: int) -> None:
        """Hold a request, in place of the oldest one where there are enough.

        Args:
            recommendation_id: The recommendation that it led to.
            held: The request as it was answered, still with its user id, which is taken out.
            size_bytes: Size of the packed request; one that is too large is not held.
        """
        if size_bytes > MOST_BYTES:
            return
        if held.request.user_id is not None:
            held = held._replace(request=replace(held.request, user_id=_SOMEBODY))
        self._held[recommendation_id] = held
        if len(self._held) > MOST:
            del self._held[next(iter(self._held))]

    def forget_erased(self, erasures: tuple[int, int]) -> None:
        """Forget all requests where a user was erased since the last call.

        Args:
            erasures: Erasures of the interaction store.
        """
        if erasures != self._erasures:
            self._erasures = erasures
            self._held.clear()

    def again(self, asked: RecommendRequest, keys: str) -> Held:
        """The request that led to the recommendation of `asked.walk`, with the walk and the form that `asked` has.

        Its answer has neither contributions nor the history: who knows the recommendation need not know the user.

        Args:
            asked: A replay, see `is_replay`.
            keys: Fingerprint of the key ring of now.

        Raises:
            RequestError: invalid_request: it is not held, or more than the walk was asked.
        """
        assert asked.walk is not None
        if asked.history or asked.user_id is not None:
            raise _invalid("$.walk.recommendation_id takes the place of history and user_id; leave those out")
        found = self._held.get(asked.walk.recommendation_id)
        if found is None or (found.pseudonym is not None and found.keys != keys):
            raise _invalid(
                f"the request of recommendation {shown(asked.walk.recommendation_id)} is not held: the server holds "
                f"the newest {MOST} since its start, up to {MOST_BYTES:,} bytes each, and none after an erasure or a "
                "rotation of the keys"
            )
        request = replace(found.request, walk=asked.walk, accept=asked.accept, explain=False, traceparent="")
        return found._replace(request=request)


def is_replay(request: RecommendRequest) -> bool:
    """Whether a request asks for the walk of a held one."""
    return request.walk is not None and bool(request.walk.recommendation_id)


def _invalid(text: str) -> RequestError:
    return RequestError(ErrorKind.INVALID_REQUEST, text)
