"""The strategy `transitions`: what follows in histories, by a ridge regression on the decayed history (SLIT).

M. Choi et al., "Session-aware linear item-item models for session-based recommendation", WWW 2021.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from recserve_client.contract import RequestError
from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.index.matrix import Entries
from recserve_server_ext.strategies.base import Data
from recserve_server_ext.strategies.parts.pairs import PairOptions, PairStrategy
from recserve_server_ext.strategies.parts.training_needed import not_trained

NAME = "transitions"


class TransitionsOptions(PairOptions, frozen=True):
    """Options of `transitions`.

    Attributes:
        half_life: Number of the user's newer interactions after which a behaviour counts half as much.
    """

    half_life: Annotated[float, Meta(gt=0, le=1e6)] = 4.0


class Transitions(PairStrategy):
    """score(i) = sum_j w_j W_ji: W the weights of a ridge regression from decayed histories to their next items."""

    Options = TransitionsOptions

    def trainings(self, options: Any) -> frozenset[str]:
        """Its matrix."""
        return frozenset({NAME})

    def lacking(self, data: Data, options: Any) -> RequestError | None:
        """Needs its matrix in the index."""
        return None if NAME in data.view.snapshot.matrices else not_trained(self.name, NAME)

    def pairs(self, data: Data, rows: Rows) -> Entries:
        """The largest weights of the items."""
        return data.view.matrix(NAME).entries(rows)
