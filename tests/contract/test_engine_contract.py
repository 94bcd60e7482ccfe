"""What retrieval relies on, of every engine: those in this process, and a real Milvus."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_client.contract import RequestError
from recserve_client.contract.filters import BOUNDS, Filter, Prefix, Value, Within, leaf_values, leaves
from recserve_client.where import parse_where
from recserve_server_ext.attributes.columns import AttributeColumns
from recserve_server_ext.attributes.filters import filter_mask
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.engine import Engine, RemoteEngine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.milvus.engine import MilvusEngine
from support.any_filter import filters
from support.engines import EngineMaker
from support.examples import examples

ITEMS, DIM = 2000, 16
WORDS = ["", "a", "ab", "b", "é", "\U0001f600", "50%", "a_b", 'q"\\\n', "\ud7ff", "\U0010ffff"]
NUMBERS = [
    0,
    1,
    -1,
    7,
    7.0,
    0.5,
    -0.0,
    -0.5,
    1e300,
    5e-324,
    2**53,
    2**53 + 1,
    -(2**53) - 1,
    2**63 - 1,
    -(2**63),
    2.0**63,
]
ODD: list[Any] = [{}, {"a": 1}, 2**70, float("nan"), None, [], [None, {}, [1]]]
NAMES = ["word", "number", "flag", "tags", "place", "mixed"]


def unit(count: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def random_fields(rng: np.random.Generator) -> dict[str, Any]:
    """An item of which any attribute may be missing or odd."""

    def some(values: list[Any]) -> Any:
        return values[rng.integers(len(values))]

    parts: dict[str, Any] = {
        "word": some(WORDS),
        "number": some(NUMBERS),
        "flag": bool(rng.integers(2)),
        "tags": [some([*WORDS, *NUMBERS, True]) for _ in range(rng.integers(4))],
        "place": [float(rng.uniform(-90, 90)), float(rng.uniform(-180, 180))],
        "mixed": some([*WORDS, *NUMBERS, True, False, *ODD, ["a", 7.0], "x" * 3000]),
    }
    return {name: value for name, value in parts.items() if rng.random() < 0.8}


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return unit(ITEMS, 1)


@pytest.fixture(scope="module")
def fields() -> list[dict[str, Any]]:
    rng = np.random.default_rng(2)
    return [random_fields(rng) for _ in range(ITEMS)]


@pytest.fixture(scope="module")
def engine(make_engine: EngineMaker, vectors: Vectors, fields: list[dict[str, Any]]) -> Engine:
    return make_engine(vectors, fields)


@pytest.fixture(scope="module")
def remote(engine: Engine) -> MilvusEngine:
    assert isinstance(engine, MilvusEngine)
    return engine


#: Of those that evaluate filters themselves.
MILVUS = pytest.param("milvus", marks=pytest.mark.milvus)
elsewhere = pytest.mark.parametrize("make_engine", [MILVUS], indirect=True, scope="module")


@pytest.mark.parametrize("users", [1, 3, 40])
def test_it_finds_what_exact_finds_with_exact_scores(engine: Engine, vectors: Vectors, users: int) -> None:
    queries = unit(users, 3)
    rows, scores = engine.search(queries, 10)
    expected, _ = ExactEngine(vectors).search(queries, 10)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    assert np.mean(rows == expected) >= 0.98
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("k", [1, 1000, ITEMS, ITEMS + 5])
def test_as_many_as_wanted_and_no_more_than_there_are(engine: Engine, k: int) -> None:
    rows, scores = engine.search(unit(3, 4), k)
    found = min(k, ITEMS)
    assert rows.shape == scores.shape == (3, k)
    assert all(len(set(line)) == found for line in rows[:, :found].tolist())
    assert (rows[:, :found] >= 0).all()
    assert (rows[:, found:] == -1).all()
    assert np.isneginf(scores[:, found:]).all()


def test_banned_items_are_left_out_and_others_take_their_place(engine: Engine, vectors: Vectors) -> None:
    queries = unit(7, 8)
    best, _ = ExactEngine(vectors).search(queries, ITEMS)
    nobody, far = np.empty(0, np.int64), best[4, 1000:1050]
    banned = [best[0, :20], nobody, best[2, 5:7], best[3, :1], far, best[5, :500], best[6, ::2]]
    rows, scores = engine.search(queries, 10, banned=banned)
    expected = [line[~np.isin(line, some)][:10] for line, some in zip(best, banned, strict=True)]
    assert all(not np.isin(line, some).any() for line, some in zip(rows, banned, strict=True))
    # Of 70; engines need not find all.
    assert sum(np.isin(line, wanted).sum() for line, wanted in zip(rows, expected, strict=True)) >= 66
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-6)
    for number, query in enumerate(queries):
        np.testing.assert_array_equal(engine.search(query[None], 10, banned=[banned[number]])[0][0], rows[number])


def test_all_but_a_few_may_be_banned(engine: Engine) -> None:
    queries = unit(2, 9)
    rows, scores = engine.search(queries, 10, banned=[np.arange(ITEMS - 4), np.arange(ITEMS)])
    assert sorted(rows[0, :4].tolist()) == list(range(ITEMS - 4, ITEMS))
    assert (np.diff(scores[0, :4]) <= 0).all()
    assert np.isneginf([*scores[0, 4:], *scores[1]]).all()
    assert {*rows[0, 4:].tolist(), *rows[1].tolist()} == {-1}


def test_nobody(engine: Engine) -> None:
    assert engine.search(np.empty((0, DIM), np.float32), 3)[0].shape == (0, 3)


def test_the_same_from_many_threads_and_in_any_batch(engine: Engine) -> None:
    queries = unit(64, 5)
    expected, _ = engine.search(queries, 10)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda start: engine.search(queries[start : start + 4], 10)[0], range(0, 64, 4)))
    np.testing.assert_array_equal(np.concatenate(found), expected)


def allowed_rows(engine: RemoteEngine, condition: Filter) -> NDArray[np.int64]:
    """All rows that the engine lets through."""
    rows, _ = engine.search(unit(1, 6), ITEMS, where=condition)
    return np.sort(rows[rows >= 0])


def matching(fields: list[dict[str, Any]], condition: Filter) -> NDArray[np.int64]:
    """The rows that match here."""
    return np.flatnonzero(filter_mask(condition, AttributeColumns.of_items(fields)))


def is_exact(condition: Filter) -> bool:
    found = [value for leaf in leaves(condition) for value in leaf_values(leaf)]
    return not any(isinstance(leaf, Within) for leaf in leaves(condition)) and all(
        len(value) <= BOUNDS.string_chars if isinstance(value, str) else abs(value) < 2**53 for value in found
    )


VALUES: st.SearchStrategy[Value] = st.sampled_from(
    [*WORDS, *NUMBERS, True, False, "x" * 1024, "a" * 1025, 2**53 - 1, 3.5]
)


@elsewhere
@examples(150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(condition=filters(st.sampled_from([*NAMES, "absent"]), VALUES))
def test_a_filter_means_the_same_there_as_here(
    remote: MilvusEngine, fields: list[dict[str, Any]], condition: Filter
) -> None:
    if not is_exact(condition):
        with pytest.raises(RequestError, match="cannot be evaluated by Milvus") as refused:
            remote.check(condition)
        assert refused.value.kind == "invalid_request"
        return
    remote.check(condition)
    np.testing.assert_array_equal(allowed_rows(remote, condition), matching(fields, condition))


@elsewhere
@pytest.mark.parametrize("prefix", [*WORDS, "x" * 1024])
def test_a_prefix_is_not_a_pattern(remote: MilvusEngine, fields: list[dict[str, Any]], prefix: str) -> None:
    for name in ("word", "mixed"):
        condition = Prefix(name, prefix)
        np.testing.assert_array_equal(allowed_rows(remote, condition), matching(fields, condition))


@elsewhere
def test_a_filter_that_it_takes_is_answered_from_the_best_that_match(
    remote: MilvusEngine, vectors: Vectors, fields: list[dict[str, Any]]
) -> None:
    condition = parse_where("flag = true and number >= 0")
    fit = matching(fields, condition)
    queries = unit(40, 7)
    rows, _ = remote.search(queries, 10, where=condition)
    best = fit[np.argsort(-(queries @ vectors[fit].T), axis=1)[:, :10]]
    hits = [len(set(found) & set(wanted)) for found, wanted in zip(rows.tolist(), best.tolist(), strict=True)]
    assert sum(hits) >= 0.98 * 400


@elsewhere
def test_what_is_forgotten_is_not_found_again(remote: MilvusEngine, vectors: Vectors) -> None:
    rows = np.array([5, 1500])
    remote.forget(rows)
    remote.wait()
    found, _ = remote.search(vectors[rows], 10)
    assert not np.isin(found, rows).any()
