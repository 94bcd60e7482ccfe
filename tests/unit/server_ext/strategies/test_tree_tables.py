"""Scores and SHAP values by table against those of LightGBM."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from recserve_server_ext.strategies.parts import tree_tables
from recserve_server_ext.strategies.parts.tree_tables import TreeTables

GROUPS = [0, 0, 1, 2, 2, 3]


def trees(leaves: int, rounds: int = 12) -> lightgbm.Booster:
    """Trees over five features, some of which are split more than once."""
    random = np.random.default_rng(leaves)
    rows = random.normal(size=(400, 5)).round(1)
    target = rows[:, 0] * rows[:, 1] + np.sin(3 * rows[:, 2]) + (rows[:, 3] > 0)
    parameters = {"num_leaves": leaves, "min_data_in_leaf": 5, "verbosity": -1, "num_threads": 1}
    return lightgbm.train(parameters, lightgbm.Dataset(rows, target), rounds)


@pytest.mark.parametrize(("leaves", "is_tabulated"), [(2, True), (7, True), (40, False)])
def test_the_values_are_those_of_lightgbm_and_add_up(
    leaves: int, is_tabulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_tables, "_BLOCK", 128)  # several blocks, the last one shorter
    booster = trees(leaves)
    # Rounded, so that many values lie on a threshold; and some far outside.
    rows = np.random.default_rng(1).normal(scale=2.0, size=(300, 5)).round(1)
    thresholds = booster.trees_to_dataframe()["threshold"].dropna().to_numpy()
    rows[:50] = np.resize(thresholds[np.abs(thresholds) > 1e-30], (50, 5))
    rows[50:60] = 0.0
    own = np.asarray(booster.predict(rows, pred_contrib=True))
    expected = np.stack([own[:, [n for n, of in enumerate(GROUPS) if of == group]].sum(axis=1) for group in range(4)])
    tables = TreeTables(booster, GROUPS)
    assert tables.scores(rows).tolist() == np.asarray(booster.predict(rows)).tolist()
    found = tables.shares(rows)
    np.testing.assert_allclose(found, expected.T, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), booster.predict(rows), atol=1e-12)
    assert tables._is_tabulated == is_tabulated


def test_trees_without_a_split_have_only_what_all_rows_have() -> None:
    rows = np.zeros((20, 5))
    data = lightgbm.Dataset(rows, np.full(20, 3.0))
    booster = lightgbm.train({"verbosity": -1, "min_data_in_leaf": 50}, data, 3)
    tables = TreeTables(booster, GROUPS)
    assert tables.scores(rows[:2]).tolist() == np.asarray(booster.predict(rows[:2])).tolist()
    assert tables.scores(rows[:0]).shape == (0,)
    found = tables.shares(rows[:2])
    np.testing.assert_allclose(found.sum(axis=1), booster.predict(rows[:2]), atol=1e-12)
    assert not found[:, :3].any()
