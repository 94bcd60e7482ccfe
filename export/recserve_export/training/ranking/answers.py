"""Logged answers as something to learn from: what was shown, with which probability, and what was clicked.

Of an answer only the items down to its last click count: what is below may not have been looked at. T. Joachims et al.,
"Accurately interpreting clickthrough data as implicit feedback", SIGIR 2005 ("skip above"). What was drawn by
exploration counts by the inverse of its probability: T. Joachims, A. Swaminathan and T. Schnabel, "Unbiased
learning-to-rank with biased feedback", WSDM 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
import sqlalchemy as sa

from recserve_export.outcomes.outcomes import OutcomeRules, join
from recserve_server_ext.common.arrays import Floats, Ints, Mask
from recserve_server_ext.interactions.tables import answers

#: The newest answers that are looked at, and those of them with a click that are kept.
_LOOKED_AT: Final = 200_000
MOST_ANSWERS: Final = 20_000
_CHUNK: Final = 500


class Answers(NamedTuple):
    """Answers to users by id with a click and something skipped above it, oldest first.

    Attributes:
        user: [answers] number of the user in the log.
        time_us: [answers] microseconds since 1970.
        offsets: [answers + 1] where the items of each begin.
        item: [shown] position among the items of the log, best first, down to the last click.
        propensity: [shown] probability that the item was in its place.
        clicked: [shown] whether it was clicked.
    """

    user: Ints
    time_us: Ints
    offsets: Ints
    item: Ints
    propensity: Floats
    clicked: Mask

    def between(self, start_us: int, end_us: int) -> Answers:
        """Those of a span of time."""
        first, end = np.searchsorted(self.time_us, [start_us, end_us]).tolist()
        offsets = self.offsets[first : end + 1]
        shown = slice(int(offsets[0]), int(offsets[-1]))
        return Answers(
            self.user[first:end], self.time_us[first:end], offsets - offsets[0], self.item[shown],
            self.propensity[shown], self.clicked[shown],
        )  # fmt: skip


def answers_from(rows: Sequence[tuple[int, int, Ints, Floats, Mask]]) -> Answers:
    """Answers from user, time, items, propensities and clicks of each; those that tell nothing are left out."""
    kept = []
    for user, time_us, item, propensity, clicked in sorted(rows, key=lambda row: row[1]):
        seen = int(np.flatnonzero(clicked)[-1]) + 1 if clicked.any() else 0
        known = np.flatnonzero(item[:seen] >= 0)
        if len(known) and clicked[known].any() and not clicked[known].all():
            kept.append((user, time_us, item[known], propensity[known], clicked[known]))
    lengths = [len(item) for _, _, item, _, _ in kept]
    none = np.empty(0)
    return Answers(
        np.array([row[0] for row in kept], np.int64),
        np.array([row[1] for row in kept], np.int64),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([none, *(row[2] for row in kept)]).astype(np.int64),
        np.concatenate([none, *(row[3] for row in kept)]),
        np.concatenate([none, *(row[4] for row in kept)]).astype(np.bool_),
    )


def read_answers(connection: sa.Connection, users: Ints, items: Sequence[str]) -> Answers:
    """The newest answers of a store that something can be learned from, at most 20,000.

    Args:
        connection: To the interaction store.
        users: [users] number in the store of each user of the log, ascending.
        items: Ids of the items of the log; others are left out of the answers.

    Raises:
        ExportError: There are too many outcomes to join.
        InteractionError: The store cannot be read.
    """
    newest = sa.select(answers.c.time_us).order_by(answers.c.number.desc())
    start_us = connection.execute(newest.offset(_LOOKED_AT).limit(1)).scalar() or 0
    of = join(connection, OutcomeRules(start_us=start_us)).of
    clicked = {
        answered.number: [place for place, outcome in places.items() if outcome.clicked]
        for answered, places in of.items()
        if answered.user is not None
    }
    numbers = sorted(number for number, places in clicked.items() if places)[-MOST_ANSWERS:]
    place_of, user_of = ({name: place for place, name in enumerate(names)} for names in (items, users.tolist()))
    columns = [answers.c[name] for name in ("number", "user", "time_us", "recommended", "propensities")]
    rows = []
    for start in range(0, len(numbers), _CHUNK):
        query = sa.select(*columns).where(answers.c.number.in_(numbers[start : start + _CHUNK]))
        for number, user, time_us, recommended, propensities in connection.execute(query):
            if user in user_of:
                shown: list[str] = msgspec.json.decode(recommended)
                item = np.array([place_of.get(name, -1) for name in shown], np.int64)
                known: list[float] = [1.0] * len(shown) if propensities is None else msgspec.json.decode(propensities)
                is_clicked = np.zeros(len(shown), np.bool_)
                is_clicked[clicked[number]] = True
                rows.append((user_of[user], time_us, item, np.array(known), is_clicked))
    return answers_from(rows)


def inverse_weights(propensity: Floats, clip: float) -> Floats:
    """[shown] inverse propensities up to a bound, scaled to a mean of 1."""
    weights = np.minimum(1.0 / np.maximum(propensity, 1e-9), clip)
    scaled: Floats = weights / weights.mean() if len(weights) else weights
    return scaled
