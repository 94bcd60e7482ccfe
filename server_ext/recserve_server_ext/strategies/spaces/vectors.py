"""The strategy `vectors`: the caller's own item vectors, of images, audio, or another model."""

from __future__ import annotations

from typing import Any

from recserve_client.contract import RequestError
from recserve_server_ext.strategies.base import Data
from recserve_server_ext.strategies.parts.training_needed import not_trained
from recserve_server_ext.strategies.spaces.learned_space import LearnedSpace


class OwnVectors(LearnedSpace):
    """score(i) = u . v_i, u the recency-weighted mean of unit item vectors.

    Its space has the name of the strategy: settings may define several.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.space = name

    def lacking(self, data: Data, options: Any) -> RequestError | None:
        """Needs its space in the index."""
        lacks = super().lacking(data, options) is not None
        return not_trained(self.name, self.space, f"vectors --space {self.space}") if lacks else None
