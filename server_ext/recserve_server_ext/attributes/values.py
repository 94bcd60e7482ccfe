"""The attributes of the candidates of a batch of users, gathered from the snapshot and from changed items."""

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

_Found = dict[str, list[tuple[Rows, pa.Array]]]
_INT64_FLOATS = (-(2.0**63), 2.0**63)


class Source(NamedTuple):
    """Some of the candidates, and where their attributes are.

    Attributes:
        columns: The attributes of a snapshot, or of changed items.
        rows: [users, n] row in `columns` of each candidate; -1 for one that is not of this source.
    """

    columns: AttributeColumns
    rows: Rows


class GroupValues(NamedTuple):
    """Which values of an attribute the candidates have: pairs, each of them once, in the order of the positions.

    Attributes:
        positions: [pairs] candidate, user * n + its number.
        keys: [pairs] a number for the value, the same for equal values of any candidates.
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
                own = rows >= 0
                taken = pc.cast(part.take(pa.array(rows[own])), pa.float64(), safe=False)
                found = taken.to_numpy(zero_copy_only=False)
                numbers[own] = np.where(np.isnan(found), numbers[own], found)
    return numbers


def candidate_values(name: str, sources: Sequence[Source]) -> GroupValues:
    """The values of an attribute that each candidate has: one, each of its list's, or none."""
    found: _Found = defaultdict(list)
    for columns, rows in sources:
        own = np.flatnonzero(rows >= 0)
        _collect(columns.column(name), own, rows.ravel()[own], found)
    positions: list[Rows] = [np.empty(0, np.int64)]
    keys: list[Rows] = [np.empty(0, np.int64)]
    base = 0
    for pieces in found.values():
        encoded = pa.chunked_array([piece for _, piece in pieces]).combine_chunks().dictionary_encode()
        positions.extend(position for position, _ in pieces)
        keys.append(encoded.indices.to_numpy().astype(np.int64) + base)
        base += len(encoded.dictionary)
    # A list may hold a value twice; the item counts once.
    pairs = np.unique(np.concatenate(positions) * max(base, 1) + np.concatenate(keys))
    return GroupValues(pairs // max(base, 1), pairs % max(base, 1))


def candidate_mask(masks: Sequence[NDArray[np.bool_]], sources: Sequence[Source]) -> NDArray[np.bool_]:
    """[users, n] whether each candidate matches.

    Args:
        masks: The matching rows of each source's columns.
        sources: Where the candidates are.
    """
    matching = np.zeros(sources[0].rows.shape, np.bool_)
    for mask, (_, rows) in zip(masks, sources, strict=True):
        own = rows >= 0
        matching[own] = mask[rows[own]]
    return matching


def _collect(column: Column, positions: Rows, rows: Rows, found: _Found) -> None:
    """Add the values in these rows, by kind; equal numbers become one kind."""
    scalars = (("string", column.strings), ("boolean", column.booleans), ("integer", column.integers))
    for kind, part in scalars:
        if part is not None:
            _add(kind, part.take(pa.array(rows)), positions, found)
    if column.floats is not None:
        taken = column.floats.take(pa.array(rows))
        low, high = _INT64_FLOATS
        whole = pc.and_(pc.equal(pc.floor(taken), taken), pc.and_(pc.greater_equal(taken, low), pc.less(taken, high)))
        integers = pc.cast(pc.if_else(whole, taken, None), pa.int64())
        _add("integer", integers, positions, found)
        _add("float", pc.if_else(whole, None, taken), positions, found)
    if column.lists is not None:
        offsets = column.lists.offsets
        starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
        # Element numbers of all rows: counted from the start of each row.
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        elements = np.repeat(starts, lengths) + within
        _collect(column.lists.elements, np.repeat(positions, lengths), elements, found)


def _add(kind: str, values: pa.Array, positions: Rows, found: _Found) -> None:
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    if valid.any():
        found[kind].append((positions[valid], values.drop_null()))
