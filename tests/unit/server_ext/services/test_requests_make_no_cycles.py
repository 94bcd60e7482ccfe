"""Requests leave no reference cycles: their memory is freed at once, not by a later collection of garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recserve_client.contract import RequestError
from recserve_server_ext.recommend.job import CandidateList, Job
from recserve_server_ext.strategies.base import Candidates, Profile, Query
from support.events import NOW, event
from support.small_snapshot import small_snapshot
from support.user_service import Service

HISTORY = [{"item": f"i{row}"} for row in range(10, 22)]
REQUESTS: dict[str, dict[str, Any]] = {
    "history": {"history": HISTORY},
    "texts": {"history": [{"text": "a film"}]},
    "user": {"user_id": "ann"},
    "unknown user": {"user_id": "nobody"},
    "fusion": {"user_id": "ann", "strategy": "blend"},
    "interests": {"history": HISTORY, "interests": 3},
    "slate rules": {
        "history": HISTORY,
        "slate": {
            "diversify": 0.3,
            "quotas": [{"where": {"op": "range", "attribute": "year", "ge": 1950}, "at_least": 2}],
        },
    },
    "exploration": {"history": HISTORY, "explore": {"kind": "thompson", "at_most": 0.4}},
    "pages": {"history": HISTORY, "page": {"size": 3}},
    "refused": {"history": [{"item": "i10", "weight": 1}, {"item": "i10", "weight": -1}]},
}


@pytest.fixture
def service(tmp_path: Path, store_place: Path | str) -> Iterator[Service]:
    service = Service(small_snapshot(tmp_path), store_place)
    service.store.record([event(item=f"i{row}", timestamp=NOW - row) for row in range(10, 16)])
    service.counter.count()
    yield service
    service.store.close()


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_leaves_nothing_to_collect(service: Service, kind: str) -> None:
    service.batch(REQUESTS[kind])  # fills caches
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        (answer,) = service.batch({**REQUESTS[kind], "k": 5})
        gc.collect()
        left = [
            type(found).__name__
            for found in gc.garbage
            if isinstance(found, Job | Query | Profile | CandidateList | Candidates)
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert isinstance(answer, RequestError) == (kind == "refused")
    assert left == []
