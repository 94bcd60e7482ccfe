"""Evaluation of logs that have hardly anything in them, and of a larger one in blocks of users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.evaluation.log.data import Dataset
from recserve_benchmarks.evaluation.log.files import read_pair
from recserve_benchmarks.evaluation.log.made_log import made_log, unit_vectors
from recserve_benchmarks.evaluation.run import Plan, evaluate
from recserve_benchmarks.evaluation.system import System
from recserve_benchmarks.evaluation.systems import named
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.strategies.parts.chosen import EvaluationFile


def evaluated(columns: InteractionColumns, vectors: Vectors, systems: list[System], **plan: Any) -> EvaluationFile:
    return evaluate(Dataset(columns, vectors, {}), systems, Plan(seeds=(0,), **plan), lambda *_: None)


def from_lines(tmp_path: Path, *lines: str) -> InteractionColumns:
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    return read_pair(tmp_path / "log.csv").columns


def test_one_user(tmp_path: Path) -> None:
    rows = [f"anna,i{n},{n}" for n in range(12)]
    columns = from_lines(tmp_path, "user_id,item_id,timestamp", *rows)
    found = evaluated(columns, unit_vectors(12), named([]))
    systems = found.protocols["leave_one_out"]
    assert systems["popularity"]["users"] == 1
    assert set(systems["popularity"]["ndcg_at_10"]) == {"mean"}  # one user has no standard error


def test_one_item_leaves_nothing_to_be_found(tmp_path: Path) -> None:
    columns = from_lines(tmp_path, "user_id,item_id,timestamp", "anna,i1,1", "anna,i1,2", "ben,i1,3")
    found = evaluated(columns, unit_vectors(1), named([]))
    # Only Ben, who is cold, turns to the item for the first time.
    assert found.protocols["leave_one_out"]["popularity"]["cold_users"]["users"] == 1
    assert found.protocols["leave_one_out"]["popularity"]["users"] == 0
    again = from_lines(tmp_path, "user_id,item_id,timestamp", "anna,i1,1", "anna,i1,2")
    with pytest.raises(BenchmarkError, match="nothing is left to be found"):
        evaluated(again, unit_vectors(1), named([]))


def test_all_at_the_same_time_has_no_cuts(tmp_path: Path) -> None:
    rows = [f"u{user},i{item},5" for user in range(20) for item in range(user % 3, 30, 3)]
    columns = from_lines(tmp_path, "user_id,item_id,timestamp", *rows)
    found = evaluated(columns, unit_vectors(30), named([]))
    assert set(found.protocols) == {"leave_one_out"}
    assert found.chosen.many is not None


def test_without_times_the_order_of_the_rows_counts(tmp_path: Path) -> None:
    rows = [f"u{n % 7},i{n % 11}" for n in range(77)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id", *rows]) + "\n")
    pair = read_pair(tmp_path / "log.csv")
    assert pair.times == "row"
    assert pair.columns.types == ["click"]
    first = pair.columns.time_us[: pair.columns.offsets[1]]
    assert (np.diff(first) == 7_000_000).all()
    assert set(evaluated(pair.columns, unit_vectors(11), named(["popular"])).protocols) >= {"time"}


def test_an_item_file_beside_the_interactions_is_named(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("user,product_id,event,time\na,1,purchase,2026-01-01\na,2,view,2026-01-02\n")
    (tmp_path / "goods.jsonl").write_text('{"id": 1, "title": "Tea", "tags": ["hot", "green"]}\n{"id": 3}\n')
    pair = read_pair(tmp_path / "shop.csv", tmp_path / "goods.jsonl")
    assert pair.columns.subjects == ["1", "3", "2"]
    assert pair.texts == [{"title": "Tea", "tags": "hot, green"}, {}, {}]
    assert pair.columns.types == ["purchase", "view"]
    assert pair.times == "time"


def test_671_users_and_9066_items_are_evaluated() -> None:
    columns = made_log(users=671, items=9_066, interactions=20_000, seed=3)
    found = evaluated(columns, unit_vectors(9_066), named(["item_knn", "mean of texts"]), most_users=150)
    systems = found.protocols["leave_one_out"]
    assert systems["item_knn"]["ndcg_at_10"]["mean"] > 0
    assert all(part["users"] <= 150 for part in found.data["parts"])
    assert found.data["parts"][1]["sample_of_users"] > 150


def test_the_size_of_a_block_changes_no_figure_that_has_no_ties() -> None:
    columns = made_log(users=120, items=200, interactions=3_000, seed=4)
    vectors, mib = unit_vectors(200), 2**20
    systems = named(["item_knn", "mean of texts"])[1:]
    wide = evaluated(columns, vectors, systems, memory_bytes=500 * mib)
    narrow = evaluated(columns, vectors, systems, memory_bytes=len(columns.time_us) * 192 + 4 * 200 * 8 + 200 * 24 * 7)
    assert (wide.data["users_at_once"], narrow.data["users_at_once"]) == (512, 7)
    for protocol, of in wide.protocols.items():
        for name in ("mean of texts", "item_knn"):
            assert of[name]["ndcg_at_10"] == narrow.protocols[protocol][name]["ndcg_at_10"]


def test_a_pair_of_files_by_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::1::5::978300760\n2::2::3::978302109\n2::9::x::978302109\n")
    (tmp_path / "movies.dat").write_text("1::Toy Story (1995)::Animation|Comedy\n2::Amélie (2001)::Comedy\n", "latin-1")
    pair = read_pair(tmp_path / "ratings.dat", tmp_path / "movies.dat", "movielens-1m")
    assert pair.columns.subjects == ["1", "2"]
    assert [of["title"] for of in pair.texts] == ["Toy Story (1995)", "Amélie (2001)"]
    assert (pair.columns.types, pair.columns.value.tolist(), pair.refused) == (["rating"], [5.0, 3.0], 1)
    assert set(pair.files) == {"ratings.dat", "movies.dat"}
    with pytest.raises(BenchmarkError, match="did you mean 'movielens'"):
        read_pair(tmp_path / "ratings.dat", None, "movielense")


def test_zeros_of_a_recipe_are_views(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text("user_id,book_id,is_read,rating,is_reviewed\n0,2,1,5,0\n0,3,1,0,0\n1,2,1,4,0\n")
    columns = read_pair(tmp_path / "i.csv", None, "goodreads").columns
    assert [columns.types[kind] for kind in columns.type] == ["rating", "view", "rating"]


@pytest.mark.parametrize("order", ["by user", "mixed"])
def test_rows_without_times_are_asked_by_time_only_where_users_mix(tmp_path: Path, order: str) -> None:
    pairs = [(user, (user + 3 * step) % 25) for user in range(30) for step in range(8)]
    if order == "mixed":
        pairs = [pairs[row] for row in np.random.default_rng(0).permutation(len(pairs)).tolist()]
    columns = from_lines(tmp_path, "user_id,item_id", *(f"u{user},i{item}" for user, item in pairs))
    found = evaluated(columns, unit_vectors(25), named(["popularity", "item_knn"]))
    assert found.data["is_by_user"] == (order == "by user")
    assert set(found.protocols) == ({"leave_one_out"} if order == "by user" else {"leave_one_out", "time"})
    assert found.chosen.many is not None
    quick = evaluated(columns, unit_vectors(25), named(["popularity", "item_knn"]), protocols=("time",))
    assert quick.chosen.many is not None
