"""The spaces of the caller's own in the published index, which take vectors of items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from recserve_server_ext.catalogue.own_vectors import OwnSpace
from recserve_server_ext.common.errors import CatalogueError, SnapshotError
from recserve_server_ext.common.files import changed_at
from recserve_server_ext.config.server import ModelSettings
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.pointers import CURRENT, current

#: Kind of the strategies of such spaces, and the name of the one that is always there.
_KIND: Final = "vectors"


def own_spaces(settings: ModelSettings) -> Callable[[], Mapping[str, OwnSpace]]:
    """A function that gives them by name, and reads them again when an index is published.

    It raises CatalogueError where the published index cannot be read.
    """
    strategies = {_KIND: {}, **settings.serve.strategies}
    names = {name for name, given in strategies.items() if given.get("kind", name) == _KIND}
    snapshots = Path(settings.snapshots)

    @lru_cache(maxsize=1)
    def read(_published: int) -> Mapping[str, OwnSpace]:
        try:
            spaces = read_manifest(current(snapshots), verify=False).spaces
        except SnapshotError as error:
            raise CatalogueError(str(error)) from error
        return {name: OwnSpace(of.dim, of.version) for name, of in spaces.items() if name in names}

    return lambda: read(changed_at(snapshots / CURRENT))
