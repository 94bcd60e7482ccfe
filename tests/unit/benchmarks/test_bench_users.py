"""Stores of `recserve bench users`: what is in them beforehand, and the raw store that follows a server's."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.run import Run
from recserve_benchmarks.users.people import (
    FILL_EVENTS,
    fill_pasts,
    new_interactions,
    pasts_of,
    people,
    record_requests,
)
from recserve_benchmarks.users.raw import RawJob, copier
from recserve_benchmarks.users.stores import filled_stores
from recserve_client.contract import NewInteraction, RecordInteractions
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from support.postgres import Postgres

_NOW = 1_790_000_000.0
_PSEUDONYMS = Pseudonyms(b"k" * 32)
_TABLES = ("interaction_users", "interactions", "seen_items")


def interactions_of(new: list[NewInteraction]) -> list[Interaction]:
    """As the server makes them of a request."""
    return [
        Interaction(user=_PSEUDONYMS.of(one.user_id), type=one.type, timestamp=one.timestamp, item=one.item)
        for one in new
    ]


def content(path: Path) -> dict[str, list[Any]]:
    """All rows of a store; `changes` of users start at random."""
    with sqlite3.connect(path) as connection:
        rows = {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in _TABLES}
    rows["interaction_users"] = [row[:2] for row in rows["interaction_users"]]
    return rows


def test_the_raw_store_writes_what_the_server_has_recorded(tmp_path: Path) -> None:
    recorded, copy = tmp_path / "recorded.db", tmp_path / "copy.db"
    first = list(fill_pasts(20, _PSEUDONYMS, items=4, now=_NOW, seed=1))
    # Four items only, so that users have some of them twice.
    new = interactions_of(new_interactions(60, users=10, items=4, now=_NOW, seed=2))
    with InteractionStore(recorded, create=True, clock=lambda: _NOW) as store:
        store.record(first)
    shutil.copy(recorded, copy)
    with InteractionStore(recorded, clock=lambda: _NOW) as store:
        assert {found.status for found in store.record(new)} == {"recorded"}
        work = copier(recorded, copy)
        assert work(RawJob(40, 7)) > 0
        assert work(RawJob(20, 100)) > 0
        assert content(recorded) == content(copy)
    with sqlite3.connect(copy) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (revision,) = connection.execute("SELECT revision FROM interaction_state").fetchone()
    assert revision == 1 + 6 + 1  # a transaction each


def test_pasts_are_those_of_distinct_users_within_their_time() -> None:
    some = people("ann", 20, 3, items=50, seed=1)
    assert [len(set(row)) for row in some.rows.tolist()] == [20] * 3
    made = list(pasts_of(some, _PSEUDONYMS, _NOW))
    assert [one.item for one in made] == [f"t{row}" for row in some.rows.ravel()]
    for number in range(3):
        times = [one.timestamp for one in made[20 * number : 20 * number + 20]]
        assert times == sorted(times, reverse=True)
    assert min(one.timestamp for one in made) > _NOW - 61 * 86_400
    fill = list(fill_pasts(7, _PSEUDONYMS, items=50, now=_NOW, seed=1))
    assert len(fill) == 7 * FILL_EVENTS
    assert len({one.user for one in fill} | {one.user for one in made}) == 10
    assert max(one.timestamp for one in fill) < _NOW


def test_requests_to_record_hold_all_interactions_once() -> None:
    new = new_interactions(25, users=5, items=9, now=_NOW, seed=3)
    assert len({round(one.timestamp * MICROSECONDS) for one in new}) == 25
    packed = [msgspec.json.decode(raw, type=RecordInteractions).interactions for raw in record_requests(new, 10)]
    assert [len(part) for part in packed] == [10, 10, 5]
    assert [msgspec.json.decode(raw, type=NewInteraction) for part in packed for raw in part] == new


def test_stores_are_filled_alike_and_leave_nothing_behind(tiny_home: Path, tmp_path: Path, postgres: Postgres) -> None:
    run = Run(workspace=Workspace(tmp_path), encoder=Path(), show=lambda *_: None)
    served = Workspace(tmp_path / "served")
    served.home.mkdir()
    for link in ("encoder", "snapshots"):
        (served.home / link).symlink_to(tiny_home / link)
    some = people("bob", 6, 2, items=9, seed=4)

    def pasts(pseudonyms: Pseudonyms) -> list[Interaction]:
        return list(pasts_of(some, pseudonyms, _NOW))

    url = postgres.empty()
    with filled_stores(run, served, url, pasts, 12) as stores:
        assert set(stores.fill_s) == {"sqlite", "postgres"}
        assert content(stores.sqlite) == content(stores.copy)
        for name, where in (("sqlite", stores.sqlite), ("postgres", url)):
            pseudonyms = read_pseudonyms(stores.options[name][0].pseudonym_key)
            with InteractionStore(where) as store:
                window = store.window([pseudonyms.of(user) for user in some.ids])
            assert np.diff(window.offsets).tolist() == [6, 6]
        with (
            pytest.raises(BenchmarkError, match="has an interaction store"),
            filled_stores(run, served, url, pasts, 12),
        ):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["served"]
    with filled_stores(run, served, url, pasts, 12):
        pass
