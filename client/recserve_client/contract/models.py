"""Names and tensors of the models on Triton: the one place where they are written."""

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

#: Characters of its fingerprint in the names of the models that belong to one encoder.
_FINGERPRINT: Final = 8


def of_encoder(model: str, fingerprint: str) -> str:
    """Name of the model (`encoder`, `tokenize` or `pool`) that belongs to one encoder.

    There is a set of them for each encoder that is loaded; `encoder` without more is an ensemble around the one that
    is served.
    """
    return f"{model}_{fingerprint[:_FINGERPRINT]}"


class Tensor(NamedTuple):
    """A tensor of a model: name, KServe datatype, shape without the batch dimension (-1 = any)."""

    name: str
    datatype: str
    shape: tuple[int, ...]


#: Packed messages: one BYTES element that holds a JSON document. The fixed shape is what keeps a crafted size away.
REQUEST: Final = Tensor("request", "BYTES", (1,))
RESPONSE: Final = Tensor("response", "BYTES", (1,))

#: Inside `recommend_text`: the request in the first of as many rows as it has texts, so that the batch dimension,
#: which Triton bounds, is the same for all inputs of `pool`; and what `pool` hands to `recommend`.
REQUEST_ROWS: Final = Tensor("request_rows", "BYTES", (1,))
PACKED: Final = Tensor("packed", "BYTES", (1,))

#: Token ids and attention mask of a text, padded on the right to the encoder's `max_tokens`; one row a text. The
#: fixed width is what lets Triton refuse crafted sizes.
INPUT_IDS: Final = Tensor("input_ids", "INT64", (-1,))
ATTENTION_MASK: Final = Tensor("attention_mask", "INT64", (-1,))


def vector(dim: int) -> Tensor:
    """The encoder's output: one L2-normalised vector a row."""
    return Tensor(VECTOR, "FP32", (dim,))


#: Name of the encoder's output tensor.
VECTOR: Final = "vector"
