"""EASE: its vectors against the dense closed form."""

from __future__ import annotations

import numpy as np
import pytest

from recserve_export.errors import TrainingError
from recserve_export.training.base import TrainingLog
from recserve_export.training.registry import train
from recserve_server_ext.common.arrays import Floats
from support.training_logs import log_of


def closed_form(log: TrainingLog, l2: float) -> Floats:
    """I - P diag(P)^-1 of all items with an interaction."""
    seen = log.seen.toarray().astype(np.float64)[:, log.counts > 0]
    inverse = np.linalg.inv(seen.T @ seen + l2 * np.eye(seen.shape[1]))
    weights: Floats = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


@pytest.mark.parametrize("users", [20, 200])
def test_all_ranks_together_are_the_closed_form(users: int) -> None:
    log = log_of(users, 40, 600)
    learned = train("ease", log, None, {"l2": 7.0, "rank": 40})
    assert learned.vectors is not None
    assert learned.inputs is not None
    assert not set(learned.items.tolist()) & {38, 39}
    np.testing.assert_allclose(learned.inputs @ learned.vectors.T, closed_form(log, 7.0), atol=1e-5)


def test_a_decomposed_log_agrees_beside_the_diagonal() -> None:
    log = log_of(200, 40, 600)
    learned = train("ease", log, None, {"l2": 7.0, "rank": 40, "exact_items": 0})
    assert learned.vectors is not None
    assert learned.inputs is not None
    found = learned.inputs @ learned.vectors.T
    np.fill_diagonal(found, 0.0)
    np.testing.assert_allclose(found, closed_form(log, 7.0), atol=1e-4)


def test_the_same_seed_gives_the_same_vectors() -> None:
    log = log_of(100, 50, 800)
    first, again = (train("ease", log, None, {"rank": 8, "seed": 3}) for _ in range(2))
    assert first.vectors is not None
    assert again.vectors is not None
    np.testing.assert_array_equal(first.vectors, again.vectors)


def test_a_map_from_texts_is_fitted() -> None:
    log = log_of(200, 40, 900)
    text = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    learned = train("ease", log, text, {"rank": 5})
    assert learned.text_map is not None
    assert learned.text_map.shape == (7, 10)


def test_nothing_to_train_on_is_refused() -> None:
    none = np.empty(0, np.int64)
    some = log_of(1, 3, 1)
    empty = TrainingLog(none, none, none, np.empty(0), 0, [], some.columns, some.rules)
    with pytest.raises(TrainingError, match="recserve interactions import"):
        train("ease", empty, None)
    with pytest.raises(TrainingError, match="no training 'eas'"):
        train("eas", empty, None)
    with pytest.raises(TrainingError, match="l2"):
        train("ease", log_of(5, 5, 10), None, {"l2": 0})
