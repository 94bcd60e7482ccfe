"""All systems of an evaluation: baselines, and every registered strategy."""

from __future__ import annotations

from collections.abc import Sequence

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.evaluation import baselines, served
from recserve_benchmarks.evaluation.system import System


def named(names: Sequence[str], *, quick: bool = False) -> list[System]:
    """Popularity and the systems with these names; all where none is named, or with `quick` those that train fast.

    Raises:
        BenchmarkError: There is none with such a name.
    """
    known = {system.name: system for system in (*baselines.SYSTEMS, *served.systems(names, quick=quick))}
    for name in names:
        if name not in known:
            every = ", ".join([*(system.name for system in baselines.SYSTEMS), *(of.name for of in served.systems())])
            raise BenchmarkError(f"there is no system {name!r}; there are: {every}")
    wanted = {"popularity", *names} if names else set(known)
    return [system for system in known.values() if system.name in wanted]
