"""All systems of an evaluation, those that others are made of first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.evaluation import blend as evaluate_blend
from recserve_benchmarks.evaluation import log as evaluate_log
from recserve_benchmarks.evaluation import options as evaluate_options
from recserve_benchmarks.evaluation import served as evaluate_served
from recserve_benchmarks.evaluation.system import System

SYSTEMS: Final[tuple[System, ...]] = (
    *evaluate_log.SYSTEMS,
    *evaluate_options.SYSTEMS,
    *evaluate_blend.SYSTEMS,
    *evaluate_served.SYSTEMS,
)


def named(names: Sequence[str]) -> list[System]:
    """The systems with these names, popularity, and those that they are made of; all where none is named.

    Raises:
        BenchmarkError: There is none with such a name.
    """
    known = {system.name: system for system in SYSTEMS}
    wanted = {"popularity", *names} if names else set(known)
    for name in names:
        if name not in known:
            raise BenchmarkError(f"there is no system {name!r}; there are: {', '.join(known)}")
        base = known[name].base
        while base is not None:
            wanted.add(base)
            base = known[base].base
    return [system for system in SYSTEMS if system.name in wanted]
