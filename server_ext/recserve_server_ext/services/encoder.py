"""The service behind the embedded Triton model `encoder`: token ids and mask -> vectors. Independent of Triton."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.encoder.tokenizer import TokenTable


class EncoderModel:
    """Checks requests one by one, and runs the rows of a batch together."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._vocabulary = encoder.tokenizer.vocabulary

    def check(self, ids: Ints, mask: Ints) -> NDArray[np.int64]:
        """Check the tensors of one request.

        Args:
            ids: [texts, width] token ids.
            mask: [texts, width] attention mask.

        Returns:
            [texts] number of tokens.

        Raises:
            RequestError: wrong_tensor: an id outside the vocabulary, a text without a token, or a mask that is not ones
                and then zeros.
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
        """The vectors [texts, dim] of each request.

        Args:
            requests: Ids [texts, width] and lengths [texts] of each request; all have the same width.
        """
        ids = np.concatenate([ids for ids, _ in requests])
        lengths = np.concatenate([lengths for _, lengths in requests])
        vectors = self._encoder.run(TokenTable(ids, lengths))
        return np.split(vectors, np.cumsum([len(lengths) for _, lengths in requests])[:-1])
