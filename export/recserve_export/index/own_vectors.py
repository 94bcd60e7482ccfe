"""Vectors that came with items, put into the spaces of the caller's own of a new snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recserve_server_ext.catalogue.own_vectors import OwnSpace, OwnVector, OwnVectors
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.arrays import Rows, Vectors


class Joined(NamedTuple):
    """Vectors of a space with those that came with items.

    Attributes:
        vectors: [known, dim] float32.
        rows: [known] row of each; -1 for an item that is gone.
        upserted: Rows of those that came with items.
    """

    vectors: Vectors
    rows: Rows
    upserted: Rows


def own_vectors_at(place: Path | str, source: str, spaces: Sequence[str]) -> Mapping[str, OwnVectors]:
    """What came with the items of a catalogue store for some spaces, by space and item id.

    Nothing where there is no such file, or it is of another catalogue than `source`. Raises CatalogueError.
    """
    if isinstance(place, Path) and not place.is_file():
        return {}
    with CatalogueStore(place) as store:
        return store.own_vectors(spaces) if store.identity == source else {}


def joined(
    vectors: Vectors, rows: Rows, version: str, own: Mapping[str, OwnVector], row_of: Mapping[str, int]
) -> Joined:
    """The vectors of a version of a space, and in their places or after them those that came with items.

    Args:
        vectors: [known, dim] float32 of the version.
        rows: [known] row of each; -1 for an item that is gone.
        version: Name of the version.
        own: What came with items, by id.
        row_of: Row of each item id.
    """
    space, known = OwnSpace(vectors.shape[1], version), frozenset(rows.tolist())
    found = {
        row: one.vector
        for item, one in own.items()
        if (row := row_of.get(item, -1)) >= 0 and one.counts(space, row in known)
    }
    if not found:
        return Joined(vectors, rows, np.empty(0, np.int64))
    upserted = np.fromiter(found, np.int64, len(found))
    kept = ~np.isin(rows, upserted)
    return Joined(
        np.concatenate([vectors[kept], np.stack(list(found.values()))]),
        np.concatenate([rows[kept], upserted]),
        upserted,
    )
