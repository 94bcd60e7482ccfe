"""GPTQ: weights rounded to int8 such that correlated inputs make good for each other's errors.

Rounding to the nearest step ignores that inputs are correlated. GPTQ (Frantar et al. 2022,
https://arxiv.org/abs/2210.17323, equations 2 and 3) takes one input after the other. The error that its rounding leaves
is spread over the inputs still to come, by the second moments H of the inputs. Here the inverse of H is a Cholesky
factor, and the inputs of the largest moments come first.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Floats, Vectors

#: Share of the mean of H's diagonal that is added to it: inputs that calibration saw little of must not carry large
#: errors.
_DAMPING: Final = 0.01
#: Inputs after which the error is spread over all that are left; within, only over those of the block.
_BLOCK: Final = 128


class RoundedWeight(NamedTuple):
    """A weight in whole steps.

    Attributes:
        steps: int8 [inputs, outputs], between -127 and 127; with 7 bits between -63 and 63.
        scales: [outputs] what a step is worth.
    """

    steps: NDArray[np.int8]
    scales: Vectors


class Gptq:
    """Rounds the weights behind the same inputs; what follows from the inputs is worked out once."""

    def __init__(self, moments: Floats) -> None:
        """
        Args:
            moments: H = sum of x x' over inputs x of calibration, [inputs, inputs].
        """
        self._order = np.argsort(-np.diag(moments), kind="stable")
        self._spread = _spread(moments[np.ix_(self._order, self._order)])

    def rounded(self, weight: Vectors, bits: int) -> RoundedWeight:
        """Round a weight [inputs, outputs] to 7 or 8 bits, with one scale for each output."""
        levels = 2 ** (bits - 1) - 1
        scales = np.abs(weight).max(axis=0) / np.float32(levels)
        scales[scales == 0] = 1
        steps = np.empty(weight.shape, np.int8)
        steps[self._order] = _rounded(weight[self._order] / scales.astype(np.float64), self._spread, levels)
        return RoundedWeight(steps, scales.astype(np.float32))


def _spread(moments: Floats) -> Floats:
    """Upper Cholesky factor of the inverse of damped moments; its rows say where an input's error goes."""
    damped = moments.copy()
    diagonal = np.diag_indices(len(damped))
    # An input that is always 0 has no say; of what is not 0 the mean is above 0.
    damped[diagonal] += (_DAMPING * float(np.mean(damped[diagonal]))) or 1.0
    factor: Floats = np.linalg.cholesky(np.linalg.inv(damped)).T
    return factor


def _rounded(left: Any, spread: Floats, levels: int) -> NDArray[np.int8]:
    """[inputs, outputs] weights in steps, not whole yet -> whole ones."""
    steps = np.empty(left.shape, np.int8)
    for start in range(0, len(left), _BLOCK):
        end = min(start + _BLOCK, len(left))
        errors = np.empty((end - start, left.shape[1]))
        for row in range(start, end):
            steps[row] = np.clip(np.rint(left[row]), -levels, levels)
            errors[row - start] = (left[row] - steps[row]) / spread[row, row]
            left[row + 1 : end] -= np.outer(spread[row, row + 1 : end], errors[row - start])
        left[end:] -= spread[start:end, end:].T @ errors
    return steps
