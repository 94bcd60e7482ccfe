"""The inverted lists of the `scan` engine: k-means of the fitted items, probed in the order of what they may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import faiss
import numpy as np

from recserve_server_ext.common.arrays import Rows, Scores, Vectors
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import reading

SPREADS = "spreads.npy"
#: Standard deviations above the mean at which lists are compared: docs/decisions/069-lists-of-a-million.md.
_ABOVE: Final = 1.5
#: Items that k-means is trained on, for each list and at least, and its rounds.
_TRAINING_PER_LIST: Final = 64
_LEAST_TRAINING: Final = 65_536
_ROUNDS: Final = 10


class Lists(NamedTuple):
    """Means of the lists, and how far the scores of their items spread about that of the mean.

    Attributes:
        means: [lists, rank] float32 means of fitted items.
        spreads: [lists] float32 standard deviation of a user's score over the items of a list.
    """

    means: Vectors
    spreads: Scores

    @classmethod
    def of(cls, items: Vectors, lists: int, seed: int = 0) -> Lists:
        """Lists of near items, by Euclidean distance.

        The fit gives users and items the same second moment M. So a user's score of an item that lies r from the mean
        of its list differs from that of the mean by a variance of r M r^T.

        Args:
            items: [items, rank] fitted float32, see `training`; at least as many as lists.
            lists: Number of lists.
            seed: Seed of k-means.
        """
        means = faiss.Kmeans(
            items.shape[1],
            lists,
            niter=_ROUNDS,
            seed=seed,
            min_points_per_centroid=1,
            max_points_per_centroid=len(items),
        )
        means.train(items)
        moment = items.T @ items / len(items)
        of = means.assign(items)[1]
        apart = items - means.centroids[of]
        variances = np.einsum("ir,ir->i", apart @ moment, apart)
        counts = np.maximum(1, np.bincount(of, minlength=lists))
        spreads = np.sqrt(np.bincount(of, variances.clip(0), lists) / counts)
        return cls(means.centroids, spreads.astype(np.float32))

    @classmethod
    def load(cls, folder: Path, means: Vectors) -> Lists:
        """Read what `save` wrote beside these means; raises SnapshotError where it does not fit."""
        path = folder / SPREADS
        with reading(path, SnapshotError, REBUILD):
            spreads = np.load(path)
        if spreads.dtype != np.float32 or spreads.shape != means.shape[:1]:
            raise SnapshotError(
                f"{path} holds {spreads.dtype} {list(spreads.shape)}, not float32 [{len(means)}]; {REBUILD}"
            )
        return cls(means, spreads)

    def save(self, folder: Path) -> None:
        """Write the spreads; the means are written with the codes."""
        np.save(folder / SPREADS, self.spreads)

    def probed(self, queries: Vectors, nprobe: int) -> Rows:
        """[n, nprobe] int64 lists to look into, in no order: those whose better items score highest.

        Args:
            queries: [n, rank] fitted float32.
            nprobe: Lists of each query, at most all.
        """
        scores = queries @ self.means.T
        scores += _ABOVE * self.spreads
        return scores.argpartition(len(self.means) - nprobe, axis=1)[:, -nprobe:]


def training(items: int, lists: int, seed: int = 0) -> Rows:
    """Rows of the items that so many lists are trained on, a random part of very many."""
    count = max(_LEAST_TRAINING, _TRAINING_PER_LIST * lists)
    return np.sort(np.random.default_rng(seed).permutation(items)[:count])
