"""Stores filled by the benchmark of users: what recording would have left, in both databases' formats."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from recserve_benchmarks.users.events import BenchUser, Past, fill_pasts, pasts_of
from recserve_benchmarks.users.fill import blocks, fill_sqlite
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore

_NOW = 1_790_000_000.0
_PSEUDONYMS = Pseudonyms(b"k" * 32)


def _pasts() -> list[Past]:
    # Four items only, so that a user has some of them twice.
    measured = [BenchUser("ann", ["t3", "t1", "t2"]), BenchUser("bob", ["t0", "t3", "t1"])]
    return [*fill_pasts(40, items=4, now=_NOW, seed=1), *pasts_of(measured, _NOW)]


def _recorded(past: Past) -> list[Interaction]:
    users = [_PSEUDONYMS.of(name) for name, count in zip(past.user_ids, past.counts, strict=True) for _ in range(count)]
    return [
        Interaction(user=user, type="like", timestamp=time_us / MICROSECONDS, item=f"t{row}")
        for user, row, time_us in zip(users, past.rows.tolist(), past.time_us.tolist(), strict=True)
    ]


def _content(path: Path) -> dict[str, list[Any]]:
    by_user = 'JOIN interaction_users u ON u.number = t."user"'
    with InteractionStore(path) as store, store.all() as rows:
        interactions = sorted(rows, key=lambda row: str(row["event_id"]))
    with sqlite3.connect(path) as connection:
        query = f"SELECT pseudonym, item, kind, last_us FROM seen_items t {by_user} ORDER BY 1, 2, 3"
        return {"interactions": interactions, "seen": connection.execute(query).fetchall()}


def test_a_filled_store_holds_what_recording_would_have_left(tmp_path: Path) -> None:
    filled, recorded = tmp_path / "filled.db", tmp_path / "recorded.db"
    InteractionStore(filled, create=True).close()
    counted: list[int] = []
    fill_sqlite(filled, blocks(_pasts(), _PSEUDONYMS), counted.append)
    with InteractionStore(recorded, create=True, clock=lambda: _NOW) as store:
        for past in _pasts():
            assert {found.status for found in store.record(_recorded(past))} == {"recorded"}
    assert sum(counted) == 206
    assert _content(filled) == _content(recorded)
    with sqlite3.connect(filled) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_filled_store_goes_on_counting_users(tmp_path: Path) -> None:
    path = tmp_path / "filled.db"
    InteractionStore(path, create=True).close()
    fill_sqlite(path, blocks(_pasts(), _PSEUDONYMS), lambda more: None)
    new = Interaction(user=_PSEUDONYMS.of("carl"), type="like", timestamp=_NOW, item="t1")
    again = msgspec.structs.replace(new, user=_PSEUDONYMS.of("ann"))
    with InteractionStore(path, clock=lambda: _NOW) as store:
        before = store.revision
        assert [found.status for found in store.record([new, again])] == ["recorded", "recorded"]
        assert store.revision == before + 1
        assert store.stats().users == 43
        columns = store.window([new.user, again.user])
    assert columns.offsets.tolist() == [0, 1, 5]
