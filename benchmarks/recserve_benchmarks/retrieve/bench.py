"""`recserve bench retrieve`: every engine on user vectors, our retrieval over it, swaps under load, and growth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recserve_benchmarks.harness.corpus import TextVectors
from recserve_benchmarks.retrieve import filtered as retrieve_filtered
from recserve_benchmarks.retrieve import scale as retrieve_scale
from recserve_benchmarks.retrieve import swap as retrieve_swap
from recserve_benchmarks.retrieve import views as retrieve_views
from recserve_benchmarks.retrieve.candidates import Candidate, build_candidates
from recserve_benchmarks.retrieve.corpus import grown, some_of
from recserve_benchmarks.retrieve.curves import Curves
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.index.engines.engine import Engine

Done = Callable[[str, int, int], None]
#: Recall@10 of `interests` at which engines are compared.
RECALL = 0.985


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to measure.

    Attributes:
        items: Of the curves; also the largest size that growth is measured at.
        rounds: Rounds; medians are over them.
        users: User vectors of each kind to measure recall with.
        swap: Whether to measure a swap under load.
        graph_budget_s: Of growth: a graph that would take longer to build is left out.
        seed: Of everything drawn.
    """

    items: int = 65_000
    rounds: int = 5
    users: int = 500
    swap: bool = True
    graph_budget_s: float = 600.0
    seed: int = 0


class RetrieveBench:
    """Measures retrieval over the texts of a catalogue."""

    def __init__(self, texts: TextVectors, encoder: TextEncoder, plan: Plan, done: Done) -> None:
        self._texts = texts
        self._encoder = encoder
        self._plan = plan
        self._done = done

    def run(self, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Measure all of it.

        Args:
            keep: Called with what is measured so far, after every part: a long run that ends early leaves something.

        Returns:
            Figures by name; see docs/results/retrieval.md.

        Raises:
            BenchmarkError: Requests failed, or a process ended.
            ServerError: A server did not start.
        """
        plan = self._plan
        real = self._texts.vectors
        items = some_of(real, plan.items, plan.seed)
        results: dict[str, Any] = {}
        candidates = build_candidates(items, RECALL, plan.users, plan.seed, self._done)
        curves = Curves(candidates, RECALL)
        curves.measure(items, plan.rounds, plan.seed, self._done)
        results |= {"engines": curves.engines(), "user_vectors": curves.user_vectors()}
        keep(results)
        chosen = _chosen(candidates)
        del candidates, curves  # the memory of their graphs
        self._done("filters", 0, 1)
        results["filtered"] = retrieve_filtered.measure(items, chosen, plan.rounds, plan.seed)
        self._done("retrieval over the engine", 0, 1)
        results["ratio_to_raw"] = retrieve_views.measure(items, chosen, plan.rounds, plan.seed)
        keep(results)
        if plan.swap:
            results["swap_under_load"] = self._swap(items, chosen)
            keep(results)
        del chosen
        results["scale"] = self._scale(real)
        return results

    def _scale(self, real: Vectors) -> dict[str, Any]:
        plan = self._plan
        vectors = grown(real, max(plan.items, len(real)), plan.seed, self._done)[: plan.items]
        growth = retrieve_scale.Growth(
            recall=RECALL,
            users=plan.users,
            graph_budget_s=plan.graph_budget_s,
            seed=plan.seed,
        )
        return retrieve_scale.measure(vectors, len(real), growth, self._done)

    def _swap(self, vectors: Vectors, engine: Engine) -> dict[str, Any]:
        served = retrieve_swap.Served(
            vectors=vectors,
            engine=engine,
            encoders=self._texts.encoders,
            precision=self._encoder.manifest.precision,
            fingerprint=self._encoder.fingerprint,
        )
        return retrieve_swap.measure(served, self._plan.seed, self._done)


def _chosen(candidates: list[Candidate]) -> Engine:
    """The engine that auto chose for both kinds of users, searching as it chose."""
    chosen = next(candidate for candidate in candidates if "both" in candidate.chosen_for)
    return chosen.engine.with_parameters(chosen.parameters) if chosen.parameters else chosen.engine
