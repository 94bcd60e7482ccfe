"""A map of the catalogue: the plane of the published snapshot, with its items, and a user with a slate on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from recserve_server_ext.common.arrays import Floats, Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.fields import ItemFields, read_table
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.plane import Plane
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import FIELDS, IDS
from recserve_server_ext.index.space import VECTORS, map_array, space_folder

#: Items that are drawn.
_DRAWN: Final = 3000
_SEED: Final = 0


@dataclass(frozen=True)
class CatalogueMap:
    """Items of a snapshot in the plane.

    Attributes:
        items: Number of its items.
        ids: Ids of the drawn items, a random sample where there are many.
        places: [drawn, 2] their coordinates.
        fields: Fields of each.
        kept: Share of the variance that the plane keeps.
    """

    items: int
    ids: list[str]
    places: Floats
    fields: list[dict[str, Any]]
    kept: float


@dataclass(frozen=True)
class UserPlaces:
    """A user and a slate in the plane; NaN where the snapshot lacks an item.

    Attributes:
        behaviours: [behaviours, 2] coordinates of the behaviours.
        items: [items, 2] coordinates of the recommended items.
        user: [2] coordinates of the user vector.
    """

    behaviours: Floats
    items: Floats
    user: Floats


def catalogue_map(home: Path, names: list[str]) -> CatalogueMap:
    """Draw the published snapshot of a home.

    Args:
        home: The home.
        names: Fields of the items to read.

    Raises:
        SnapshotError: There is no snapshot, or it is damaged.
    """
    folder = current(Workspace(home).snapshots)
    manifest, plane = read_manifest(folder, verify=False), Plane.load(folder)
    drawn = np.sort(np.random.default_rng(_SEED).permutation(manifest.items)[:_DRAWN])
    ids = read_table(folder / IDS)["id"].take(drawn).to_pylist()
    fields = ItemFields.load(folder / FIELDS).take(names, drawn)
    return CatalogueMap(manifest.items, ids, plane.places[drawn], fields, plane.kept)


def user_places(
    home: Path, behaviours: Sequence[str | Vectors], weights: Sequence[float], items: Sequence[str]
) -> UserPlaces:
    """Where a user and a slate are in the plane of the published snapshot.

    Args:
        home: The home.
        behaviours: Item id of each behaviour, or the vector [dim] of its text.
        weights: Their weights.
        items: Ids of the recommended items.

    Raises:
        SnapshotError: There is no snapshot, or it is damaged.
    """
    folder = current(Workspace(home).snapshots)
    manifest, plane = read_manifest(folder, verify=False), Plane.load(folder)
    vectors = map_array(space_folder(folder) / VECTORS, (manifest.items, manifest.text.dim))
    wanted = {one for one in (*behaviours, *items) if isinstance(one, str)}
    ids = read_table(folder / IDS)["id"].to_pylist()
    row_of = {item: row for row, item in enumerate(ids) if item in wanted}
    missing = np.full(vectors.shape[1], np.nan)

    def vector_of(one: str | Vectors) -> Floats:
        if not isinstance(one, str):
            return np.asarray(one, np.float64)
        return vectors[row_of[one]].astype(np.float64) if one in row_of else missing

    own = np.array([vector_of(one) for one in behaviours]).reshape(-1, vectors.shape[1])
    mean = (np.asarray(weights)[:, None] * np.nan_to_num(own)).sum(axis=0)
    length = float(np.linalg.norm(mean))
    user = plane.project(mean / length) if length else np.full(2, np.nan)
    recommended = np.array([vector_of(one) for one in items]).reshape(-1, vectors.shape[1])
    return UserPlaces(plane.project(own), plane.project(recommended), user)
