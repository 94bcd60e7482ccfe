"""The catalogue of a home in numbers."""

from __future__ import annotations

from pathlib import Path

from recserve_export.catalogue.stats import CatalogueStats, collect_stats
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace


def catalogue_numbers(home: Path) -> CatalogueStats:
    """Count the home's own catalogue store; raises CatalogueError where that cannot be read."""
    with CatalogueStore(Workspace(home).store) as store:
        return collect_stats(store)
