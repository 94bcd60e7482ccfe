"""Settings of the training `generate`."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from recserve_export.training.sequence.settings import HistoryNetworkSettings

#: Items with the same codes that the loss tells apart.
MOST_IN_LEAF: Final = 64
#: Items that share an id in the mean, at most.
_SHARED: Final = 8


class GenerateSettings(HistoryNetworkSettings, frozen=True):
    """Settings of `generate`: those of the network that reads histories, and of what generates ids.

    Attributes:
        levels: Codes of an id; with 0 so many that at most eight items share one in the mean.
        codes: Centres of a level; fewer where there are fewer items.
        decoder_layers: Transformer layers over the codes.
    """

    levels: Annotated[int, Meta(ge=0, le=6)] = 0
    codes: Annotated[int, Meta(ge=2, le=1024)] = 64
    decoder_layers: Annotated[int, Meta(ge=1, le=4)] = 1

    def levels_of(self, items: int) -> int:
        """Codes of an id in a catalogue of so many items."""
        found = 1
        while items > _SHARED * self.codes**found:
            found += 1
        return self.levels or found
