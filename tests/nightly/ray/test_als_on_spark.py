"""`als` by two workers of Spark: a space like that of one process, judged and served like it, and the same again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from recserve_export.training.publish import Published, Request, train_home
from recserve_export.training.registry import train
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.trained import TrainedSpace
from recserve_server_ext.index.trained_versions import current_spaces
from support.crowds import crowd, make_crowd_home, opened, record
from support.training_logs import log_from

USERS, ITEMS, GROUPS, EACH = 120, 40, 4, 6
SMALL: Final[dict[str, Any]] = {"factors": 8, "regularization": 1.0}


def trained(workspace: Workspace, **more: Any) -> Published:
    request = Request(names=("als",), settings={"als": {**SMALL, **more}})
    (published,) = train_home(workspace, workspace.interactions, request).published
    return published


def factors(workers: int) -> Vectors:
    """Item factors of users who keep to the items of their group, of which each has some."""
    user, random = np.repeat(np.arange(USERS), EACH), np.random.default_rng(0)
    own = np.concatenate([random.choice(ITEMS // GROUPS, EACH, replace=False) for _ in range(USERS)])
    log = log_from(user, own * GROUPS + user % GROUPS, USERS, ITEMS)
    vectors = train("als", log, None, {**SMALL, "workers": workers}).vectors
    assert vectors is not None
    return vectors


def test_two_workers_find_what_one_process_does_and_the_same_again() -> None:
    pytest.importorskip("pyspark")
    two, again, one = factors(2), factors(2), factors(1)
    np.testing.assert_array_equal(two, again)
    is_of_group = np.arange(ITEMS)[:, None] % GROUPS == np.arange(ITEMS) % GROUPS
    for found in (two, one):
        # Every item is nearer to all items of its group than to any other.
        products = found @ found.T
        assert (
            np.where(is_of_group, products, np.inf).min(axis=1) > np.where(is_of_group, -np.inf, products).max(axis=1)
        ).all()


def test_what_two_workers_trained_is_judged_and_serves(tmp_path: Path) -> None:
    pytest.importorskip("pyspark")
    workspace = make_crowd_home(tmp_path)
    trained(workspace)
    with opened(workspace) as store:
        record(store, crowd(day=1, each=6))
    challenger = trained(workspace, workers=2)
    assert challenger.verdict.serves
    assert challenger.verdict.ndcg > 0
    assert current_spaces(workspace.spaces) == {"als": challenger.folder}
    assert TrainedSpace.load(challenger.folder).manifest.parameters["regularization"] == SMALL["regularization"]
