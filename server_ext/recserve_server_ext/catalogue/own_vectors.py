"""Vectors that come with items, for spaces of the caller's own: checked, stored, and which of them count."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import sqlalchemy as sa

from recserve_client.contract import nearest, shown
from recserve_server_ext.catalogue.tables import items, own_vectors
from recserve_server_ext.common.arrays import Vectors

_CHUNK: Final = 1000


class OwnSpace(NamedTuple):
    """A space of the caller's own in the published index.

    Attributes:
        dim: Length of a vector.
        version: Version of the trained space.
    """

    dim: int
    version: str


class OwnVector(NamedTuple):
    """A vector that came with an item.

    Attributes:
        version: Version of the space that was published then.
        packed: The vector, of unit length, as little-endian float32.
    """

    version: str
    packed: bytes

    @property
    def vector(self) -> Vectors:
        """[dim] float32."""
        return np.frombuffer(self.packed, "<f4")

    def is_of(self, dim: int) -> bool:
        """Whether it has this length."""
        return len(self.packed) == 4 * dim

    def counts(self, space: OwnSpace, has_another: bool) -> bool:
        """Whether a version of its space takes it: of its length, and not older than a vector that the version has."""
        return self.is_of(space.dim) and (not has_another or self.version >= space.version)


#: Vectors of an item by the name of their space.
OwnVectors = Mapping[str, OwnVector]


def checked(vectors: Mapping[str, Sequence[float]], spaces: Callable[[], Mapping[str, OwnSpace]]) -> OwnVectors:
    """The vectors of an item as they are stored.

    Args:
        vectors: Numbers by the name of the space.
        spaces: Gives the spaces of the caller's own, by name; called where there is any vector.

    Raises:
        ValueError: There is no such space, or it cannot take the vector.
    """
    found = {}
    for name, values in vectors.items():
        if (space := spaces().get(name)) is None:
            raise ValueError(
                f"$.vectors has {shown(name)}, which is no space of your own in the published index"
                f"{nearest(name, tuple(spaces()))}; make it with: recserve train vectors --space NAME --from FILE"
            )
        if len(values) != space.dim:
            raise ValueError(f"$.vectors.{name} has {len(values):,} numbers, the space has {space.dim:,}")
        vector = np.array(values, np.float64)
        with np.errstate(over="ignore"):
            length = np.linalg.norm(vector)
        if not np.isfinite(length) or not length:
            raise ValueError(f"$.vectors.{name} is of length {length:g}, which cannot be scaled to 1")
        found[name] = OwnVector(space.version, (vector / length).astype("<f4").tobytes())
    return found


def warn_of_others(log: logging.Logger, name: str, dim: int, own: Iterable[OwnVector]) -> None:
    """Log how many vectors that came with items have another length than those of their space."""
    if others := sum(not one.is_of(dim) for one in own):
        log.warning(
            "%d vectors of items have other lengths than %d, that of the space %r; upsert them again", others, dim, name
        )


def own_of(connection: sa.Connection, ids: Sequence[str]) -> dict[str, dict[str, OwnVector]]:
    """The vectors of some items, by id and space."""
    found: dict[str, dict[str, OwnVector]] = {}
    for start in range(0, len(ids), _CHUNK):
        found |= _selected(connection, own_vectors.c.id.in_(ids[start : start + _CHUNK]))
    return found


def own_since(connection: sa.Connection, revision: int) -> dict[str, dict[str, OwnVector]]:
    """The vectors of items that changed after a revision, by id and space."""
    return _selected(connection, own_vectors.c.id.in_(sa.select(items.c.id).where(items.c.revision > revision)))


def own_in(connection: sa.Connection, spaces: Sequence[str]) -> dict[str, dict[str, OwnVector]]:
    """All vectors in some spaces, by space and id."""
    query = sa.select(own_vectors).where(own_vectors.c.space.in_(spaces))
    found: dict[str, dict[str, OwnVector]] = defaultdict(dict)
    for row in connection.execute(query):
        found[row.space][row.id] = OwnVector(row.version, row.vector)
    return dict(found)


def write_own(connection: sa.Connection, new: Mapping[str, OwnVectors]) -> None:
    """Store vectors, by id and space, in place of those that the items had in these spaces."""
    rows = [
        {"id": item, "space": space, "version": own.version, "vector": own.packed}
        for item, of in new.items()
        for space, own in of.items()
    ]
    if rows:
        same = sa.and_(own_vectors.c.id == sa.bindparam("of_id"), own_vectors.c.space == sa.bindparam("of_space"))
        places = [{"of_id": row["id"], "of_space": row["space"]} for row in rows]
        connection.execute(sa.delete(own_vectors).where(same), places)
        connection.execute(sa.insert(own_vectors), rows)


def _selected(connection: sa.Connection, which: sa.ColumnElement[bool]) -> dict[str, dict[str, OwnVector]]:
    found: dict[str, dict[str, OwnVector]] = defaultdict(dict)
    for row in connection.execute(sa.select(own_vectors).where(which)):
        found[row.id][row.space] = OwnVector(row.version, row.vector)
    return dict(found)
