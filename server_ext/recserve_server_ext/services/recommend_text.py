"""The first and third steps of the ensemble `recommend_text`: a packed request -> its texts; with vectors -> packed."""

from __future__ import annotations

import base64

import numpy as np
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from recserve_client.contract import ErrorKind, RecommendRequest, RequestError, Unpacker, pack, shown
from recserve_server_ext.batching.request_checks import check_size, check_texts
from recserve_server_ext.config.server import Limits

_unpack = Unpacker(RecommendRequest)


def texts_of(raw: bytes, limits: Limits) -> list[str]:
    """The texts of a packed request whose history holds only texts, in order.

    Raises:
        RequestError: The request is refused, or a behaviour is not a text.
    """
    check_size(raw, limits)
    history = _unpack(raw).history
    if not history:
        raise RequestError(ErrorKind.EMPTY_HISTORY, "history is []: name at least one text")
    texts: list[str] = []
    for number, behaviour in enumerate(history):
        if behaviour.text is None or behaviour.item is not None or behaviour.vector is not None:
            content = shown({name: value for name, value in asdict(behaviour).items() if value is not None})
            raise RequestError(
                ErrorKind.INVALID_REQUEST,
                f"$.history[{number}] is {content}: this model takes texts only; send others to `recommend`",
            )
        texts.append(behaviour.text)
    check_texts(texts, limits, "history")
    return texts


def with_vectors(raw: bytes, vectors: NDArray[np.float32], encoder: str) -> bytes:
    """The packed request with the vector of each text, and the encoder of the vectors.

    Args:
        raw: A request that `texts_of` accepted.
        vectors: [texts, dim] float32.
        encoder: Runtime fingerprint of the encoder.

    Raises:
        RequestError: wrong_tensor: the numbers of vectors and behaviours differ.
    """
    request = _unpack(raw)
    if len(vectors) != len(request.history):
        raise RequestError(ErrorKind.WRONG_TENSOR, f"{len(vectors)} vectors for {len(request.history)} behaviours")
    history = [
        replace(behaviour, vector=base64.b64encode(vector.astype("<f4").tobytes()).decode())
        for behaviour, vector in zip(request.history, vectors, strict=True)
    ]
    return pack(replace(request, history=history, encoder=encoder))
