"""Which interactions name an item of the catalogue."""

from __future__ import annotations

from itertools import islice
from typing import Final

import msgspec

from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.interactions.store import InteractionStore

_CHUNK: Final = 1000
_EXAMPLES: Final = 3


class Fit(msgspec.Struct, frozen=True):
    """How a log fits a catalogue.

    Attributes:
        interactions: Interactions that name an item.
        known: Those whose item the catalogue has.
        items: Items of the catalogue.
        unknown_ids: Some ids of the log that the catalogue lacks.
        catalogue_ids: Some ids of the catalogue.
    """

    interactions: int
    known: int
    items: int
    unknown_ids: list[str]
    catalogue_ids: list[str]

    @property
    def is_disjoint(self) -> bool:
        """Whether there are interactions and items, and none fits."""
        return self.interactions > 0 and self.items > 0 and self.known == 0

    @property
    def said(self) -> str:
        """The share in a line, with ids of both sides where something does not fit."""
        unknown = self.interactions - self.known
        share = self.known / max(self.interactions, 1)
        line = f"{share:.1%} of {self.interactions:,} interactions name an item of the catalogue"
        if not unknown:
            return line
        line += f"; {unknown:,} do not (first: {', '.join(map(repr, self.unknown_ids))})"
        if self.is_disjoint:
            line += f"; ids of the catalogue: {', '.join(map(repr, self.catalogue_ids))}"
        return line


def fit_of(log: InteractionStore, catalogue: CatalogueStore) -> Fit:
    """Count the interactions whose item the catalogue has; reads the whole log, and holds little of it.

    Raises:
        InteractionError: The log cannot be read.
        CatalogueError: The catalogue cannot be read.
    """
    interactions = known = 0
    unknown: list[str] = []
    with log.item_counts() as counts:
        while chunk := list(islice(counts, _CHUNK)):
            found = catalogue.known([item for item, _ in chunk])
            interactions += sum(count for _, count in chunk)
            known += sum(count for item, count in chunk if item in found)
            if len(unknown) < _EXAMPLES:
                unknown += [item for item, _ in chunk if item not in found]
    examples = [item.id for item in islice(catalogue.items(_EXAMPLES), _EXAMPLES)]
    return Fit(interactions, known, catalogue.count(), unknown[:_EXAMPLES], examples)
