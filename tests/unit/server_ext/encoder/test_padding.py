"""Widths of token tensors: every text is in one call, that is wide enough and not much wider."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recserve_server_ext.encoder.padding import padded, padded_widths, plan_calls, width_of
from recserve_server_ext.encoder.tokenizer import TokenTable

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("most", "widths"),
    [(8, (8,)), (16, (8, 12, 16)), (17, (8, 12, 16, 17)), (100, (8, 12, 16, 24, 32, 48, 64, 96, 100))],
)
def test_widths(most: int, widths: tuple[int, ...]) -> None:
    assert padded_widths("onnxruntime", most) == widths
    assert padded_widths("embedded", most) == (most,)


def test_tensorrt_has_fewer_for_each_is_a_profile() -> None:
    assert padded_widths("tensorrt", 256) == (16, 32, 64, 128, 256)
    assert padded_widths("tensorrt", 8) == (8,)


@given(lengths=LENGTHS, most=st.integers(1, 20))
def test_each_row_once_and_at_most_twice_as_wide(lengths: list[int], most: int) -> None:
    widths = padded_widths("onnxruntime", 300)
    found: list[int] = []
    for rows, width in plan_calls(np.array(lengths), widths, most):
        assert 0 < len(rows) <= most
        for row in rows:
            assert lengths[row] <= width < max(9, 1.5 * lengths[row])
            assert width == width_of(lengths[row], widths)
        found += rows.tolist()
    assert sorted(found) == list(range(len(lengths)))


@given(lengths=LENGTHS, most=st.integers(1, 20))
def test_one_width_keeps_the_order(lengths: list[int], most: int) -> None:
    calls = list(plan_calls(np.array(lengths), (300,), most))
    assert np.concatenate([rows for rows, _ in calls]).tolist() == list(range(len(lengths)))
    assert len(calls) == -(-len(lengths) // most)


def test_padding_keeps_ids_and_masks_the_rest() -> None:
    tokens = TokenTable(np.array([[5, 6, 0, 0], [1, 2, 3, 4]]), np.array([2, 4]))
    ids, mask = padded(tokens, 3, np.array([0]))
    assert (ids.tolist(), mask.tolist()) == ([[5, 6, 0]], [[1, 1, 0]])
    ids, mask = padded(tokens, 6)
    assert ids.tolist() == [[5, 6, 0, 0, 0, 0], [1, 2, 3, 4, 0, 0]]
    assert mask.sum(axis=1).tolist() == [2, 4]
