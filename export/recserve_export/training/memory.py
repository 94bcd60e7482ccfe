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
from recserve_server_ext.networks.runner import InProcess
from recserve_server_ext.recommend.job import Job
from recserve_server_ext.recommend.pipeline import Pipeline
from recserve_server_ext.strategies.base import Data


class InMemory(NamedTuple):
    """Arguments of `recserve_server_ext.catalogue.view.view_over`."""

    spaces: dict[str, Space]
    matrices: dict[str, ItemMatrix]
    models: dict[str, Model]


class Networks:
    """Answers what jobs of a pipeline wait for, by the networks of their spaces, in this process."""

    def __init__(self) -> None:
        self._loaded: dict[str, InProcess] = {}

    def answer(self, pipeline: Pipeline, jobs: Sequence[Job], data: Data) -> None:
        """Make the calls that jobs wait for, all of a batch together."""
        while waiting := [(job, call) for job in jobs if (call := pipeline.pending(job)) is not None]:
            fingerprint = waiting[0][1].version
            group = [(job, call) for job, call in waiting if call.version == fingerprint]
            if fingerprint not in self._loaded:
                networks = (space.network for space in data.view.snapshot.spaces.values())
                found = {of.manifest.fingerprint: of for of in networks if of is not None}
                self._loaded[fingerprint] = InProcess(found[fingerprint])
            inputs = [value for _, call in group for value in call.inputs]
            results = dict(zip(inputs, self._loaded[fingerprint](inputs), strict=True))
            for job, _ in group:
                pipeline.resume(job, results)


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
    return InMemory(spaces, matrices, models)
