"""The catalogue of a home in numbers."""

from __future__ import annotations

from pathlib import Path

from recserve_export.catalogue.stats import CatalogueStats, collect_stats
from recserve_export.index.report import read_report
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import current


def cut_texts(home: Path) -> str:
    """How many texts the published snapshot has cut off, in words; empty where it does not say."""
    try:
        return read_report(current(Workspace(home).snapshots)).cut
    except SnapshotError:
        return ""


def catalogue_numbers(home: Path) -> CatalogueStats:
    """Count the home's own catalogue store; raises CatalogueError where that cannot be read."""
    with CatalogueStore(Workspace(home).store) as store:
        return collect_stats(store)
