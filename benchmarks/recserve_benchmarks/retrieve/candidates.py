"""What `recserve bench retrieve` measures: engines with parameters, and which of them are compared with each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import msgspec

from recserve_export.index.engine_choice import Curve, Settings, build_engine, ef_curve
from recserve_export.index.recall import CurvePoint, Users, choose, recall_of, sample_users
from recserve_export.stages import silent
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine

Done = Callable[[str, int, int], None]
#: In the order of tables.
ENGINES = ("hnsw", "scan", "exact")
#: Graphs (M) that hnswlib's best setting is looked for among.
GRAPHS = (16, 32)
#: The kinds of users whose recall has to be reached, by the name of the comparison.
WANTED: dict[str, tuple[str, ...]] = {"interests": ("interests",), "both": ("interests", "random")}
_NARROWEST, _WIDEST = 10, 4096
#: Points of a curve of `scan` that are dearer than the chosen one, and that are cheaper.
_DEARER, _CHEAPER = 2, 4


@dataclass(frozen=True, eq=False)
class Candidate:
    """An engine with the parameters it is measured with.

    Attributes:
        engine: Ready to search; candidates of one graph share it, and name the width with every search.
        parameters: Built and searched with.
        recall: Recall@10 by kind of user.
        chosen_for: Names of `WANTED` for which `auto` chose this.
        least_ef_for: Names of `WANTED` that this graph reaches with this `ef` and no smaller one.
    """

    engine: Engine
    parameters: dict[str, int]
    recall: dict[str, float] = field(default_factory=dict)
    chosen_for: tuple[str, ...] = ()
    least_ef_for: tuple[str, ...] = ()

    def search(self, queries: Vectors) -> Vectors:
        """Scores of the ten best of each query."""
        return self.engine.search(queries, 10, ef=self.parameters.get("ef"))[1]


def build_candidates(vectors: Vectors, recall: float, users: int, seed: int, done: Done) -> list[Candidate]:
    """Build every engine, and take what is to be compared and points of the curves about it.

    What `auto` chooses is chosen as `recserve index build` does it, by the least CPU time whose recall reaches the
    target by its lower bound: once for both kinds of users, once for `interests` alone. hnswlib's best settings are the
    smallest `ef` of each graph whose mean recall reaches the target for the very users that recall is reported of. So
    where the two rules differ, the graph has the better of it.

    Args:
        vectors: [items, dim] unit float32, enough for `scan`.
        recall: Recall@10 to choose for.
        users: User vectors of each kind to measure recall with.
        seed: Of the users.
        done: Says how far it is.
    """
    settings = Settings(engine="scan", recall=recall, users=users, seed=seed)
    choosing, reporting = (sample_users(vectors, count=users, seed=seed + apart) for apart in (0, 1))
    graphs: list[Curve] = []
    found: list[Candidate] = []
    for m in GRAPHS:
        with _stage(f"build the graph with M {m}", len(vectors), done) as advance:
            graph = HnswEngine.build(
                vectors, m=m, ef_construction=settings.ef_construction, ef=settings.ef[0], seed=seed, done=advance
            )
        done(f"measure the graph with M {m}", 0, 1)
        graphs.append(ef_curve(graph, choosing, settings, silent))
        found += [Candidate(graph, dict(point.parameters)) for point in graphs[-1].points]
        for name in WANTED:
            done(f"narrow the search of the graph with M {m}, {name}", 0, 1)
            found += _least(graph, reporting, name, recall)
    for name in WANTED:
        done(f"build and measure scan for {name}", 0, 1)
        found += _chosen(vectors, settings, choosing, name, graphs)
    found.append(Candidate(ExactEngine(vectors), {}))
    return [replace(one, recall=recall_by_kind(one, reporting)) for one in _merged(found)]


def recall_by_kind(candidate: Candidate, users: Users) -> dict[str, float]:
    """Mean recall@10 of a candidate for each kind of user."""
    return {
        kind: float(recall_of(candidate.search(queries), users.last[kind]).mean())
        for kind, queries in users.vectors.items()
    }


def least_ef(reached: Callable[[int], bool]) -> int | None:
    """The smallest `ef` that reaches the recall, by halving: a wider search finds no less, but for noise.

    Args:
        reached: Whether an `ef` does.

    Returns:
        None where not even the widest one does.
    """
    below, least = _NARROWEST - 1, _WIDEST
    if not reached(least):
        return None
    while least - below > 1:
        middle = (below + least) // 2
        if reached(middle):
            least = middle
        else:
            below = middle
    return least


def _least(graph: Engine, users: Users, name: str, recall: float) -> list[Candidate]:
    """This graph with the smallest `ef` whose mean recall reaches the target for these users; none where none does."""
    wanted = replace(users, vectors={kind: users.vectors[kind] for kind in WANTED[name]})

    def reached(ef: int) -> bool:
        return min(recall_by_kind(Candidate(graph, {"ef": ef}), wanted).values()) >= recall

    ef = least_ef(reached)
    return [] if ef is None else [Candidate(graph, {**graph.parameters, "ef": ef}, least_ef_for=(name,))]


def _chosen(vectors: Vectors, settings: Settings, users: Users, name: str, graphs: Sequence[Curve]) -> list[Candidate]:
    """What `auto` chooses where these users are wanted, and the points of `scan` about its own choice."""
    kinds = WANTED[name]
    alone = users.vectors[kinds[0]] if len(kinds) == 1 else None
    scan, report = build_engine(vectors, settings, logged=alone)
    own = [point for point in report.points if point.engine == "scan"]
    best_of_scan = own[choose(own, settings.recall).point]
    candidates = {id(point): (scan.with_parameters(point.parameters), point) for point in _about(best_of_scan, own)}
    for curve in graphs:
        for point in curve.points:
            seen = _for_kinds(point, kinds)
            candidates[id(seen)] = (curve.engine, seen)
    exact = report.points[-1]
    candidates[id(exact)] = (ExactEngine(vectors), exact)
    everything = [point for _, point in candidates.values()]
    chosen = everything[choose(everything, settings.recall).point]
    return [
        Candidate(engine, dict(point.parameters), chosen_for=(name,) if point is chosen else ())
        for engine, point in candidates.values()
    ]


def _for_kinds(point: CurvePoint, kinds: Sequence[str]) -> CurvePoint:
    """The point as it is where only these kinds of users are looked at."""
    recall, low = ({kind: of[kind] for kind in kinds} for of in (point.recall, point.recall_low))
    return msgspec.structs.replace(point, recall=recall, recall_low=low)


def _about(chosen: CurvePoint, own: Sequence[CurvePoint]) -> list[CurvePoint]:
    """The chosen point, two dearer and four cheaper ones of the same index."""
    same = [point for point in own if all(point.parameters[x] == chosen.parameters[x] for x in ("lists", "codes"))]
    same.sort(key=lambda point: -point.cpu_us_per_user)
    at = next(place for place, point in enumerate(same) if point is chosen)
    return same[max(0, at - _DEARER) : at + _CHEAPER + 1]


def _merged(found: Sequence[Candidate]) -> list[Candidate]:
    """Each engine with the same parameters once, engines together."""
    merged: dict[tuple[object, ...], Candidate] = {}
    for one in found:
        key = (one.engine.name, *sorted(one.parameters.items()))
        known = merged.get(key, one)
        merged[key] = replace(
            known,
            chosen_for=tuple(dict.fromkeys((*known.chosen_for, *one.chosen_for))),
            least_ef_for=tuple(dict.fromkeys((*known.least_ef_for, *one.least_ef_for))),
        )
    return sorted(merged.values(), key=lambda one: (ENGINES.index(one.engine.name), sorted(one.parameters.items())))


@contextmanager
def _stage(what: str, total: int, done: Done) -> Iterator[Callable[[int], None]]:
    """Counts up to a total, and says how far it is."""
    counted = 0
    done(what, 0, total)

    def advance(count: int) -> None:
        nonlocal counted
        counted += count
        done(what, counted, total)

    yield advance
