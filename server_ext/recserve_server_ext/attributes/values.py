"""Attribute values of the candidates of a batch of users, from the snapshot and from changed items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recserve_server_ext.attributes.columns import AttributeColumns, Column
from recserve_server_ext.common.arrays import Rows

#: Kind of value -> positions of candidates and their values.
_Collected = dict[str, list[tuple[Rows, pa.Array]]]
_INT64_FLOATS = (-(2.0**63), 2.0**63)


class Source(NamedTuple):
    """The attributes of those candidates that are in the snapshot, or of those that changed since.

    Attributes:
        columns: Attributes of the snapshot, or of the changed items.
        rows: [users, n] row in `columns` of each candidate; -1 for candidates of another source.
    """

    columns: AttributeColumns
    rows: Rows


class GroupValues(NamedTuple):
    """The values of an attribute that candidates have: distinct pairs of a candidate and a value.

    Attributes:
        positions: [pairs] position of the candidate, user * n + its number; ascending.
        keys: [pairs] number of the value; equal values have equal numbers.
    """

    positions: Rows
    keys: Rows


def candidate_numbers(name: str, sources: Sequence[Source]) -> NDArray[np.float64]:
    """[users, n] the attribute as float64; NaN where a candidate has no number."""
    numbers = np.full(sources[0].rows.shape, np.nan)
    for columns, rows in sources:
        column = columns.column(name)
        for part in (column.integers, column.floats):
            if part is not None:
                is_here = rows >= 0
                taken = pc.cast(part.take(pa.array(rows[is_here])), pa.float64(), safe=False)
                values = taken.to_numpy(zero_copy_only=False)
                numbers[is_here] = np.where(np.isnan(values), numbers[is_here], values)
    return numbers


def candidate_values(name: str, sources: Sequence[Source]) -> GroupValues:
    """The values of an attribute that each candidate has; all elements of a list count."""
    collected: _Collected = defaultdict(list)
    for columns, rows in sources:
        here = np.flatnonzero(rows >= 0)
        _collect(columns.column(name), here, rows.ravel()[here], collected)
    positions: list[Rows] = [np.empty(0, np.int64)]
    keys: list[Rows] = [np.empty(0, np.int64)]
    base = 0
    for pieces in collected.values():
        encoded = pa.chunked_array([piece for _, piece in pieces]).combine_chunks().dictionary_encode()
        positions.extend(position for position, _ in pieces)
        keys.append(encoded.indices.to_numpy().astype(np.int64) + base)
        base += len(encoded.dictionary)
    # A list may hold a value twice; the item counts only once.
    pairs = np.unique(np.concatenate(positions) * max(base, 1) + np.concatenate(keys))
    return GroupValues(pairs // max(base, 1), pairs % max(base, 1))


def _collect(column: Column, positions: Rows, rows: Rows, collected: _Collected) -> None:
    """Add the values of these rows by kind; whole floats count as integers."""
    if column.strings is not None:
        _add("string", column.strings.take(pa.array(rows)).dictionary_decode(), positions, collected)
    scalars = (("boolean", column.booleans), ("integer", column.integers))
    for kind, part in scalars:
        if part is not None:
            _add(kind, part.take(pa.array(rows)), positions, collected)
    if column.floats is not None:
        taken = column.floats.take(pa.array(rows))
        low, high = _INT64_FLOATS
        whole = pc.and_(pc.equal(pc.floor(taken), taken), pc.and_(pc.greater_equal(taken, low), pc.less(taken, high)))
        integers = pc.cast(pc.if_else(whole, taken, None), pa.int64())
        _add("integer", integers, positions, collected)
        _add("float", pc.if_else(whole, None, taken), positions, collected)
    if column.lists is not None:
        offsets = column.lists.offsets
        starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
        # Index of each element: the start of its row, and its place within the row.
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        elements = np.repeat(starts, lengths) + within
        _collect(column.lists.elements, np.repeat(positions, lengths), elements, collected)


def _add(kind: str, values: pa.Array, positions: Rows, collected: _Collected) -> None:
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    if valid.any():
        collected[kind].append((positions[valid], values.drop_null()))
