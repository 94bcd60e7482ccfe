"""`recserve evaluate history` from the files to the report, on a made-up log with a tiny real encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from recserve_benchmarks.cli.evaluate import app
from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.evaluation.data import read_dataset
from recserve_benchmarks.evaluation.report import notes
from recserve_benchmarks.evaluation.run import over_seeds
from recserve_benchmarks.evaluation.split import split
from recserve_benchmarks.evaluation.systems import named
from support.small_log import ITEMS, write_small_log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def results(log: Path, tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("report")
    named = {"--dataset": log, "--home": tiny_home, "--precision": "fp32"}
    named |= {"--json": folder / "all.json", "--plot": folder / "all.png"}
    ran = CliRunner().invoke(app, ["history", *(str(part) for pair in named.items() for part in pair)])
    assert ran.exit_code == 0, ran.output
    assert max(map(len, ran.stdout.splitlines())) <= 100
    assert (folder / "all.png").read_bytes().startswith(b"\x89PNG")
    found: dict[str, Any] = json.loads((folder / "all.json").read_text())
    return found


def test_every_system_is_measured_by_both_protocols(results: dict[str, Any]) -> None:
    for protocol in ("leave-one-out", "time"):
        systems = results["protocols"][protocol]["systems"]
        assert list(systems) == [system.name for system in named([])]
        for system in systems.values():
            assert len(system["by_seed"]) == 3
            values = [seed["history"]["ndcg@10"] for seed in system["by_seed"]]
            assert system["test"]["history"]["ndcg@10"]["mean"] == pytest.approx(np.mean(values))
    assert results["setup"]["seeds"] == [0, 1, 2]
    assert set(results["setup"]["dataset"]) == {"small.inter", "small.item"}


def test_taste_is_found_in_the_log(results: dict[str, Any]) -> None:
    systems = results["protocols"]["leave-one-out"]["systems"]
    found = {name: system["test"]["history"]["ndcg@20"]["mean"] for name, system in systems.items()}
    # Half of the items are of the other taste: counts between items never put them first.
    assert found["item_knn"] > 1.2 * found["popularity"]


def test_cold_users_get_what_needs_no_history(results: dict[str, Any]) -> None:
    systems = results["protocols"]["time"]["systems"]
    assert results["protocols"]["time"]["parts"][0]["cold_users"] >= 1
    assert systems["popularity"]["test"]["cold_users"]["hr@20"]["mean"] > 0
    assert systems["item_knn"]["test"]["cold_users"]["hr@20"]["mean"] > 0


def test_a_group_that_is_empty_by_one_seed_keeps_its_figures() -> None:
    found = over_seeds([{"cold_users": {"users": 0.0}}, {"cold_users": {"users": 2.0, "hr@10": 0.5}}])
    assert found["cold_users"]["users"] == {"mean": 1.0, "min": 0.0, "max": 2.0}
    assert found["cold_users"]["hr@10"] == {"mean": 0.5, "min": 0.5, "max": 0.5}


def test_what_is_best_is_told_by_validation_and_what_loses_by_the_test() -> None:
    def system(validation: float, test: float) -> dict[str, Any]:
        return {"validation": [{"ndcg@10": validation}], "test": {"history": {"ndcg@10": {"mean": test}}}}

    systems = {"popularity": system(0.2, 0.1), "lucky": system(0.3, 0.9), "chosen": system(0.4, 0.14)}
    lines = notes({"protocols": {"time": {"systems": {**systems, "poor": system(0.1, 0.05)}}}})
    assert lines[0] == "time: best on validation: chosen: 1.40 x popularity on the test (1.5: not met)"
    assert lines[1] == "time: below popularity: poor"


def test_leave_one_out_holds_back_the_last_two(log: Path) -> None:
    columns = read_dataset(log).columns
    parts = split(columns, "leave-one-out", 0)
    for part, later in ((parts.validation, 1), (parts.test, 0)):
        assert part.asked_us is None
        assert (part.targets.sum(axis=1) == 1).all()
        for number, user in enumerate(part.users.tolist()):
            places = np.arange(columns.offsets[user], columns.offsets[user + 1])
            known = np.intersect1d(places, part.known)
            assert len(known) == len(places) - 1 - later
            wanted = columns.time_us[places][columns.subject[places] == part.targets[number].argmax()]
            assert (columns.time_us[known] <= wanted).all()


def test_seeds_break_ties_in_time(log: Path) -> None:
    columns = read_dataset(log).columns
    found = [split(columns, "leave-one-out", seed).test.targets for seed in (0, 0, 1)]
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()


def test_the_time_split_knows_nothing_of_later(log: Path) -> None:
    columns = read_dataset(log).columns
    parts = split(columns, "time", 0)
    for part in (parts.validation, parts.test):
        newest = columns.time_us[part.known].max()
        assert part.asked_us is not None
        assert newest < part.asked_us == np.delete(columns.time_us, part.known).min()
        users, items = np.nonzero(part.targets)
        for user, item in zip(part.users[users].tolist(), items.tolist(), strict=True):
            at = columns.time_us[(columns.user == user) & (columns.subject == item)]
            assert (at > newest).all()


def test_items_that_only_occur_have_no_text(tmp_path: Path) -> None:
    write_small_log(tmp_path)
    with (tmp_path / "small.inter").open("a") as file:
        file.write("0\tunheard\t4\t1\n")
    data = read_dataset(tmp_path / "small.inter")
    assert data.items == ITEMS + 1
    assert data.texts[-1] == {}
    assert data.fields == ("title", "class")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id:token\titem_id:token\n1\t2\n", "no column 'timestamp'"),
        ("user_id:token\titem_id:token\ttimestamp:float\n", "no interactions"),
        ("user_id:token\titem_id:token\ttimestamp:float\n1\t2\tnoon\n", "column #2: .* invalid value 'noon'"),
        ("user_id:token\titem_id:token\ttimestamp:float\n1\t2\tnan\n", "column timestamp holds a value"),
        ("user_id:token\titem_id:token\ttimestamp:float\n1\t2\n", "bad.inter: .*Expected 3 columns, got 2"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.inter").write_text(content)
    with pytest.raises(BenchmarkError, match=message):
        read_dataset(tmp_path)


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"has 0 \.inter files"):
        read_dataset(tmp_path)
