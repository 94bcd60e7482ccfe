"""Item vectors from the files that a field of the catalogue names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from recserve_export.errors import TrainingError
from recserve_export.stages import Stage, silent
from recserve_export.training.modalities.media_encoder import MediaEncoder
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.arrays import Vectors

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
    kept = _less_their_mean(ids, found, unreadable)
    if not kept:
        why = next(iter(unreadable.values()), f"no item has the field {field!r}")
        raise TrainingError(f"no item has a file that can be read: {why}")
    return Encoded(list(kept), np.stack(list(kept.values())), unreadable, without)


def _less_their_mean(ids: list[str], found: list[Vectors], unreadable: dict[str, str]) -> dict[str, Vectors]:
    """Unit vectors by item id; why others have none is added to `unreadable`.

    What a model gives has much in common for all files, which says nothing of one: J. Mu and P. Viswanath,
    "All-but-the-Top", ICLR 2018.
    """
    if not ids:
        return {}
    vectors = np.concatenate(found).astype(np.float64)
    vectors -= vectors.mean(axis=0)
    lengths = np.linalg.norm(vectors, axis=1)
    kept = {}
    for item, vector, length in zip(ids, vectors, lengths.tolist(), strict=True):
        if length > _LEAST:
            kept[item] = (vector / length).astype(np.float32)
        else:
            unreadable[item] = "its vector is the mean of all"
    return kept


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
