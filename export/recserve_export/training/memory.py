"""What was learned, as the spaces, matrices and models of a catalogue in memory: for evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from recserve_export.index.spaces import placed
from recserve_export.training.base import Learned
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.matrix import ItemMatrix
from recserve_server_ext.index.model import Model
from recserve_server_ext.index.space import EngineManifest, Space, SpaceManifest


class InMemory(NamedTuple):
    """Arguments of `recserve_server_ext.catalogue.view.view_over`."""

    spaces: dict[str, Space]
    matrices: dict[str, ItemMatrix]
    models: dict[str, Model]


def in_memory(learned: Mapping[str, Learned], text: Vectors, ids: Sequence[str]) -> InMemory:
    """Spaces, matrices and models by name; spaces are searched exactly.

    Args:
        learned: What was learned of the items of a catalogue, by name.
        text: [items, dim] their text vectors.
        ids: [items] their ids.
    """
    spaces, matrices, models = {}, {}, {}
    for name, found in learned.items():
        if found.matrix is not None:
            matrices[name] = found.matrix
        if found.model is not None:
            models[name] = Model(found.model, [ids[item] for item in found.items.tolist()])
        if found.vectors is None:
            continue
        vectors, inputs, rows = placed(found.vectors, found.inputs, found.items, text, found.text_map)
        manifest = SpaceManifest(
            dim=vectors.shape[1],
            vectors=len(vectors),
            engine=EngineManifest(name=ExactEngine.name),
            parameters=found.parameters,
        )
        spaces[name] = Space(
            name=name,
            manifest=manifest,
            items=len(text),
            vectors=vectors,
            engine=ExactEngine(vectors),
            rows=None if len(rows) == len(text) else rows,
            inputs=inputs,
            text_map=found.text_map,
        )
    return InMemory(spaces, matrices, models)
