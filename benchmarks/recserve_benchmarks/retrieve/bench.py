"""`recserve bench retrieve`: the engines at several sizes, retrieval over the chosen one, and a swap under load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from statistics import median
from typing import Any, Final

from recserve_benchmarks.harness.corpus import prepare
from recserve_benchmarks.harness.report import setup
from recserve_benchmarks.harness.run import Run
from recserve_benchmarks.retrieve import curves, over_engine, start, swap
from recserve_benchmarks.retrieve.curves import ENGINES, RECALL
from recserve_benchmarks.retrieve.items import grown, some_of

#: Real texts that the films have, at most.
REAL: Final = 65_000
#: Sizes to measure below the number of items that is asked for.
_SIZES: Final = (10_000, 100_000, 1_000_000)
#: Users of each kind to measure recall with.
_USERS, _QUICK_USERS = 500, 50
_QUICK_ITEMS: Final = 10_000


def measure(run: Run, milvus: str, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure all of it.

    Args:
        run: With the largest number of items; beyond the real ones they are synthetic.
        milvus: Where Milvus is; empty leaves it out.
        keep: Called with the results so far after each part, for a run that ends early.

    Returns:
        `sizes`: the figures of each number of items. `user_vectors`, `ratio_to_raw`, `filtered`, `swap_under_load`:
        those of the largest number of real items. `cpu_growth`: between the sizes.

    Raises:
        BenchmarkError: Requests failed, or a process ended.
        ServerError: A server did not start, or Milvus is away.
    """
    wanted = min(run.items, _QUICK_ITEMS) if run.quick else run.items
    texts = prepare(run, min(wanted, REAL)).vectors
    real = len(texts)
    items = wanted if wanted > REAL else real
    vectors = grown(texts, items, run)
    users = _QUICK_USERS if run.quick else _USERS
    results: dict[str, Any] = {"recall": RECALL, "sizes": [], "spread": {}}
    about = {"items": items, "real": real, "users": users, "milvus": milvus}
    results["setup"] = setup(run, **about)
    with ExitStack() as stack:
        for size in sizes_up_to(items, real):
            of_size = vectors[:size] if size >= real else some_of(texts, size, run.seed)
            built = curves.build(of_size, users, milvus, run, stack)
            found = curves.measure(built, of_size, users, run)
            chosen = built.chosen.engine.with_parameters(built.chosen.point.parameters)
            del built  # the memory of its graphs
            started = start.measure(of_size, chosen, run.seed)
            results["sizes"].append({"items": size, "chosen": chosen.name, **found, **started})
            keep(results)
            if size == real:
                results |= {**_compared(found["to_hnsw"]), **over_engine.measure(of_size, chosen, run)}
                results["swap_under_load"] = swap.measure(of_size, chosen, run)
                keep(results)
    results["cpu_growth"] = growth(results["sizes"])
    results["setup"] = setup(run, **about)  # with the contention of the whole run
    return results


def sizes_up_to(items: int, real: int) -> list[int]:
    """Numbers of items to measure: the usual ones, all real items, and as many as there are."""
    return sorted({*(size for size in _SIZES if size < items), real, items})


def growth(sizes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times the CPU time of a user grows from each size to the next at equal recall, by engine."""
    steps = []
    for before, after in pairwise(sizes):
        cpu_us = [{name: of["cpu_us_per_user"] for name, of in size["at_recall"].items()} for size in (before, after)]
        ratios = {name: cpu_us[1][name] / cpu_us[0][name] for name in ENGINES if all(name in of for of in cpu_us)}
        steps.append({"from": before["items"], "to": after["items"], **ratios})
    return steps


def _compared(to_hnsw: dict[str, list[float]]) -> dict[str, Any]:
    """How many times as fast as hnswlib the chosen engine is; 0 where no graph reaches the recall."""
    found = {"best_to_hnsw": to_hnsw["users_per_s"] or [0.0], "cpu_hnsw_to_best": to_hnsw["cpu"] or [0.0]}
    return {
        "user_vectors": {name: median(values) for name, values in found.items()},
        "spread": {f"user_vectors.{name}": (min(values), max(values)) for name, values in found.items()},
    }
