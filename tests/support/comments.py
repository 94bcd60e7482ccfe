"""Comments whose words tell what their user thinks, and a classifier that is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.history.sentiment import NAME, Sentiment
from recserve_server_ext.index.model import Model
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.interactions.interaction import Interaction
from support.events import NOW, PSEUDONYMS, event

GOOD, BAD, NOTHING = "good", "bad", "nothing"


def given_sentiment(vector_of: Callable[[str], NDArray[np.float32]]) -> Sentiment:
    """Is certain of `GOOD` and of `BAD`, and says of `NOTHING` that it could be either."""
    vectors = np.stack([vector_of(text) for text in (GOOD, BAD, NOTHING)]).astype(np.float64)
    slope = np.linalg.lstsq(vectors, np.array([50.0, -50.0, 0.0]), rcond=None)[0]
    return Sentiment(slope, 0.0, (2.0, -1.0))


def with_sentiment(snapshot: Snapshot, sentiment: Sentiment) -> Snapshot:
    """The snapshot with a classifier of comments."""
    return replace(snapshot, models={NAME: Model(sentiment.arrays())})


def rated_events(
    items: list[str], good: list[str], bad: list[str], users: int = 60, each: int = 6
) -> list[Interaction]:
    """What users rated and said: high with good words, low with bad ones."""
    random = np.random.default_rng(0)
    found = []
    for user in range(users):
        for n, item in enumerate(random.choice(len(items), each, replace=False).tolist()):
            is_good = bool(random.random() < 0.6)
            words = random.choice(good if is_good else bad, 3).tolist()
            value = float(random.integers(4, 6) if is_good else random.integers(1, 3))
            found.append(
                event(
                    PSEUDONYMS.of(f"user{user}"),
                    items[item],
                    type="rating",
                    value=value,
                    text=" ".join(words),
                    timestamp=NOW - 86_400.0 + 60.0 * n + user,
                )
            )
    return found
