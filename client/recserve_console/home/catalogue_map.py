"""A map of the catalogue: item vectors of the published snapshot on their first two principal components."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from recserve_server_ext.common.arrays import Floats, Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.fields import ItemFields, read_table
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.snapshot import FIELDS, IDS, current
from recserve_server_ext.index.space import VECTORS, map_array, space_folder

#: Items that are drawn, and items that the components are computed from.
_DRAWN: Final = 3000
_FITTED: Final = 20_000
_SEED: Final = 0


@dataclass(frozen=True)
class CatalogueMap:
    """Items of a snapshot in the plane.

    Attributes:
        snapshot: Name of the snapshot.
        items: Number of its items.
        ids: Ids of the drawn items, a random sample where there are many.
        places: [drawn, 2] their coordinates.
        fields: Fields of each.
        kept: Share of the variance that the plane keeps.
    """

    snapshot: str
    items: int
    ids: list[str]
    places: Floats
    fields: list[dict[str, Any]]
    kept: float


def catalogue_map(home: Path, names: list[str]) -> CatalogueMap:
    """Draw the published snapshot of a home.

    Args:
        home: The home.
        names: Fields of the items to read.

    Raises:
        SnapshotError: There is no snapshot, or it is damaged.
    """
    folder = current(Workspace(home).snapshots)
    manifest = read_manifest(folder, verify=False)
    vectors = map_array(space_folder(folder) / VECTORS, (manifest.items, manifest.text.dim))
    random = np.random.default_rng(_SEED)
    fitted, drawn = (np.sort(random.permutation(manifest.items)[:count]) for count in (_FITTED, _DRAWN))
    mean, axes, kept = principal_axes(vectors[fitted])
    ids = read_table(folder / IDS)["id"].take(drawn).to_pylist()
    fields = ItemFields.load(folder / FIELDS).take(names, drawn)
    return CatalogueMap(folder.name, manifest.items, ids, (vectors[drawn] - mean) @ axes, fields, kept)


def principal_axes(vectors: Vectors) -> tuple[Floats, Floats, float]:
    """The mean [dim], the first two principal axes [dim, 2], and the share of the variance along them.

    Args:
        vectors: [n, dim], n >= 1 and dim >= 2.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    variances, axes = np.linalg.eigh(centred.T @ centred)
    first = axes[:, [-1, -2]]
    # The sign of an axis is arbitrary: the same catalogue is to look the same.
    first = first * np.where(first[np.abs(first).argmax(axis=0), [0, 1]] < 0, -1, 1)
    total = float(variances.sum())
    return mean, first, float(variances[-2:].sum()) / total if total else 1.0
