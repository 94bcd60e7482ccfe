"""The service behind the Triton model `embed`: packed texts -> packed vectors. Independent of Triton."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from recserve_client.contract import (
    EmbedRequest,
    EmbedResponse,
    EmbedTimings,
    ErrorKind,
    RequestError,
    Unpacker,
    models,
    pack,
)
from recserve_server_ext.batching.batcher import Answer, Handler, ModelCall
from recserve_server_ext.batching.request_checks import check_size, check_texts
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.config.server import Limits


class EmbedJob(Struct):
    """The state of one accepted request; times are in nanoseconds."""

    texts: list[str]
    encoder: str
    vectors: NDArray[np.float32] | None = None
    waited_ns: int = 0
    resolve_ns: int = 0
    encode_ns: int = 0


class Embedder(Handler[EmbedJob]):
    """Encodes texts with the served encoder, without a cache."""

    def __init__(self, served: Callable[[], str], limits: Limits) -> None:
        self._served = served  # the runtime fingerprint of the served encoder
        self._encoder = ""
        self._limits = limits
        self._unpack = Unpacker(EmbedRequest)

    def begin(self) -> None:
        """Take the served encoder: all texts of a batch go to the same one."""
        self._encoder = self._served()

    def accept(self, raw: bytes) -> EmbedJob:
        """Decode and check a request.

        Raises:
            RequestError: The request is refused.
        """
        check_size(raw, self._limits)
        texts = self._unpack(raw).texts
        if not texts:
            raise RequestError(ErrorKind.INVALID_REQUEST, "$.texts is []: send at least one text")
        check_texts(texts, self._limits, "texts")
        return EmbedJob(texts, self._encoder)

    def pending(self, job: EmbedJob) -> ModelCall | None:
        """The texts of a request, until it has its vectors."""
        return ModelCall(models.ENCODER, job.encoder, job.texts) if job.vectors is None else None

    def resume(self, jobs: Sequence[EmbedJob], call: ModelCall, results: Vectors, took_ns: int) -> None:
        """Give each request the vectors of its texts."""
        place_of = {text: n for n, text in enumerate(call.inputs)}
        for job in jobs:
            job.vectors = results[[place_of[text] for text in job.texts]]
            job.encode_ns = took_ns

    def answer(self, jobs: Sequence[EmbedJob]) -> list[Answer]:
        """The packed vectors of encoded requests."""
        return [self._pack(job) for job in jobs]

    def _pack(self, job: EmbedJob) -> bytes:
        assert job.vectors is not None
        return pack(
            EmbedResponse(
                vectors=base64.b64encode(job.vectors.astype("<f4").tobytes()).decode(),
                count=len(job.texts),
                dim=job.vectors.shape[1],
                encoder=job.encoder,
                timings=EmbedTimings(
                    queue_us=job.waited_ns // 1000,
                    resolve_us=job.resolve_ns // 1000,
                    encode_us=job.encode_ns // 1000,
                ),
            )
        )
