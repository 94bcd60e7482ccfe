"""The refusal of a strategy that has not been trained."""

from __future__ import annotations

from recserve_client.contract import ErrorKind, RequestError


def not_trained(strategy: str, training: str, arguments: str = "") -> RequestError:
    """Says what to run: `recserve train` with the name of the training, or with other arguments."""
    return RequestError(
        ErrorKind.UNAVAILABLE,
        f"the strategy {strategy!r} needs the space {training!r}, which the index does not have; run: "
        f"recserve train {arguments or training}",
    )
