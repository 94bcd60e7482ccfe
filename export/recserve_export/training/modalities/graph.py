"""Item vectors from a knowledge graph: text vectors smoothed over the entities that items share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv
from scipy import sparse

from recserve_export.errors import TrainingError
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.files import reading


def smoothed(text: Vectors, entities: Any, weight: float) -> Vectors:
    """[items, dim] unit vectors t_i + a unit(sum_j n_ij t_j), a the weight.

    n_ij = sum_e 1 / sqrt(d_e) over the entities e that items i and j share, d_e the number of items of e: a rare entity
    says more. Items without neighbours keep their text vector.

    Args:
        text: [items, dim] unit text vectors; zeros without a text.
        entities: Sparse [items, entities] of 0 and 1.
        weight: How much the neighbours count.
    """
    degree = np.maximum(np.asarray(entities.sum(axis=0)).ravel(), 1.0)
    shares = entities @ sparse.diags_array(1.0 / np.sqrt(degree))
    # The sum over all j without j = i, and no matrix of items by items.
    own = np.asarray(shares.multiply(entities).sum(axis=1)).ravel()
    neighbours = shares @ (entities.T @ text.astype(np.float64)) - own[:, None] * text
    return _unit(text + weight * _unit(neighbours))


def read_graph(triples: Path, links: Path, ids: Sequence[str]) -> Any:
    """Sparse [items, entities] of 0 and 1: the entities that a triple joins to each item, in either direction.

    Args:
        triples: Tab-separated `.kg` file, as RecBole has it: head, relation, tail.
        links: Tab-separated `.link` file: item id, entity.
        ids: Item ids.

    Raises:
        TrainingError: A file cannot be read, or no item is in the graph.
    """
    rows = {item: row for row, item in enumerate(ids)}
    link = {entity: rows[item] for item, entity in zip(*_columns(links, 2), strict=True) if item in rows}
    head, _, tail = _columns(triples, 3)
    pairs = [*_joined(link, head, tail), *_joined(link, tail, head)]
    if not pairs:
        raise TrainingError(f"no triple of {triples} names an entity that {links} links to an item of the index")
    number: dict[str, int] = {}
    places = np.array([(row, number.setdefault(entity, len(number))) for row, entity in pairs])
    found = sparse.csr_array((np.ones(len(places)), places.T), (len(ids), len(number)))
    found.data[:] = 1.0
    return found


def _joined(link: Mapping[str, int], heads: Sequence[str], tails: Sequence[str]) -> list[tuple[int, str]]:
    return [(link[head], tail) for head, tail in zip(heads, tails, strict=True) if head in link]


def _columns(file: Path, count: int) -> list[list[str]]:
    """The first columns of a tab-separated file with a header, as strings."""
    tabs = csv.ParseOptions(delimiter="\t", quote_char=False)
    with reading(file, TrainingError, "a tab-separated file with a header is needed"):
        with csv.open_csv(file, parse_options=tabs) as opened:
            names = opened.schema.names
        if len(names) < count:
            raise TrainingError(f"{file} has {len(names)} columns, {count} are needed, separated by tabs")
        as_text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=names[:count])
        table = csv.read_csv(file, parse_options=tabs, convert_options=as_text)
    return [column.to_pylist() for column in table.columns]


def _unit(vectors: Any) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0).astype(np.float32)
    return found
