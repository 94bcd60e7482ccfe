"""Names and tensors of the Triton models."""

from __future__ import annotations

from typing import Final, NamedTuple

RECOMMEND: Final = "recommend"
RECOMMEND_TEXT: Final = "recommend_text"
EMBED: Final = "embed"
ITEMS: Final = "items"
INTERACTIONS: Final = "interactions"
ENCODER: Final = "encoder"
TOKENIZE: Final = "tokenize"
POOL: Final = "pool"
SEQUENCE: Final = "sequence"
GENERATE: Final = "generate"

#: Parameter of the configuration of `recommend` that holds the packed `ServedStrategies`.
STRATEGIES: Final = "strategies"

#: Characters of an encoder's fingerprint in the names of its models.
_FINGERPRINT: Final = 8


def of_encoder(model: str, fingerprint: str) -> str:
    """Name of the model `encoder`, `tokenize` or `pool` of one encoder.

    Each loaded encoder has its own models. The plain name `encoder` is an ensemble around the one that is served.
    """
    return f"{model}_{fingerprint[:_FINGERPRINT]}"


def of_network(space: str, fingerprint: str) -> str:
    """Name of the model of one network, such as `sequence_0123abcd` of the space `sequence`."""
    return f"{space}_{fingerprint[:_FINGERPRINT]}"


class Tensor(NamedTuple):
    """A tensor of a model: name, KServe datatype, shape without the batch dimension (-1 for any size)."""

    name: str
    datatype: str
    shape: tuple[int, ...]


#: Packed messages: one BYTES element with a JSON document. The fixed shape lets Triton refuse crafted sizes.
REQUEST: Final = Tensor("request", "BYTES", (1,))
RESPONSE: Final = Tensor("response", "BYTES", (1,))

#: Inside `recommend_text`: the packed request, padded to one row for each text. So all inputs of `pool` have the same
#: batch dimension, which Triton bounds.
REQUEST_ROWS: Final = Tensor("request_rows", "BYTES", (1,))
#: Inside `recommend_text`: the packed request that `pool` passes to `recommend`.
PACKED: Final = Tensor("packed", "BYTES", (1,))

#: Token ids and attention mask of a text, padded on the right to the encoder's `max_tokens`; one row for each text.
#: The fixed width lets Triton refuse crafted sizes.
INPUT_IDS: Final = Tensor("input_ids", "INT64", (-1,))
ATTENTION_MASK: Final = Tensor("attention_mask", "INT64", (-1,))


def vector(dim: int) -> Tensor:
    """The encoder's output: one L2-normalised vector for each row."""
    return Tensor(VECTOR, "FP32", (dim,))


def behaviour_tensors(dim: int, length: int) -> tuple[Tensor, ...]:
    """The inputs of a network: the last behaviours of a user, padded before the first one to a fixed length."""
    return (Tensor(VECTORS, "FP32", (length, dim)), Tensor(PAUSES, "FP32", (length,)), Tensor(MASK, "FP32", (length,)))


#: Input of a network: the vectors of behaviours, the newest last.
VECTORS: Final = "vectors"
#: Input of a network: seconds since the behaviour before; 0 where that is not known.
PAUSES: Final = "pauses"
#: Input of a network: 1 for a behaviour, 0 for padding.
MASK: Final = "mask"
#: Name of the encoder's output tensor, and of a network's.
VECTOR: Final = "vector"
