"""Encoder requests (ids and mask) -> vectors: checked one by one, then run together. No Triton here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.encoder.text_encoder import TextEncoder, TokenTable


class EncoderModel:
    """The embedded encoder behind the model `encoder`."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._vocabulary = encoder.tokenizer.vocabulary

    def check(self, ids: Ints, mask: Ints) -> NDArray[np.int64]:
        """Check the tensors of one request, [texts, width] each.

        Returns:
            [texts] number of tokens.

        Raises:
            RequestError: wrong_tensor: an id outside the vocabulary, an empty text, or a mask that is not ones and
                then zeros.
        """
        lengths: NDArray[np.int64] = np.count_nonzero(mask, axis=1)
        if not np.array_equal(mask, np.arange(mask.shape[1]) < lengths[:, None]):
            raise RequestError(ErrorKind.WRONG_TENSOR, "attention_mask must be ones and then zeros in every row")
        if not lengths.all():
            row = int(np.flatnonzero(lengths == 0)[0])
            raise RequestError(ErrorKind.WRONG_TENSOR, f"row {row} of attention_mask is all zeros: it has no token")
        if ids.min() < 0 or ids.max() >= self._vocabulary:
            wrong = int(ids.min() if ids.min() < 0 else ids.max())
            raise RequestError(
                ErrorKind.WRONG_TENSOR, f"input_ids has {wrong}: ids are from 0 to {self._vocabulary - 1}"
            )
        return lengths

    def run(self, requests: Sequence[tuple[Ints, NDArray[np.int64]]]) -> list[NDArray[np.float32]]:
        """Vectors of each request, [texts, dim].

        Args:
            requests: Ids [texts, width] and lengths [texts] of each; the width is the same for all.
        """
        ids = np.concatenate([ids for ids, _ in requests])
        lengths = np.concatenate([lengths for _, lengths in requests])
        vectors = self._encoder.run(TokenTable(ids, lengths))
        return np.split(vectors, np.cumsum([len(lengths) for _, lengths in requests])[:-1])
