"""On no log is `auto` significantly below popularity, recent popularity or cosine item-kNN over the whole log.

The logs are made up, each of another shape. Few strategies are in the choice, so that it takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from recserve_benchmarks.evaluation.log.data import Dataset
from recserve_benchmarks.evaluation.log.made_log import made_log, unit_vectors
from recserve_benchmarks.evaluation.run import Plan, evaluate
from recserve_benchmarks.evaluation.systems import named
from recserve_server_ext.interactions.columns import InteractionColumns

ITEMS, USERS, INTERACTIONS = 100, 120, 2400
BELOW = ("popularity", "recent popularity", "item_knn")


def of_tastes() -> InteractionColumns:
    """Users keep to a part of the items."""
    return made_log(users=USERS, items=ITEMS, interactions=INTERACTIONS, seed=1)


def without_structure() -> InteractionColumns:
    """What a user does says nothing of what the user does next, and all items are equally popular."""
    random = np.random.default_rng(2)
    return replace(of_tastes(), subject=random.integers(ITEMS, size=INTERACTIONS))


def of_fashions() -> InteractionColumns:
    """What is popular changes from day to day, the same for everybody."""
    columns, random = of_tastes(), np.random.default_rng(3)
    fashion = columns.time_us * 5 // (7 * 86_400_000_000)
    return replace(columns, subject=(fashion + random.geometric(0.2, INTERACTIONS)) % ITEMS)


def in_chains() -> InteractionColumns:
    """After an item comes the next one."""
    columns, random = of_tastes(), np.random.default_rng(4)
    order = np.lexsort([columns.time_us, columns.user])
    place = np.empty(INTERACTIONS, np.int64)
    place[order] = np.arange(INTERACTIONS) - columns.offsets[columns.user[order]]
    return replace(columns, subject=(random.integers(ITEMS, size=USERS)[columns.user] + place) % ITEMS)


def of_short_histories() -> InteractionColumns:
    """Most users have at most five behaviours."""
    return made_log(users=700, items=ITEMS, interactions=INTERACTIONS, seed=5)


@pytest.mark.parametrize("log", [of_tastes, without_structure, of_fashions, in_chains, of_short_histories])
def test_auto_is_never_significantly_below(log: Callable[[], InteractionColumns]) -> None:
    systems = named(["recent popularity", "popular", "item_knn", "ease", "blend"])
    found = evaluate(Dataset(log(), unit_vectors(ITEMS), {}), systems, Plan(seeds=(0,)), lambda *_: None)
    for protocol, of in found.protocols.items():
        for name in BELOW:
            other = of[name]["against_auto"]
            assert other["low"] <= 0 or other["p_corrected"] >= 0.05, (protocol, name, other)
        few = {name: of[name]["activity"]["1-5"].get("ndcg_at_10") for name in ("auto", "popularity")}
        if few["auto"]:
            error = np.hypot(*(few[name].get("se", 1.0) for name in few))
            assert few["auto"]["mean"] >= few["popularity"]["mean"] - 2 * error, protocol
