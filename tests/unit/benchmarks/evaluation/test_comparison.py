"""Errors and comparisons of systems against statsmodels and simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from recserve_benchmarks.evaluation.reporting.comparison import compared, mean_and_error

RNG = np.random.default_rng(8)


def test_the_error_is_that_of_the_mean_where_every_user_is_asked_once() -> None:
    values = RNG.random(50)
    found = mean_and_error(values, np.arange(50))
    assert found == pytest.approx({"mean": values.mean(), "se": stats.sem(values)})


def test_the_error_is_cluster_robust_where_users_are_asked_again() -> None:
    users = RNG.integers(0, 40, 300)
    values = RNG.random(300) + 0.3 * RNG.random(40)[users]
    found = mean_and_error(values, users)
    fitted = sm.OLS(values, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": users, "use_correction": False})
    clusters = len(np.unique(users))
    # statsmodels divides by U, the sample formula by U - 1.
    assert found["se"] == pytest.approx(fitted.bse[0] * np.sqrt(clusters / (clusters - 1)))


def test_rows_without_a_value_do_not_count() -> None:
    assert mean_and_error(np.array([1.0, np.nan, 3.0]), np.array([0, 1, 2]))["mean"] == 2.0
    assert mean_and_error(np.array([np.nan]), np.zeros(1, np.int64)) == {}


def test_a_clear_difference_is_found_and_none_is_made_up() -> None:
    users = np.arange(400)
    base = RNG.random(400)
    values = {"best": base, "worse": base - 0.1 + 0.05 * RNG.random(400), "same": RNG.permutation(base), "equal": base}
    found = compared(values, users, "best")
    assert set(found) == {"worse", "same", "equal"}
    assert found["worse"]["high"] < 0
    assert found["worse"]["p_corrected"] < 0.01
    assert found["same"]["low"] < 0 < found["same"]["high"]
    assert found["same"]["p_corrected"] > 0.05
    assert found["equal"] == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "p_corrected": 1.0}


def test_p_is_corrected_for_the_number_of_systems() -> None:
    base = RNG.random(200)
    values = {"best": base, **{f"s{n}": base + 0.12 * RNG.standard_normal(200) for n in range(12)}}
    found = compared(values, np.arange(200), "best")
    assert all(of["p_corrected"] >= of["p"] for of in found.values())
    least = min(found.values(), key=lambda of: of["p"])
    assert least["p_corrected"] == pytest.approx(min(1.0, 12 * least["p"]))


def test_users_who_are_asked_often_widen_the_interval() -> None:
    of_user = 0.1 * RNG.standard_normal(30)
    users = np.repeat(np.arange(30), 20)
    values = {"best": np.zeros(600), "other": of_user[users]}
    together, apart = (compared(values, of, "best")["other"] for of in (users, np.arange(600)))
    assert together["high"] - together["low"] > 3 * (apart["high"] - apart["low"])


def test_one_user_is_compared_with_nobody() -> None:
    assert compared({"a": np.ones(3), "b": np.zeros(3)}, np.zeros(3, np.int64), "a") == {}
