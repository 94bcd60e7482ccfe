"""What a training was judged to be, as the manifest of its version keeps it."""

from __future__ import annotations

import msgspec


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a training serves.

    Attributes:
        serves: Whether it takes the place of what serves now.
        why: The reason.
        champion: Version that served before; empty without one.
        since_us: Where the newest slice begins, in microseconds since 1970; 0 where nothing was judged.
        users: Users of the slice who were asked.
        ndcg: NDCG@10 of this training on the slice.
        champion_ndcg: That of the version before.
        low: Lower end of the 95% interval of the difference, by a paired bootstrap over users.
        high: Upper end of that interval.
    """

    serves: bool
    why: str
    champion: str = ""
    since_us: int = 0
    users: int = 0
    ndcg: float = 0.0
    champion_ndcg: float = 0.0
    low: float = 0.0
    high: float = 0.0
