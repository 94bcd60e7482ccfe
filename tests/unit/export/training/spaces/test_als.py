"""ALS: served fold-in against the package that trains it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from recserve_export.training.base import TrainingLog
from recserve_export.training.memory import in_memory
from recserve_export.training.registry import train
from recserve_export.training.spaces.als import AlsSettings, confidences, item_factors
from recserve_server_ext.catalogue.view import View, view_over
from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.strategies.base import Candidates, Profile, Query
from recserve_server_ext.strategies.spaces.als import Als
from recserve_server_ext.strategies.spaces.learned_space import RecencyOptions
from support.data import data_over, spec_of
from support.training_logs import log_of

implicit = pytest.importorskip("implicit")
ITEMS = 40


@pytest.fixture(scope="module")
def log() -> TrainingLog:
    return log_of(60, ITEMS, 700)


@pytest.fixture(scope="module")
def view(log: TrainingLog) -> View:
    learned = train("als", log, None, {"factors": 6, "alpha": 5.0})
    text = np.eye(ITEMS, dtype=np.float32)
    return view_over(text, ExactEngine(text), log.items, None, *in_memory({"als": learned}, text, log.items))


def query_of(view: View, rows: Rows, half_life: float = 1e6) -> Query:
    n = len(rows)
    profile = Profile(np.ones(n), rows, {}, {}, [], np.zeros(n), np.arange(n) * 1.0, np.ones(n), count=n)
    return Query(profile, data_over(view), spec_of(5), RecencyOptions(half_life))


def test_a_user_is_folded_in_as_the_package_does(log: TrainingLog, view: View) -> None:
    model = implicit.cpu.als.AlternatingLeastSquares(factors=6, regularization=10.0, alpha=1.0, use_cg=False)
    items = np.flatnonzero(log.counts)
    model.item_factors = item_factors(confidences(log, items, 5.0), AlsSettings(factors=6, alpha=5.0))
    rows = items[[3, 8, 1, 20]]
    place_of = {int(item): place for place, item in enumerate(items)}
    places = [place_of[int(row)] for row in rows]
    profile = sparse.csr_matrix((np.full(4, 6.0, np.float32), ([0] * 4, places)), (1, len(items)))
    expected = model.item_factors @ model.recalculate_user(0, profile)
    (parts,) = Als("als").score([query_of(view, rows)], [Candidates(items)])
    np.testing.assert_allclose(parts["als"], expected, atol=1e-4)


def test_the_behaviours_add_up_to_the_score(view: View) -> None:
    query, rows = query_of(view, np.array([3, -1, 8, 1]), 2.0), np.arange(10)
    (parts,) = Als("als").score([query], [Candidates(rows)])
    (explained,) = Als("als").explain([query], [Candidates(rows)])
    assert explained.contributions is not None
    assert not explained.contributions[:, 1].any()
    np.testing.assert_allclose(explained.contributions.sum(axis=1), parts["als"], atol=1e-5)


def test_an_item_without_interactions_has_no_vector_without_a_map(view: View) -> None:
    (rows,) = Als("als").candidates([query_of(view, np.array([1, 2]))], [ITEMS])
    assert set(rows.tolist()) == set(range(ITEMS - 2))


def test_a_map_from_texts_puts_new_items_into_the_space(log: TrainingLog) -> None:
    text = np.random.default_rng(1).normal(size=(ITEMS, 3)).astype(np.float32)
    learned = train("als", log, text, {"factors": 4})
    assert learned.text_map is not None
    space = in_memory({"als": learned}, text, log.items).spaces["als"]
    assert space.rows is None
    expected = text[39] @ learned.text_map[:-1] + learned.text_map[-1]
    np.testing.assert_allclose(space.vectors[39], expected, atol=1e-5)


def test_training_is_deterministic(log: TrainingLog) -> None:
    first, again = (train("als", log, None, {"factors": 4, "seed": 5}) for _ in range(2))
    assert first.vectors is not None
    assert again.vectors is not None
    np.testing.assert_array_equal(first.vectors, again.vectors)
