"""Reads the caller's own item vectors, for the space `vectors` or another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recserve_export.errors import TrainingError
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.files import reading


def read_vectors(file: Path, id_column: str = "id", vector_column: str = "vector") -> tuple[list[str], Vectors]:
    """Ids and unit vectors of a Parquet file.

    Args:
        file: With a column of item ids and one of lists of numbers, all of one length.
        id_column: Name of the column of ids.
        vector_column: Name of the column of vectors.

    Raises:
        TrainingError: The file cannot be read, a column is missing, an id occurs twice, or a vector is not finite, all
            zero or of another length.
    """
    with reading(file, TrainingError, f"a Parquet file with the columns {id_column} and {vector_column} is needed"):
        table = pq.read_table(file)
    if missing := [name for name in (id_column, vector_column) if name not in table.column_names]:
        raise TrainingError(f"{file}: no column {missing[0]!r}; the file has {', '.join(table.column_names)}")
    column = table[vector_column].combine_chunks()
    try:
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    except pa.ArrowNotImplementedError:
        kind = column.type
        raise TrainingError(f"{file}: the column {vector_column!r} holds {kind}, lists of numbers are needed") from None
    if not len(lengths) or not (lengths == lengths[0]).all() or not lengths[0]:
        raise TrainingError(f"{file}: the vectors of the column {vector_column!r} are missing or not of one length")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    vectors = flat.astype(np.float32).reshape(len(lengths), -1)
    ids = [str(item) for item in table[id_column].to_pylist()]
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if wrong := np.flatnonzero(~np.isfinite(norms) | (norms == 0)).tolist():
        raise TrainingError(
            f"{file}: {len(wrong)} vectors are not finite or all zero, the first is of {ids[wrong[0]]!r}"
        )
    if len(set(ids)) != len(ids):
        raise TrainingError(f"{file}: {len(ids) - len(set(ids))} ids occur more than once")
    return ids, (vectors / norms[:, None]).astype(np.float32)
