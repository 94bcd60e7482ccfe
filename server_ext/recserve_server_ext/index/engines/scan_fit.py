"""The fit of the `scan` engine: two matrices that shorten user and item vectors with the least change of products."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Floats, Vectors
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import reading

FITTED = "fitted.npy"
#: Share of the mean eigenvalue that is added to all, since a few thousand users leave some directions empty.
_LEAST_SHARE = 1e-3
#: Most items that the second moments are taken from, and rows turned into float64 at a time.
_ITEMS = 65_536
_CHUNK = 8192


class Fit(NamedTuple):
    """The matrices that queries and items are multiplied by before coding: (q Q).(v V) is about q.v.

    Attributes:
        queries: Q [dim, rank] float32.
        items: V [dim, rank] float32.
    """

    queries: Vectors
    items: Vectors

    @classmethod
    def to(cls, users: Vectors, vectors: Vectors, *, rank: int, seed: int = 0) -> Fit:
        """The pair of `rank` columns with the least mean of (q.v - (q Q).(v V))^2 over users q and items v.

        With the second moments C_q and C_v that mean is |C_q^1/2 (I - Q V^T) C_v^1/2|^2 (Frobenius). The best Q V^T
        makes C_q^1/2 Q V^T C_v^1/2 the truncated singular value decomposition U S W^T of C_q^1/2 C_v^1/2 (Eckart and
        Young 1936): Q = C_q^-1/2 U S^1/2 R and V = C_v^-1/2 W S^1/2 R with any rotation R. A random rotation makes the
        variances of all dimensions alike, as codes of equal length need.

        Args:
            users: [users, dim] unit float32, at least one; like those that will search.
            vectors: [items, dim] unit float32, at least one.
            rank: Columns, at most dim.
            seed: Seed of the rotation, and of the sample of very many items.
        """
        random = np.random.default_rng(seed)
        if len(vectors) > _ITEMS:
            vectors = vectors[np.sort(random.choice(len(vectors), _ITEMS, replace=False))]
        of_users, inverse_of_users = _roots(users)
        of_items, inverse_of_items = _roots(vectors)
        left, values, right = np.linalg.svd(of_users @ of_items)
        turned = np.sqrt(values[:rank, None]) * np.linalg.qr(random.normal(size=(rank, rank)))[0]
        queries, items = inverse_of_users @ left[:, :rank] @ turned, inverse_of_items @ right[:rank].T @ turned
        return cls(queries.astype(np.float32), items.astype(np.float32))

    @classmethod
    def load(cls, folder: Path, dim: int) -> Fit:
        """Read what `save` wrote, for vectors of length `dim`; raises SnapshotError where it does not fit."""
        path = folder / FITTED
        with reading(path, SnapshotError, REBUILD):
            pair = np.load(path)
        if pair.dtype != np.float32 or pair.ndim != 3 or pair.shape[:2] != (2, dim):
            raise SnapshotError(
                f"{path} holds {pair.dtype} {list(pair.shape)}, not float32 [2, {dim}, rank]; {REBUILD}"
            )
        return cls(*pair)

    @property
    def rank(self) -> int:
        """Length of a shortened vector."""
        return self.queries.shape[1]

    def save(self, folder: Path) -> None:
        """Write both matrices, [2, dim, rank]."""
        np.save(folder / FITTED, np.stack(self))


def _roots(vectors: Vectors) -> tuple[Floats, Floats]:
    """Square root of the second moment [dim, dim] of these vectors, and its inverse."""
    dim = vectors.shape[1]
    moment = np.zeros((dim, dim))
    for start in range(0, len(vectors), _CHUNK):
        chunk = vectors[start : start + _CHUNK].astype(np.float64)
        moment += chunk.T @ chunk
    moment /= len(vectors)
    values, axes = np.linalg.eigh(moment + np.eye(dim) * (_LEAST_SHARE * np.trace(moment) / dim))
    return axes * np.sqrt(values) @ axes.T, axes / np.sqrt(values) @ axes.T
