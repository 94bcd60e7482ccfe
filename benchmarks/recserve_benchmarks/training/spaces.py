"""Judges the spaces of the caller's own vectors that a home has, alone and fused with the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.evaluation.log.data import of_home
from recserve_benchmarks.harness.run import Show
from recserve_benchmarks.training.options import ASKED
from recserve_export.training.base import training_log
from recserve_export.training.encoder import proof
from recserve_export.training.encoder.split import ItemSpace, Split, split
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.item_ids import places_of
from recserve_server_ext.index.space import TEXT
from recserve_server_ext.index.trained import TrainedSpace, read_trained
from recserve_server_ext.index.trained_versions import current_spaces

_EASE: Final = "ease"
#: `ease` that maps new items from the vectors of all spaces side by side. Not served: what there is to learn.
_OF_ALL: Final = "ease mapped from all"
_HELD_OUT: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class SpacesRun:
    """What is measured: `text`, each space of own vectors, and fusions of them, on splits of the log of a home.

    Only items with a vector in each of these spaces are candidates, so that all are asked the same.

    Attributes:
        workspace: Home with an index, a log, and spaces that `recserve train vectors` made.
        seeds: Number of splits, each with a seed of its own.
        show: Shows progress.
    """

    workspace: Workspace
    seeds: int
    show: Show

    def measure(self) -> dict[str, Any]:
        """NDCG@10 by question of each row of the table, with lists over the splits.

        Raises:
            BenchmarkError: The home has no space of own vectors, or no item with a vector in all of them.
            TrainingError: There are too few items or users.
        """
        dataset = of_home(self.workspace, self.workspace.interactions, self.show)
        spaces = {TEXT: dataset.vectors, **own_spaces(self.workspace, dataset.columns.subjects)}
        usable = np.all([vectors.any(axis=1) for vectors in spaces.values()], axis=0)
        if not usable.any():
            raise BenchmarkError(f"no item has a vector in all of these spaces: {', '.join(spaces)}")
        log = training_log(dataset.columns)
        rows: dict[str, dict[str, list[float]]] = {}
        for seed in range(self.seeds):
            self.show("judge", seed, self.seeds)
            found = _figures(split(log, usable, _HELD_OUT, seed), spaces)
            for name, figures in found.items():
                of = rows.setdefault(name, {what: [] for what in ASKED})
                for what in ASKED:
                    of[what].append(figures[what])
        return {"items": int(usable.sum()), "rows": rows}


def own_spaces(workspace: Workspace, items: Sequence[str]) -> dict[str, Vectors]:
    """[items, dim] vectors by name of the current spaces that no log taught; zeros for an item that one lacks.

    Raises:
        BenchmarkError: There is none.
    """
    place_of = {item: place for place, item in enumerate(items)}
    found = {}
    for name, folder in current_spaces(workspace.spaces).items():
        if "log" in read_trained(folder).made_from:
            continue
        space = TrainedSpace.load(folder)
        places = places_of(space.ids, place_of)
        found[name] = np.zeros((len(items), space.vectors.shape[1]), np.float32)
        found[name][places[places >= 0]] = space.vectors[places >= 0]
    if not found:
        raise BenchmarkError("the home has no space of own vectors; make one with: recserve train vectors")
    return found


def _figures(asked: Split, spaces: Mapping[str, Vectors]) -> dict[str, dict[str, float]]:
    """Mean NDCG@10 by question of each row."""
    text, own = spaces[TEXT], [name for name in spaces if name != TEXT]
    known = {name: ItemSpace(vectors, vectors) for name, vectors in spaces.items()}
    known[_EASE] = proof.ease_space(asked, text)
    known[_OF_ALL] = proof.ease_space(asked, np.hstack(list(spaces.values())))
    together = [[TEXT, name] for name in own] + ([[TEXT, *own]] if len(own) > 1 else [])
    fused = [*together, [_EASE, TEXT], [_EASE, TEXT, *own], [_OF_ALL, TEXT]]
    found = proof.controls(asked, text)
    for name in spaces:
        found[name] = {what: float(asked.questions[what].ndcg(spaces[name]).mean()) for what in ASKED}
    for names in fused:
        parts = [known[name] for name in names]
        found[" + ".join(names)] = {what: float(asked.questions[what].ndcg_of_fusion(parts).mean()) for what in ASKED}
    return found
