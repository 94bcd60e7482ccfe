"""Systems that are what serves: requests by user id, planned and ranked by the code of the server."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from recserve_benchmarks.evaluation.ranking import NEVER, Known
from recserve_benchmarks.evaluation.system import Settings, System
from recserve_benchmarks.evaluation.text import PLAIN, fitted, rules_of
from recserve_client.contract import RecommendForRequest
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Scores, Vectors
from recserve_server_ext.config.blend import BlendRules
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.server import Limits
from recserve_server_ext.counts.counts import Counts, LogColumns, counts_of
from recserve_server_ext.encoder.text_cache import TextCaches
from recserve_server_ext.history.cleaning import of_types
from recserve_server_ext.history.features import select
from recserve_server_ext.history.user_histories import WINDOW, pasts_of
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.fields import ItemFields
from recserve_server_ext.index.manifest import EngineManifest, SnapshotManifest
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.interactions.columns import EventColumns
from recserve_server_ext.recommend.pipeline import Recommender
from recserve_server_ext.recommend.ranking import Ranked, UserRanker
from recserve_server_ext.recommend.user_plans import plan_of, planned
from recserve_server_ext.strategies.counts_view import CountsView

_LONGEST: Final = 20
_BATCH: Final = 64
_BLEND: Final = frozenset(BlendRules.__struct_fields__)


def view_over(vectors: Vectors, ids: list[str]) -> View:
    """A catalogue that is nowhere on disk, searched exactly."""
    items = len(vectors)
    manifest = SnapshotManifest(
        id="evaluation", created="", encoder="", revision=0, source="", items=items, dim=vectors.shape[1],
        engine=EngineManifest(name="exact", parameters={}), field_weights={}, recall_target=None, measured_with="",
        versions={}, files={},
    )  # fmt: skip
    engine = ExactEngine(vectors)
    snapshot = Snapshot(
        manifest=manifest,
        vectors=vectors,
        ids=ids,
        row_of={name: row for row, name in enumerate(ids)},
        available=np.ones(items, np.bool_),
        engine=engine,
        exact=engine,
        fields=ItemFields(pa.table({})),
    )
    return View(snapshot)


def served(
    known: Known, request: RecommendForRequest, rules: HistoryRules, blend: BlendRules, gain: float | None = None
) -> list[Ranked | None]:
    """The slate of each user asked about, by the functions that serve; none where the server would refuse.

    Args:
        known: What may be known.
        request: The user is put in.
        rules: How interactions become weights.
        blend: Of the strategy `blend`.
        gain: See `interests_of`; none = as served.
    """
    columns = known.columns
    ids = columns.subjects
    view = view_over(known.vectors, ids)
    counts = CountsView(
        _counts(known, counted_types(columns, rules), msgspec.structs.replace(blend, text=0.0, prior=0.0)), view
    )
    recommender = Recommender(lambda: view, TextCaches(1), Limits())
    seen: list[list[str]] = [[] for _ in known.part.users]
    for number, item in zip(known.histories.user.tolist(), known.histories.subject.tolist(), strict=True):
        seen[number].append(ids[item])
    pasts = pasts_of(newest(known.histories), seen, rules, blend)
    ranker = UserRanker(blend)
    limits = Limits()
    found: list[Ranked | None] = []
    for start in range(0, len(pasts), _BATCH):
        plans = []
        for past in pasts[start : start + _BATCH]:
            asked_us = past.newest_us if known.part.asked_us is None else known.part.asked_us
            job, made, plan = planned(request, past, counts, recommender, limits, asked_us)
            plan = plan or plan_of(request, job, made, counts)
            plans.append(plan if gain is None else plan.with_gain(gain))
        found += [ranked if isinstance(ranked, Ranked) else None for ranked in ranker.rank(counts, plans)]
    return found


def newest(histories: EventColumns) -> EventColumns:
    """The interactions of each user that a history is made from."""
    order = np.lexsort([np.arange(len(histories.time_us)), histories.time_us, histories.user])
    later = np.empty(len(order), np.int64)
    later[order] = np.repeat(histories.offsets[1:], np.diff(histories.offsets)) - 1 - np.arange(len(order))
    return select(histories, np.flatnonzero(later < WINDOW))


def counted_types(columns: EventColumns, rules: HistoryRules) -> tuple[str, ...]:
    """Types of interactions that count for everybody."""
    return tuple(name for name in columns.types if rules.base.get(name, 0.0) > 0)


# Settings are tried one after the other on the parts of all seeds.
@lru_cache(maxsize=8)
def _counts(known: Known, types: tuple[str, ...], blend: BlendRules) -> Counts:
    """What the server counts of the log: by time, of the types that count."""
    columns = known.columns
    order = np.argsort(columns.time_us, kind="stable")
    order = order[of_types(columns, types)[order]]
    log = LogColumns(columns.user[order], columns.subject[order], columns.time_us[order], columns.subjects, {})
    return counts_of(log, int(columns.time_us.max()), blend)


def as_scores(slates: list[Ranked | None], items: int) -> Scores:
    """[n, items] scores that rank as the slates do; nothing else is ranked."""
    scores = np.full((len(slates), items), NEVER, np.float32)
    for line, slate in zip(scores, slates, strict=True):
        if slate is not None:
            line[slate.rows] = -np.arange(len(slate.rows), dtype=np.float32)
    return scores


def by_request(known: Known, settings: Settings) -> Scores:
    """The lists of the server for a request, with rules of histories and of blends, as the settings say."""
    request = RecommendForRequest(
        user_id="",
        k=_LONGEST,
        strategy=settings.get("strategy", "text"),
        interests=settings.get("interests", 1),
        popular_window=settings.get("popular_window", "mixed"),
        explain=False,
    )
    rules = fitted(rules_of(settings.get("rules", {}), settings.get("base", HistoryRules())), known.columns)
    blend = msgspec.structs.replace(BlendRules(), **{name: of for name, of in settings.items() if name in _BLEND})
    slates = served(known, request, rules, blend, settings.get("gain"))
    return as_scores(slates, len(known.vectors))


def _interests() -> tuple[dict[str, Any], ...]:
    return tuple(
        {"base": PLAIN, "interests": 5, "gain": gain, "rules": {"half_life_events": half_life}}
        for gain, half_life in product((0.05, 0.1), (None, 4.0))
    )


SYSTEMS: Final = (
    System(name="text, several interests", kind="text", score=by_request, grid=_interests()),
    System(name="blend, as served", kind="blend", score=by_request, grid=({"strategy": "blend"},)),
    System(
        name="blend, five interests",
        kind="blend",
        score=by_request,
        grid=({"strategy": "blend", "interests": 5},),
    ),
    System(
        name="blend, pauses ignored",
        kind="blend",
        score=by_request,
        grid=({"strategy": "blend", "stale_half_life_s": 1e12},),
    ),
    System(
        name="blend, chosen",
        kind="blend",
        score=by_request,
        grid=tuple(
            {"strategy": "blend", "half_life_events": half_life, "prior": prior}
            for half_life, prior in product((0.5, 2.0, 4.0), (5.0, 20.0))
        ),
    ),
)
