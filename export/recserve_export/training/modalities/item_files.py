"""Item vectors from the files that a field of the catalogue names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import compress
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from recserve_export.errors import TrainingError
from recserve_export.stages import Stage, silent
from recserve_export.training.modalities.media_encoder import MediaEncoder
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.arrays import Mask, Vectors

#: Files that the model is given at once.
_BATCH: Final = 16
#: Length that is left of a vector without the mean of all, at least: less is rounding.
_LEAST: Final = 1e-5


class Encoded(NamedTuple):
    """What became of the items.

    Attributes:
        ids: Items with a vector.
        vectors: [items, dim] unit vectors, less the mean of all.
        unreadable: Why others have none, by item id.
        without: Number of items without a value in the field.
    """

    ids: list[str]
    vectors: Vectors
    unreadable: dict[str, str]
    without: int


def encode_items(
    store: CatalogueStore, field: str, files: Path, encoder: MediaEncoder, *, stage: Stage = silent
) -> Encoded:
    """Unit vectors of the files of all items, less the mean of all.

    Args:
        store: The catalogue.
        field: Attribute or text with the path of a file.
        files: Folder that paths are relative to.
        encoder: Reads the files.
        stage: Shows progress.

    Raises:
        TrainingError: No item has a file that can be read.
        EncoderSourceError: The model cannot be used.
    """
    unreadable: dict[str, str] = {}
    ids: list[str] = []
    found: list[Vectors] = []
    without = 0

    def prepared() -> Iterator[tuple[str, dict[str, Any]]]:
        nonlocal without
        for item in store.items():
            path = item.fields.get(field)
            if not path or not isinstance(path, str):
                without += 1
                continue
            try:
                yield item.id, encoder.inputs(files / path)
            except (OSError, ValueError) as error:
                unreadable[item.id] = f"{files / path}: {getattr(error, 'strerror', None) or error}"

    with stage("encode files", store.count()) as on_progress:
        for group in _of_equal_shapes(prepared()):
            vectors = encoder.encode([inputs for _, inputs in group])
            norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
            usable = np.isfinite(norms) & (norms > 0)
            names = np.array([item for item, _ in group], object)
            unreadable |= dict.fromkeys(names[~usable].tolist(), "its vector is zero or not finite")
            ids += names[usable].tolist()
            found.append((vectors[usable] / norms[usable, None]).astype(np.float32))
            on_progress(len(group))
    if ids:
        kept, vectors = _less_their_mean(np.concatenate(found))
        unreadable |= dict.fromkeys(compress(ids, ~kept), "its vector is the mean of all")
        ids = list(compress(ids, kept))
    if not ids:
        why = next(iter(unreadable.values()), f"no item has the field {field!r}")
        raise TrainingError(f"no item has a file that can be read: {why}")
    return Encoded(ids, vectors, unreadable, without)


def _less_their_mean(vectors: Vectors) -> tuple[Mask, Vectors]:
    """Which vectors [items, dim] differ from the mean of all [items], and what is left of these, scaled to unit length.

    What a model gives has much in common for all files, which says nothing of one: J. Mu and P. Viswanath,
    "All-but-the-Top", ICLR 2018.
    """
    left = vectors - vectors.mean(axis=0, dtype=np.float64)
    lengths = np.linalg.norm(left, axis=1)
    kept = lengths > _LEAST
    return kept, (left[kept] / lengths[kept, None]).astype(np.float32)


def _of_equal_shapes(items: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Groups of at most 16 neighbours whose inputs have equal shapes."""
    group: list[tuple[str, dict[str, Any]]] = []
    for item in items:
        if group and (len(group) == _BATCH or _shapes(item[1]) != _shapes(group[0][1])):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _shapes(inputs: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(value) for name, value in inputs.items()}
