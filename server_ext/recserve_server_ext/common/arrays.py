"""Types of arrays, by what they hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: [..., dim] float32: vectors, mostly of unit length.
Vectors = NDArray[np.float32]
#: float32: scores as an engine returns them.
Scores = NDArray[np.float32]
#: int64: rows of a catalogue.
Rows = NDArray[np.int64]
#: int64: counts, indices and other whole numbers.
Ints = NDArray[np.int64]
#: float64: weights, scores that are added up, moments.
Floats = NDArray[np.float64]
#: bool.
Mask = NDArray[np.bool_]
#: No rows; shared, so never written to.
NO_ROWS: Rows = np.empty(0, np.int64)
NO_ROWS.setflags(write=False)
