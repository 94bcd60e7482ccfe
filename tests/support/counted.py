"""Batches of requests through the pipeline, for a process whose instructions are counted."""

from __future__ import annotations

import gc
import json
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.config.server import Limits
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.snapshot import Content, Snapshot, write
from support.calls import Call
from support.service import without_users
from support.small_snapshot import text_space

ITEMS, DIM, BATCH = 600, 384, 16
#: What requests ask for beside ten items for 20 behaviours.
KINDS: Final[dict[str, dict[str, Any]]] = {
    "known": {"accept": "msgpack"},
    "plain": {"explain": False},
    "rules": {"fields": ["title"], "slate": {"diversify": 0.3, "groups": [{"attribute": "year", "at_most": 2}]}},
}


def answer_batches(kind: str, batches: int) -> None:
    """Answer a first batch of requests of a kind, which imports and fills what lasts, and then some more."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ITEMS, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    fields = [{"title": f"Title {row}", "year": 1900 + row % 120} for row in range(ITEMS)]
    ids = [f"i{row}" for row in range(ITEMS)]
    content = Content(
        spaces=text_space(vectors, ExactEngine(vectors)), ids=ids, encoder="test", revision=1, fields=fields
    )
    with tempfile.TemporaryDirectory() as folder:
        view = View(Snapshot.load(write(Path(folder), content), encoder="test"))
        model = Batcher(without_users(lambda: view, Limits()), {})
        gc.disable()  # a collection costs what thousands of requests do, and comes by chance
        for _ in range(1 + batches):
            calls = [Call(_request(rng, KINDS[kind])) for _ in range(BATCH)]
            assert all(isinstance(answer, bytes) for answer in model.run(calls))


def _request(rng: np.random.Generator, more: dict[str, Any]) -> bytes:
    history = [{"item": f"i{row}"} for row in rng.choice(ITEMS, 20, replace=False).tolist()]
    return json.dumps({"history": history, "k": 10, "strategy": "text", **more}).encode()
