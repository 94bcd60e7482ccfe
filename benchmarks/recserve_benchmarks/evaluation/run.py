"""The evaluation: settings chosen on validation, then one measurement on the test, over several seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from recserve_benchmarks.evaluation.data import Dataset
from recserve_benchmarks.evaluation.metrics import accuracy, groups_of, measured
from recserve_benchmarks.evaluation.ranking import Known, known_to, ranked
from recserve_benchmarks.evaluation.split import PROTOCOLS, Protocol, split
from recserve_benchmarks.evaluation.system import Settings, System
from recserve_server_ext.common.arrays import Vectors

Done = Callable[[str, int, int], None]
Figures = dict[str, dict[str, Any]]
#: What settings are chosen by: the mean over users with a history, and over seeds.
CHOSEN_BY: Final = "ndcg@10"
_LONGEST: Final = 20


def evaluate(
    dataset: Dataset, vectors: Vectors, systems: Sequence[System], seeds: Sequence[int], done: Done
) -> dict[str, Any]:
    """Measure all systems by both protocols.

    Args:
        dataset: The interactions.
        vectors: [items, dim] item vectors.
        systems: To be measured.
        seeds: Of what breaks ties, in time and in scores.
        done: Shows progress.
    """
    return {protocol: _by_protocol(dataset, vectors, systems, seeds, protocol, done) for protocol in PROTOCOLS}


def _by_protocol(
    dataset: Dataset, vectors: Vectors, systems: Sequence[System], seeds: Sequence[int], protocol: Protocol, done: Done
) -> dict[str, Any]:
    splits = [split(dataset.columns, protocol, seed) for seed in seeds]
    validations = [known_to(of.validation, dataset.columns, vectors) for of in splits]
    tests = [known_to(of.test, dataset.columns, vectors) for of in splits]
    found: dict[str, Any] = {}
    for place, system in enumerate(systems):
        done(f"{protocol}: {system.name}", place, len(systems))
        settings, tried = choose(system, validations)
        by_seed = [_measured(system, settings, known) for known in tests]
        found[system.name] = {
            "kind": system.kind,
            "settings": msgspec.to_builtins(settings),
            "validation": tried,
            "test": over_seeds(by_seed),
            "by_seed": by_seed,
        }
    done(protocol, len(systems), len(systems))
    return {"parts": [_described(known) for known in tests], "systems": found}


def choose(system: System, validations: Sequence[Known]) -> tuple[Settings, list[dict[str, Any]]]:
    """The settings of the grid with the greatest mean on validation, and what each of them reached."""
    tried: list[dict[str, Any]] = []
    values: list[float] = []
    for settings in system.grid:
        values.append(float(np.mean([_validated(system, settings, known) for known in validations])))
        tried.append({"settings": msgspec.to_builtins(settings), CHOSEN_BY: values[-1]})
    return system.grid[int(np.argmax(values))], tried


def over_seeds(by_seed: Sequence[Figures]) -> Figures:
    """Mean, least and greatest of every figure over the seeds."""
    found: Figures = {}
    for group in by_seed[0]:
        # A group may be empty by one seed and not by another.
        names = dict.fromkeys(name for of in by_seed for name in of[group])
        found[group] = {name: _spread([of[group][name] for of in by_seed if name in of[group]]) for name in names}
    return found


def _spread(values: list[float]) -> dict[str, float]:
    least, most = min(values), max(values)
    # Rounding may put the mean of equal values beyond them.
    return {"mean": float(np.clip(np.mean(values), least, most)), "min": least, "max": most}


def _validated(system: System, settings: Settings, known: Known) -> float:
    rankings = ranked(system.score(known, settings), known, 10)
    values = accuracy(rankings, known.part.targets, (CHOSEN_BY,))[CHOSEN_BY]
    with_history = groups_of(known).with_history
    return float(values[with_history].mean()) if with_history.any() else 0.0


def _measured(system: System, settings: Settings, known: Known) -> dict[str, dict[str, float]]:
    return measured(ranked(system.score(known, settings), known, _LONGEST), known)


def _described(known: Known) -> dict[str, int]:
    groups = groups_of(known)
    return {
        "known_interactions": len(known.part.known),
        "users_with_history": int(groups.with_history.sum()),
        "cold_users": int(groups.cold.sum()),
        "targets": int(known.part.targets.sum()),
        "cold_items": int(groups.cold_items.sum()),
        "targets_that_are_cold": int((known.part.targets & groups.cold_items).sum()),
    }
