"""Item-to-item matrices: renumbered for other catalogues, and followed by views."""

from __future__ import annotations

import numpy as np
import pytest

from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index.matrix import ItemMatrix


def matrix_of(dense: list[list[float]]) -> ItemMatrix:
    array = np.array(dense, np.float32)
    row, column = np.nonzero(array)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(array)))])
    return ItemMatrix(offsets, column.astype(np.int32), array[row, column])


DENSE = [[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_the_entries_of_rows() -> None:
    found = matrix_of(DENSE).of_rows(np.array([1, -1, 0, 2, 1]))
    assert found.place.tolist() == [0, 2, 2, 4]
    assert found.column.tolist() == [0, 1, 2, 0]
    assert found.weight.tolist() == [3, 1, 2, 3]


def test_other_rows() -> None:
    found = matrix_of(DENSE).renumbered(np.array([2, 0, -1]), 4)
    found.check("m", 4)
    assert found.offsets.tolist() == [0, 1, 1, 2, 2]
    assert (found.columns.tolist(), found.weights.tolist()) == ([2, 0], [3, 1])


@pytest.mark.parametrize("wrong", [{"columns": np.array([9, 0, 1], np.int32)}, {"offsets": np.array([0, 2, 1, 3])}])
def test_a_wrong_matrix_is_refused(wrong: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    right = matrix_of(DENSE)
    with pytest.raises(SnapshotError, match="'m'"):
        ItemMatrix(**{**vars(right), **wrong}).check("m", 3)
