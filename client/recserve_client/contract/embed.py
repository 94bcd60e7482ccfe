"""The packed messages of the model `embed`: texts and their vectors."""

from __future__ import annotations

from msgspec import Struct


class EmbedRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Ask for the vectors of texts.

    Attributes:
        texts: The texts; the vectors come in their order.
    """

    texts: list[str]


class EmbedTimings(Struct, frozen=True, gc=False):
    """Microseconds spent on the batch of this request; see `RecommendTimings`."""

    queue_us: int
    resolve_us: int
    encode_us: int


class EmbedResponse(Struct, frozen=True, gc=False):
    """Unit vectors of the texts.

    Attributes:
        vectors: base64 of `count` x `dim` little-endian float32 values, row by row.
        count: Number of texts.
        dim: Length of a vector.
        encoder: Fingerprint of the encoder.
        timings: Time spent on each step.
    """

    vectors: str
    count: int
    dim: int
    encoder: str
    timings: EmbedTimings
