"""Many requests at once: the part that both clients share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from recserve_client import calls
from recserve_client.calls import Call
from recserve_client.contract import RecommendRequest, Slate

T = TypeVar("T")
#: Requests on their way at a time; Triton makes batches of them.
AT_ONCE: Final = 64


def steps(
    requests: Sequence[RecommendRequest], deadline_s: float | None, run: Callable[[Call[Slate]], T]
) -> list[Callable[[], T]]:
    """What to do for each request, not begun: packing comes with it, so what cannot be packed fails alone."""

    def step(message: RecommendRequest) -> Callable[[], T]:
        return lambda: run(calls.request(message, deadline_s=deadline_s))

    return [step(message) for message in requests]
