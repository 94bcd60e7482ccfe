"""Padding of token tensors for the model `encoder`: to one width, or to a few where padding is computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from recserve_server_ext.common.arrays import Ints, Rows
from recserve_server_ext.config.server import Target

if TYPE_CHECKING:
    from recserve_server_ext.encoder.tokenizer import TokenTable

#: Triton batches only requests of equal width, and every width is a shape to warm up, so there are few. For TensorRT,
#: where a width has a profile with its own memory, each is twice the one before; onnxruntime has one more between.
_LEAST_WIDTH: Final[dict[Target, int]] = {"onnxruntime": 8, "tensorrt": 16}


def padded_widths(target: Target, max_tokens: int) -> tuple[int, ...]:
    """Widths that texts are padded to, ascending; the last one is `max_tokens`.

    The embedded encoder cuts padding off and has one width: then Triton refuses crafted sizes before Python sees them.
    The other targets compute the padding too.
    """
    if target == "embedded":
        return (max_tokens,)
    widths = []
    width = _LEAST_WIDTH[target]
    while width < max_tokens:
        widths += [width] if target == "tensorrt" else [width, width * 3 // 2]
        width *= 2
    return (*(width for width in widths if width < max_tokens), max_tokens)


def width_of(longest: int, widths: tuple[int, ...]) -> int:
    """The least width that holds a text of so many tokens; the widest where none does."""
    return widths[min(int(np.searchsorted(widths, longest)), len(widths) - 1)]


def plan_calls(lengths: Ints, widths: tuple[int, ...], most: int) -> Iterator[tuple[Rows, int]]:
    """Which rows go to the encoder together.

    Args:
        lengths: [rows] tokens of each.
        widths: From `padded_widths`.
        most: Most rows of a call.

    Yields:
        Row numbers of one width, and the width; each row once.
    """
    places = np.minimum(np.searchsorted(widths, lengths), len(widths) - 1)
    for place in np.unique(places):
        rows = np.flatnonzero(places == place)
        for start in range(0, len(rows), most):
            yield rows[start : start + most], widths[place]


def padded(tokens: TokenTable, width: int, rows: Rows | slice = slice(None)) -> tuple[Rows, Rows]:
    """Ids and mask [rows, width] of rows with at most `width` tokens."""
    ids, mask = tokens.ids[rows, :width], tokens.mask[rows, :width]
    missing = ((0, 0), (0, width - ids.shape[1]))
    return np.pad(ids, missing), np.pad(mask, missing)
