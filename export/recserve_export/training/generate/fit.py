"""Fits `generate`: the network that reads histories and the decoder, together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from recserve_export.training.generate.decoder import DecoderNetwork
from recserve_export.training.generate.settings import MOST_IN_LEAF, GenerateSettings
from recserve_export.training.sequence.fit import OUT, Earlier, HistoryTraining, moved
from recserve_export.training.sequence.start import start_vectors
from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.networks.decoder import quantised

#: Items that centres are found from, at most.
_SAMPLE: Final = 50_000


class EarlierDecoder(NamedTuple):
    """What was fitted to an earlier part of a log.

    Attributes:
        of_network: The network and the vectors of items as behaviours.
        codebooks: [levels, codes, dim] centres.
        semantic: [items, dim] vectors that were quantised.
        decoder: State of the decoder.
    """

    of_network: Earlier
    codebooks: Vectors
    semantic: Vectors
    decoder: Mapping[str, Any]

    @property
    def items(self) -> Ints:
        """Those with interactions then, ascending."""
        return self.of_network.items

    @property
    def network(self) -> Mapping[str, Any]:
        """State of the network."""
        return self.of_network.network

    @property
    def vectors(self) -> Vectors:
        """[items, dim] vectors of items as behaviours."""
        return self.of_network.vectors


class DecoderTraining(HistoryTraining):
    """The network, the vectors of items as behaviours, and the decoder of their ids.

    Attributes:
        semantic: [items, dim] float32 vectors that are quantised: factors of what stands near in histories.
        codebooks: [levels, codes, dim] float32 centres.
        decoder: The decoder.
    """

    settings: GenerateSettings

    def further_modules(self, earlier: EarlierDecoder | None) -> dict[str, nn.Module]:
        """The decoder, over codes of the first vectors."""
        settings = self.settings
        self.semantic = start_vectors(self.log, self.items, settings.dim, settings.seed)
        if earlier is None:
            self.codebooks = codebooks_of(
                self.semantic, settings.levels_of(len(self.items)), settings.codes, settings.seed
            )
        else:
            self.semantic = moved(self.semantic, self.items, earlier.items, earlier.semantic)
            self.codebooks = earlier.codebooks
        codes = quantised(self.semantic, self.codebooks)
        self._codes, self._leaves = (
            torch.from_numpy(codes),
            torch.from_numpy(leaves_of(codes, self.log.counts[self.items])),
        )
        self._vectors = torch.from_numpy(self.semantic)
        self.decoder = DecoderNetwork(
            torch.from_numpy(self.codebooks), settings.decoder_layers, settings.heads, settings.dropout
        )
        if earlier is not None:
            self.decoder.load_state_dict(earlier.decoder)
        return {"decoder": self.decoder}

    def earlier(self) -> EarlierDecoder:
        """What a training of a longer part of the log goes on from."""
        return EarlierDecoder(super().earlier(), self.codebooks, self.semantic, self.decoder.state_dict())

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean of -log p of the target: of its codes, and of the item among those with these codes."""
        codes = self._codes[target]
        log_probs, leaf = self.decoder(outputs, codes)
        of_codes = log_probs.gather(2, codes[..., None]).sum()
        members = self._leaves[target]
        known = members >= 0
        logits = (self._vectors[members.clamp(min=0)] @ leaf[..., None])[..., 0].masked_fill(~known, OUT)
        own = (self._vectors[target] * leaf).sum(1) - logits.logsumexp(1)
        return -(of_codes + own.sum()) / max(len(target), 1)


def codebooks_of(vectors: Vectors, levels: int, codes: int, seed: int) -> Vectors:
    """[levels, codes, dim] float32 centres by k-means, at each level of what the levels before leave."""
    random = np.random.default_rng(seed)
    rest = vectors if len(vectors) <= _SAMPLE else vectors[random.choice(len(vectors), _SAMPLE, replace=False)]
    rest = rest.astype(np.float32)
    codes = min(codes, len(rest))
    found = np.empty((levels, codes, vectors.shape[1]), np.float32)
    for level in range(levels):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rests than centres are no fault
            found[level] = KMeans(codes, n_init=1, random_state=seed).fit(rest).cluster_centers_
        rest = rest - found[level][quantised(rest, found[level : level + 1])[:, 0]]
    return found


def leaves_of(codes: Ints, counts: Ints) -> Ints:
    """[items, most] items with the same codes as each item, itself among them; -1 where there are no more.

    Of many the most frequent are kept.
    """
    _, leaf, sizes = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    order = np.lexsort([-counts, leaf])
    starts = np.cumsum(sizes) - sizes
    width = min(int(sizes.max()), MOST_IN_LEAF)
    place = starts[:, None] + np.arange(width)
    members = np.where(np.arange(width) < sizes[:, None], order[np.minimum(place, len(order) - 1)], -1)[leaf]
    absent = ~(members == np.arange(len(codes))[:, None]).any(axis=1)
    members[absent, -1] = np.flatnonzero(absent)
    return np.asarray(members)
