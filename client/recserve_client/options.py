"""Options of a client: deadline, retries and connection."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Deadline, retries and connection of a client.

    Attributes:
        deadline_s: Seconds for a call with all its tries, unless the call has its own deadline.
        tries: Most tries of a call. Only UNAVAILABLE is retried: calls only read, or have an id that makes a repeated
            change safe.
        retry_share: Most retries for each call, over all calls of the client, beyond the first ten. So a server with
            too much to do gets at most this share of load in addition.
        pause_s: Longest pause before the second try; it doubles before each further one. The actual pause is drawn
            uniformly from 0 to this length (full jitter), so that callers do not retry at the same time.
        keepalive_s: Idle time in seconds after which the connection is probed.
        max_message_bytes: Largest request or answer.
        seed: Seed of the jitter; `None` for one from the system.
    """

    deadline_s: float = 5.0
    tries: int = 4
    retry_share: float = 0.1
    pause_s: float = 0.05
    keepalive_s: float = 30.0
    max_message_bytes: int = 64 * 1024 * 1024
    seed: int | None = None
    _random: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.deadline_s <= 0 or self.tries < 1 or self.pause_s < 0:
            raise ValueError(
                f"deadline_s={self.deadline_s}, tries={self.tries}, pause_s={self.pause_s}: "
                "the deadline must be positive, tries at least 1, the pause not negative"
            )
        if self.retry_share < 0:
            raise ValueError(f"retry_share={self.retry_share}: the share of retries must not be negative")
        object.__setattr__(self, "_random", random.Random(self.seed))

    def pause_after(self, retry_after_s: float) -> float:
        """A pause of at least this length, and at most twice it: callers that were refused together come back apart."""
        return retry_after_s * (1 + self._random.random())

    def pauses(self) -> Iterator[float]:
        """The pause before each try after the first."""
        for number in range(self.tries - 1):
            yield self._random.uniform(0, self.pause_s * 2**number)

    def channel(self) -> list[tuple[str, int]]:
        """Options of the gRPC channel."""
        return [
            ("grpc.keepalive_time_ms", int(self.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            # Reconnect soon. By default gRPC waits 1 s at first, longer than all tries together, and up to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
