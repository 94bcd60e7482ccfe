"""Runs a decoder of semantic ids with onnxruntime, and quantises item vectors into such ids.

The id of an item is its codes, level by level, and then the item itself among those that share all codes. The quantiser
and the form of the decoder are those of D. Lee et al., "Autoregressive image generation using residual quantization",
CVPR 2022.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.networks.network import Decoder
from recserve_server_ext.networks.runner import TILE, session_of

#: Inputs and outputs of a decoder.
USER: Final = "user"
CODES: Final = "codes"
LOG_PROBS: Final = "log_probs"
LEAF: Final = "leaf"
#: Vectors that are quantised, and rows that are decoded, at once.
_AT_ONCE: Final = 8192


class Steps(NamedTuple):
    """What a decoder says about some beginnings of ids.

    Attributes:
        log_probs: [rows, levels asked, codes] log p of each code at a level, given those before it.
        leaf: [rows, dim] its product with an item vector is the logit of that item, given all codes.
    """

    log_probs: Vectors
    leaf: Vectors


class DecoderRunner:
    """A decoder in this process, on one thread; what it says of a row does not depend on the other rows."""

    def __init__(self, decoder: Decoder) -> None:
        """Load a decoder; raises SnapshotError where onnxruntime refuses it."""
        self._session = session_of(decoder.content)

    def __call__(self, users: Vectors, codes: Ints) -> Steps:
        """Run the decoder.

        Args:
            users: [rows, dim] outputs of the network.
            codes: [rows, steps] the codes so far: none for the first level, all of them for `leaf`.
        """
        parts = [self._run(users[at : at + _AT_ONCE], codes[at : at + _AT_ONCE]) for at in _starts(len(users))]
        return parts[0] if len(parts) == 1 else Steps(*(np.concatenate(of) for of in zip(*parts, strict=True)))

    def _run(self, users: Vectors, codes: Ints) -> Steps:
        count = len(users)
        if more := -count % TILE if count else TILE:
            users, codes = (np.concatenate([of, np.zeros((more, of.shape[1]), of.dtype)]) for of in (users, codes))
        found = self._session.run([LOG_PROBS, LEAF], {USER: users, CODES: codes})
        return Steps(*(of[:count] for of in found))


def quantised(vectors: Vectors, codebooks: Vectors) -> Ints:
    """[vectors, levels] codes by residual quantisation: at each level the nearest centre to what is left."""
    found = np.empty((len(vectors), len(codebooks)), np.int64)
    halves = (codebooks**2).sum(axis=2) / 2
    for start in _starts(len(vectors)):
        part = slice(start, start + _AT_ONCE)
        rest = np.array(vectors[part], np.float32)
        for level, centres in enumerate(codebooks):
            nearest = np.argmax(rest @ centres.T - halves[level], axis=1)
            found[part, level] = nearest
            rest -= centres[nearest]
    return found


def _starts(count: int) -> range:
    return range(0, max(count, 1), _AT_ONCE)
