"""How a client connects, waits and tries again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """How a client connects, waits and tries again.

    Attributes:
        deadline_s: For one call with all its tries, unless the call has its own.
        tries: Most tries of one call. Only UNAVAILABLE is tried again: calls read, or carry an id under which the
            server makes a change once.
        pause_s: Longest pause before the second try; it doubles with every further one. The actual pause is drawn
            evenly between nothing and that (full jitter), so that callers do not come back together.
        keepalive_s: A silent connection is asked for life after so long.
        max_message_bytes: Of a request and of an answer.
        credentials: For TLS; none = plain text.
        seed: Of the jitter; none = from the system.
    """

    deadline_s: float = 5.0
    tries: int = 4
    pause_s: float = 0.05
    keepalive_s: float = 30.0
    max_message_bytes: int = 64 * 1024 * 1024
    credentials: grpc.ChannelCredentials | None = None
    seed: int | None = None
    _random: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.deadline_s <= 0 or self.tries < 1 or self.pause_s < 0:
            raise ValueError(
                f"deadline_s={self.deadline_s}, tries={self.tries}, pause_s={self.pause_s}: "
                "the deadline must be positive, tries at least 1, the pause not negative"
            )
        object.__setattr__(self, "_random", random.Random(self.seed))

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
            # A server that was away is looked for again soon: by default gRPC waits 1 s at first (longer than all
            # tries together, which then fail without looking) and up to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
