"""The evaluation: settings are chosen on validation, then measured once on the test, with several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from recserve_benchmarks.evaluation.data import Dataset, encode_texts
from recserve_benchmarks.evaluation.metrics import accuracy, measured
from recserve_benchmarks.evaluation.ranking import Known, known_to, ranked
from recserve_benchmarks.evaluation.split import PROTOCOLS, Protocol, split
from recserve_benchmarks.evaluation.system import Settings, System
from recserve_benchmarks.harness.report import machine
from recserve_benchmarks.harness.run import Show
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.encoder.text_encoder import TextEncoder

Figures = dict[str, dict[str, Any]]
#: What settings are chosen by: its mean over users with a history, and over seeds.
CHOSEN_BY: Final = "ndcg@10"
_LONGEST: Final = 20


def evaluate(
    dataset: Dataset, encoder: TextEncoder, systems: Sequence[System], seeds: Sequence[int], show: Show
) -> dict[str, Any]:
    """Measure systems by both protocols.

    Args:
        dataset: Interactions and item texts.
        encoder: Makes the item vectors.
        systems: To be measured.
        seeds: Of what breaks ties, in time and in scores.
        show: Shows progress.

    Returns:
        `setup`, and by protocol `parts` (what is known and asked, for each seed) and `systems`: settings, what each
        setting reached on validation, and the figures on the test over the seeds and by seed.
    """
    show("encode item texts", 0, dataset.items)
    vectors = encode_texts(dataset, encoder)
    setup = {
        **machine(),
        "dataset": dataset.files,
        "users": dataset.columns.users,
        "items": dataset.items,
        "items_with_text": int(vectors.any(axis=1).sum()),
        "interactions": len(dataset.columns.time_us),
        "text_fields": dataset.fields,
        "encoder": {"name": encoder.manifest.name, "fingerprint": encoder.fingerprint},
        "seeds": list(seeds),
    }
    protocols = {protocol: _by_protocol(dataset, vectors, systems, seeds, protocol, show) for protocol in PROTOCOLS}
    return {"setup": setup, "protocols": protocols}


def _by_protocol(
    dataset: Dataset, vectors: Vectors, systems: Sequence[System], seeds: Sequence[int], protocol: Protocol, show: Show
) -> dict[str, Any]:
    splits = [split(dataset.columns, protocol, seed) for seed in seeds]
    validations = [known_to(of.validation, dataset.columns, vectors) for of in splits]
    tests = [known_to(of.test, dataset.columns, vectors) for of in splits]
    found: dict[str, Any] = {}
    for place, system in enumerate(systems):
        show(f"{protocol}: {system.name}", place, len(systems))
        settings, tried = choose(system, validations)
        by_seed = [_measured(system, settings, known) for known in tests]
        found[system.name] = {
            "kind": system.kind,
            "settings": msgspec.to_builtins(settings),
            "validation": tried,
            "test": over_seeds(by_seed),
            "by_seed": by_seed,
        }
    show(protocol, len(systems), len(systems))
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
    return float(values[known.with_history].mean()) if known.with_history.any() else 0.0


def _measured(system: System, settings: Settings, known: Known) -> dict[str, dict[str, float]]:
    return measured(ranked(system.score(known, settings), known, _LONGEST), known)


def _described(known: Known) -> dict[str, int]:
    return {
        "known_interactions": len(known.part.known),
        "users_with_history": int(known.with_history.sum()),
        "cold_users": int((~known.with_history).sum()),
        "targets": int(known.part.targets.sum()),
        "cold_items": int(known.cold_items.sum()),
        "targets_that_are_cold": int((known.part.targets & known.cold_items).sum()),
    }
