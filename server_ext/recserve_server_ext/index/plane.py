"""The plane of a snapshot: its item vectors on their first two principal components, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np

from recserve_server_ext.common.arrays import Floats, Vectors
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import reading

#: In the folder of a snapshot.
PLANE: Final = "plane.npz"
#: Vectors that the components are computed from.
_FITTED: Final = 20_000
_SEED: Final = 0


@dataclass(frozen=True, eq=False)
class Plane:
    """Principal components of the text space, and where the items are on them.

    Attributes:
        mean: [dim] mean of the vectors.
        axes: [dim, 2] the first two principal axes.
        kept: Share of the variance along them.
        places: [items, 2] float32 coordinates of the items.
    """

    mean: Floats
    axes: Floats
    kept: float
    places: Floats

    @classmethod
    def fit(cls, vectors: Vectors) -> Plane:
        """Fit the plane to at most 20,000 of the vectors, drawn with a seed.

        Args:
            vectors: [items, dim], items >= 1 and dim >= 2.
        """
        rows = np.sort(np.random.default_rng(_SEED).permutation(len(vectors))[:_FITTED])
        mean, axes, kept = principal_axes(vectors[rows])
        places = vectors @ axes.astype(np.float32) - (mean @ axes).astype(np.float32)
        return cls(mean, axes, kept, places)

    @classmethod
    def load(cls, folder: Path) -> Plane:
        """The plane in the folder of a snapshot; raises SnapshotError where it is missing or damaged."""
        path = folder / PLANE
        try:
            with reading(path, SnapshotError, REBUILD), np.load(path) as found:
                return cls(found["mean"], found["axes"], float(found["kept"]), found["places"])
        except (KeyError, BadZipFile) as error:
            raise SnapshotError(f"{path} is damaged: {error}; {REBUILD}") from None

    def write(self, folder: Path) -> None:
        """Write the plane into the folder of a new snapshot."""
        np.savez(folder / PLANE, mean=self.mean, axes=self.axes, kept=self.kept, places=self.places)

    def project(self, vectors: Floats) -> Floats:
        """Coordinates [n, 2] of vectors [n, dim] of the text space."""
        return (np.asarray(vectors, np.float64) - self.mean) @ self.axes


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
