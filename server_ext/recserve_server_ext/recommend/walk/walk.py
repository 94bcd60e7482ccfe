"""The walk of a request: what each stage took and left, and where the candidates came from.

It is worked out from a finished job, for requests that ask for it; others cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec import UNSET

from recserve_client.contract import Slate, SlateWalk, WalkServed, WalkSource, WalkStage
from recserve_server_ext.common.arrays import NO_ROWS, Rows
from recserve_server_ext.config.experiments import Experiment, version_of
from recserve_server_ext.recommend.job import Job
from recserve_server_ext.recommend.query import pinned_rows
from recserve_server_ext.recommend.walk.steps import Steps
from recserve_server_ext.recommend.walk.verdicts import explained_items
from recserve_server_ext.recommend.young import YOUNG

_NS_OF_US: Final = 1000


class _Source(NamedTuple):
    """A source and the rows that it proposed; see `WalkSource`."""

    kind: Any
    name: str
    rows: Rows
    interest: Any = UNSET


def walk_of(
    job: Job, slate: Slate, took_ns: Mapping[str, int], fallback: str, experiments: Sequence[Experiment] = ()
) -> SlateWalk:
    """The walk of a request.

    Args:
        job: The finished job, whose items were ranked in this batch.
        slate: Its answer.
        took_ns: Nanoseconds by stage; see `recserve_server_ext.recommend.walk.stage_clock`.
        fallback: Name of the fallback strategy.
        experiments: The running experiments.
    """
    assert job.request.walk is not None
    steps = Steps(job, slate)
    sources = [*_of_lists(job, fallback), *_of_rules(steps)]
    manifest = job.data.view.snapshot.manifest
    return SlateWalk(
        asked=job.configured.strategy.name,
        stages=_stages(steps, took_ns),
        sources=[_counted(source, steps.shown) for source in sources],
        items=explained_items(steps, job.request.walk.items, [(source.name, source.rows) for source in sources]),
        served=WalkServed(manifest.id, manifest.trained, {one.name: version_of(one) for one in experiments}),
        cold=UNSET if job.cold is None else job.cold.text,
    )


def _counted(source: _Source, shown: Rows) -> WalkSource:
    in_slate = int(np.isin(shown, source.rows).sum())
    return WalkSource(source.kind, source.name, len(source.rows), in_slate, source.interest)


def _stages(steps: Steps, took_ns: Mapping[str, int]) -> list[WalkStage]:
    """The stages with their times, and what each left."""
    timings = steps.slate.timings
    left = {"candidates": len(steps.candidates), "score": len(steps.order), "rules": len(steps.ranked.rows)}
    return [
        WalkStage("resolve", timings.resolve_us),
        WalkStage("queue", timings.queue_us),
        WalkStage("encode", timings.encode_us),
        *(WalkStage(name, ns // _NS_OF_US, left[name]) for name, ns in took_ns.items()),
        WalkStage("explain", timings.explain_us, len(steps.slate.items)),
    ]


def _of_lists(job: Job, fallback: str) -> Iterator[_Source]:
    """What the strategies proposed, for each interest cluster."""
    has_interests = job.request.interests > 1 and not job.is_cold
    quotas = [] if job.options is None else job.options.quotas
    for one in job.lists:
        interest = one.cluster if has_interests else UNSET
        strategy, (found, *of_quotas) = one.configured.strategy, one.found
        own = len(found) - one.filled
        yield _Source("strategy", strategy.name, found[:own], interest)
        for name, rows in strategy.sources(one.query, one.wanted).items():
            yield _Source("part", name, rows, interest)
        if one.filled:
            yield _Source("fallback", fallback, found[own:], interest)
        for quota, rows in zip(quotas, of_quotas, strict=True):
            yield _Source("quota", quota.name, rows, interest)


def _of_rules(steps: Steps) -> Iterator[_Source]:
    """What pins, new items and the server's `young_share` added."""
    job, ranked = steps.job, steps.ranked
    pins = pinned_rows(job)
    pins = pins[pins >= 0]
    if len(pins):
        yield _Source("pins", "pins", pins)
    if job.request.new_items is not None:
        proposed = [rows for one in job.lists for rows in one.found]
        yield _Source("new_items", "new_items", np.setdiff1d(steps.candidates, np.concatenate([*proposed, pins])))
    rules = ranked.rules or []
    young = [row for row, names in zip(ranked.rows.tolist(), rules, strict=False) if YOUNG in names]
    if young:
        yield _Source("young", YOUNG, np.append(NO_ROWS, young))
