"""Exploration: some of the last places of a slate go to other candidates, with known probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_client.contract import Explore
from recserve_server_ext.event_columns import Floats, Ints


class Explored(NamedTuple):
    """A slate after exploration.

    Attributes:
        picks: [places] places in the ranking.
        drawn: [places] whether the item was drawn.
        propensity: [places] the probability that this place shows this item.
    """

    picks: Ints
    drawn: NDArray[np.bool_]
    propensity: Floats


def explored(explore: Explore, length: int, k: int, fixed: NDArray[np.bool_]) -> Explored:
    """Draw which places explore and what they show.

    A place that may explore shows its own item with the probability 1 - epsilon, and each one of the n candidates after
    the slate with epsilon / n: draws are without replacement, and any candidate is as likely as another in any place.

    Args:
        explore: How.
        length: Items of the ranking: the slate, then the candidates.
        k: Items of the slate.
        fixed: [length] what must keep its place and is not drawn.
    """
    places = min(k, length)
    picks = np.arange(places)
    pool = np.arange(places, length)
    pool = pool[~fixed[pool]]
    may = np.zeros(places, np.bool_)
    may[places - min(int(explore.at_most * k), len(pool), places) :] = True
    may &= ~fixed[:places]
    drawn = np.zeros(places, np.bool_)
    propensity = np.ones(places)
    if may.any():
        rng = np.random.default_rng(explore.seed)
        drawn = may & (rng.random(places) < explore.epsilon)
        picks[drawn] = rng.permutation(pool)[: int(drawn.sum())]
        propensity[may] = 1.0 - explore.epsilon
        propensity[drawn] = explore.epsilon / len(pool)
    return Explored(picks, drawn, propensity)
