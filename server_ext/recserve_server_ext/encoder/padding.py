"""How wide token tensors are for the model `encoder`: one width where nothing is computed for padding, else a few."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.config.server import Target

if TYPE_CHECKING:
    from recserve_server_ext.encoder.text_encoder import TokenTable

#: Triton batches requests of equal width only, and every width is a shape to warm up: few. For TensorRT, where each has
#: a profile with its own memory, each is twice as wide as the one before; for onnxruntime there is one between.
_LEAST_WIDTH: Final[dict[Target, int]] = {"onnxruntime": 8, "tensorrt": 16}


def padded_widths(target: Target, max_tokens: int) -> tuple[int, ...]:
    """Widths that the texts are padded to, ascending; the last one is `max_tokens`.

    The embedded encoder cuts the padding off itself and has one: with a fixed width Triton refuses crafted sizes before
    Python sees them. The other targets compute what they get.

    Args:
        target: Of the encoder.
        max_tokens: The most tokens of a text.
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
    """The least of the widths that holds a text of so many tokens; the widest where none does."""
    return widths[min(int(np.searchsorted(widths, longest)), len(widths) - 1)]


def plan_calls(lengths: NDArray[np.int64], widths: tuple[int, ...], most: int) -> Iterator[tuple[Rows, int]]:
    """Which rows go to the encoder together.

    Args:
        lengths: [rows] tokens of each.
        widths: Of `padded_widths`.
        most: Rows of one call.

    Yields:
        Row numbers and their width, the same for all rows that need it; each row once.
    """
    places = np.minimum(np.searchsorted(widths, lengths), len(widths) - 1)
    for place in np.unique(places):
        rows = np.flatnonzero(places == place)
        for start in range(0, len(rows), most):
            yield rows[start : start + most], widths[place]


def padded(tokens: TokenTable, width: int, rows: Rows | slice = slice(None)) -> tuple[Rows, Rows]:
    """Ids and mask [rows, width] of rows that are no longer than that."""
    ids, mask = tokens.ids[rows, :width], tokens.mask[rows, :width]
    missing = ((0, 0), (0, width - ids.shape[1]))
    return np.pad(ids, missing), np.pad(mask, missing)
