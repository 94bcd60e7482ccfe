"""Filtered retrieval: k items whenever k match, and the right ones, however selective or correlated the filter is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_client.contract.filters import Exists
from recserve_server_ext.attributes.view import Allowed
from recserve_server_ext.catalogue.view import View, view_over
from recserve_server_ext.index.engines.exact import ExactEngine, search_among
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.space import EngineManifest, Space
from recserve_server_ext.retrieval import search as retrieval
from recserve_server_ext.retrieval.search import CandidateSpec, search
from support.engines import EngineMaker
from support.examples import examples

ITEMS, DIM, USERS = 4000, 32, 40
NOBODY = np.empty(0, np.int64)


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def clustered(rng: np.random.Generator) -> NDArray[np.float32]:
    centres = rng.normal(size=(40, DIM))
    return unit(centres[rng.integers(0, 40, ITEMS)] + 0.6 * rng.normal(size=(ITEMS, DIM)))


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return clustered(np.random.default_rng(5))


@pytest.fixture(scope="module")
def users(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    rng = np.random.default_rng(6)
    return unit(vectors[rng.integers(0, ITEMS, (USERS, 20))].mean(axis=1, dtype=np.float64))


KINDS = ["independent", "towards the users", "away from the users"]
SHARES = [0.001, 0.05, 0.5]


@pytest.fixture(scope="module")
def masks(vectors: NDArray[np.float32], users: NDArray[np.float32]) -> dict[str, NDArray[np.bool_]]:
    """By the name of the attribute that matching items have."""
    return {f"{kind} {share}": mask_of(kind, share, vectors, users) for kind in KINDS for share in SHARES}


@pytest.fixture(scope="module")
def view(make_engine: EngineMaker, vectors: NDArray[np.float32], masks: dict[str, NDArray[np.bool_]]) -> View:
    fields = [{name: True for name, mask in masks.items() if mask[row]} for row in range(ITEMS)]
    return view_over(vectors, make_engine(vectors, fields))


def mask_of(kind: str, share: float, vectors: NDArray[np.float32], users: NDArray[np.float32]) -> NDArray[np.bool_]:
    count = max(12, round(share * ITEMS))
    towards = vectors @ unit(users.mean(axis=0, dtype=np.float64))
    order = {
        "independent": np.random.default_rng(7).permutation(ITEMS),
        "towards the users": np.argsort(-towards),
        "away from the users": np.argsort(towards),
    }[kind]
    mask = np.zeros(ITEMS, np.bool_)
    mask[order[:count]] = True
    return mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("always_drop", [False, True])
def test_recall(
    view: View,
    vectors: NDArray[np.float32],
    users: NDArray[np.float32],
    masks: dict[str, NDArray[np.bool_]],
    kind: str,
    share: float,
    always_drop: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if always_drop:
        monkeypatch.setattr(retrieval, "_EXACT_SHARE", 0.0)
        monkeypatch.setattr(retrieval, "_EXACT_ITEMS", 0)
    name = f"{kind} {share}"
    mask, allowed = masks[name], Allowed(masks[name], ITEMS, Exists(name))
    found = search(view.text, users, [CandidateSpec(10, NOBODY, None, allowed)] * USERS)
    matching = np.flatnonzero(mask)
    hits = 0
    for user, rows in zip(users, found, strict=True):
        assert len(rows) == 10
        assert mask[rows].all()
        best = matching[np.argsort(-(vectors[matching] @ user))[:10]]
        hits += len(set(best.tolist()) & set(rows.tolist()))
    assert hits / (10 * USERS) >= 0.98


@examples(60)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 50), share=st.floats(0, 1), selective=st.booleans())
def test_k_items_whenever_k_match(seed: int, k: int, share: float, selective: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors, users = unit(rng.normal(size=(50, 8))), unit(rng.normal(size=(5, 8)))
    view = view_over(vectors, HnswEngine.build(vectors, m=4, ef_construction=10, ef=10, threads=1))
    masks = [Allowed(rng.random(50) < share, 50) for _ in range(2)]
    banned = [rng.integers(0, 50, rng.integers(0, 20)) for _ in users]
    # Two filters and none, in one batch.
    filters = [masks[0], masks[1], None, masks[0], masks[1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_EXACT_ITEMS", 2000 if selective else 0)
        wanted = [CandidateSpec(k, out, None, allowed) for out, allowed in zip(banned, filters, strict=True)]
        found = search(view.text, users, wanted)
    for rows, out, allowed in zip(found, banned, filters, strict=True):
        fits = np.ones(50, np.bool_) if allowed is None else allowed.mask.copy()
        fits[out] = False
        assert len(rows) == min(k, np.count_nonzero(fits))
        assert fits[rows].all()
        assert len(set(rows.tolist())) == len(rows)


def test_search_among_in_chunks_is_the_search_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    vectors, queries = unit(rng.normal(size=(500, 8))), unit(rng.normal(size=(7, 8)))
    # Equal vectors: of equal scores the lower row comes first, across chunks too.
    vectors[250:] = vectors[:250]
    among = np.flatnonzero(rng.random(500) < 0.7)
    whole = search_among(vectors, queries, among, 40)
    monkeypatch.setattr("recserve_server_ext.index.engines.exact._GATHERED", 64)
    parts = search_among(vectors, queries, among, 40)
    assert np.array_equal(parts[0], whole[0])
    # float32 sums in blocks of another shape: 1e-6.
    assert np.allclose(parts[1], whole[1], atol=1e-6)
    assert np.array_equal(search_among(vectors, queries, among[:3], 5)[0][:, 3:], np.full((7, 2), -1))


def test_a_graph_searches_wider_where_a_filter_drops_items(vectors: NDArray[np.float32]) -> None:
    seen: list[int | None] = []

    class Watching(ExactEngine):
        def search(
            self,
            queries: NDArray[np.float32],
            k: int,
            *,
            ef: int | None = None,
            banned: Sequence[NDArray[np.int64]] = (),
        ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            seen.append(ef)
            return super().search(queries, k, ef=ef, banned=banned)

    plain = view_over(vectors, Watching(vectors)).snapshot
    engine = EngineManifest(name="hnsw", parameters={"ef": 100})
    manifest = msgspec.structs.replace(plain.text.manifest, engine=engine)
    space = Space(name="text", manifest=manifest, items=ITEMS, vectors=vectors, engine=plain.text.engine)
    graph = View(dataclasses.replace(plain, spaces={"text": space}))
    most = Allowed(np.arange(ITEMS) % 4 != 0, ITEMS)
    few = Allowed(np.arange(ITEMS) < 20, ITEMS)
    for allowed, ef in ((most, None), (most, 64), (None, None), (few, None)):
        search(graph.text, vectors[:1], [CandidateSpec(5, NOBODY, ef, allowed)])
    # 100 * sqrt(4 / 3), the request's own, the engine's own; a selective filter does not ask the engine at all.
    assert seen == [115, 64, None]
