"""What was learned, as the spaces and matrices of a catalogue in memory: for evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from recserve_export.index.spaces import placed
from recserve_export.training.base import Learned
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.matrix import ItemMatrix
from recserve_server_ext.index.space import EngineManifest, Space, SpaceManifest


class InMemory(NamedTuple):
    """Arguments of `recserve_server_ext.catalogue.view.view_over`."""

    spaces: dict[str, Space]
    matrices: dict[str, ItemMatrix]


def in_memory(learned: Mapping[str, Learned], text: Vectors) -> InMemory:
    """Spaces and matrices by name, searched exactly.

    Args:
        learned: What was learned of the items of a catalogue, by name.
        text: [items, dim] their text vectors.
    """
    spaces, matrices = {}, {}
    for name, found in learned.items():
        if found.matrix is not None:
            matrices[name] = found.matrix
        if found.vectors is None:
            continue
        vectors, inputs, rows = placed(found.vectors, found.inputs, found.items, text, found.text_map)
        manifest = SpaceManifest(
            dim=vectors.shape[1],
            vectors=len(vectors),
            engine=EngineManifest(name=ExactEngine.name),
            parameters=found.parameters,
            network=None if found.network is None else found.network.manifest,
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
            network=found.network,
        )
    return InMemory(spaces, matrices)
