"""`recserve evaluate` from the files to the report, on a made-up log with a tiny real encoder."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from recserve_benchmarks.cli.evaluate import app
from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.evaluation.log.files import read_pair
from recserve_benchmarks.evaluation.reporting.report import figure, notes
from recserve_benchmarks.evaluation.split import Part, Protocol, Splitter
from recserve_benchmarks.evaluation.systems import named
from recserve_server_ext.interactions.columns import InteractionColumns
from support.small_log import ITEMS, write_small_log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def folder(log: Path, tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command wrote its figures, its page and its picture."""
    folder = tmp_path_factory.mktemp("report")
    options = {"--dataset": log, "--home": tiny_home, "--precision": "fp32"}
    options |= {"--json": folder / "all.json", "--plot": folder / "all.png", "--html": folder / "all.html"}
    ran = CliRunner().invoke(app, [str(part) for pair in options.items() for part in pair])
    assert ran.exit_code == 0, ran.output
    assert max(map(len, ran.stdout.splitlines())) <= 100
    assert (folder / "all.png").read_bytes().startswith(b"\x89PNG")
    assert not (tiny_home / "evaluation.json").exists()  # only the home's own log decides what it serves
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "all.json").read_text())
    return found


def parts_of(columns: InteractionColumns, protocol: Protocol, *seeds: int) -> list[Part]:
    """The parts that are measured among all items."""
    every = Splitter(columns, seeds or (0,)).parts(protocol)
    return [part for part in every if (part.is_validation or part.is_test) and part.candidates is None]


def test_every_system_is_measured_by_both_protocols(results: dict[str, Any]) -> None:
    names = [system.name for system in named([])]
    for protocol in ("leave_one_out", "time"):
        systems = results["protocols"][protocol]
        assert list(systems) == [*names, "auto"]
        for system in systems.values():
            assert 0 <= system["ndcg_at_10"]["mean"] <= 1
            assert system["ndcg_at_10"]["se"] >= 0
            assert system["hr_at_10"]["mean"] >= system["hr_at_5"]["mean"]
            assert {"activity", "items", "lists", "cold_users", "cold_items"} <= set(system)
            assert system["lists"]["coverage"]["mean"] <= 1
    assert set(results["seconds"]) >= set(names)
    assert results["data"]["seeds"] == [0, 1, 2]
    assert set(results["data"]["files"]) == {"small.inter", "small.item"}
    assert set(results["chosen"]) == {"cold", "few", "many"}


def test_taste_is_found_in_the_log(results: dict[str, Any]) -> None:
    systems = results["protocols"]["leave_one_out"]
    # Half of the items are of the other taste: counts between items never put them first.
    assert figure(systems["item_knn"], "ndcg_at_20") > 1.2 * figure(systems["popularity"], "ndcg_at_20")


def test_cold_users_get_what_needs_no_history(results: dict[str, Any]) -> None:
    systems = results["protocols"]["time"]
    assert any(part["cold_users"] for part in results["data"]["parts"] if part["protocol"] == "time")
    assert figure(systems["popularity"], "cold_users.hr_at_20") > 0
    assert figure(systems["item_knn"], "cold_users.hr_at_20") > 0


def test_the_page_needs_nothing_else(folder: Path, results: dict[str, Any]) -> None:
    loaded: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            loaded.extend(value or "" for name, value in attrs if name in ("src", "href"))

    page = (folder / "all.html").read_text()
    Parser().feed(page)
    assert loaded
    assert all(place.startswith("data:") for place in loaded)
    assert all(name in page for name in results["seconds"])


def test_what_is_best_is_told_by_validation_and_what_loses_by_the_test() -> None:
    def system(mean: float, difference: float | None = None, p: float = 0.0) -> dict[str, Any]:
        against = {"reference": "chosen", "difference": difference, "p_corrected": p}
        return {"ndcg_at_10": {"mean": mean}, **({} if difference is None else {"against": against})}

    systems = {
        "popularity": system(0.1, -0.04, 0.01),
        "chosen": system(0.14),
        "lucky": system(0.9, 0.76, 0.01),
        "poor": system(0.05, -0.09, 0.2),
    }
    systems["lucky"]["against_auto"] = {"reference": "auto", "difference": 0.7, "p_corrected": 0.01}
    systems["chosen"]["against_auto"] = {"reference": "auto", "difference": 0.01, "p_corrected": 0.3}
    choice = {"strategy": "blend", "options": {"prior": 20.0}}
    lines = notes({"protocols": {"time": systems}, "chosen": {"cold": None, "few": choice}})
    assert lines == [
        "time: best on validation: chosen; significantly below it: popularity",
        "time: significantly above auto: lucky",
        "time: below popularity: poor",
        "cold: nothing could be chosen",
        "few: blend (prior 20.0)",
    ]


def test_leave_one_out_holds_back_the_last_two(log: Path) -> None:
    columns = read_pair(log).columns
    validation, test = parts_of(columns, "leave_one_out")
    assert (validation.is_validation, validation.is_test, test.is_validation, test.is_test) == (
        True,
        False,
        False,
        True,
    )
    for part, later in ((validation, 1), (test, 0)):
        assert part.asked_us is None
        assert (np.diff(part.targets.indptr) == 1).all()
        for number, user in enumerate(part.users.tolist()):
            places = np.arange(columns.offsets[user], columns.offsets[user + 1])
            known = places[part.known[places]]
            assert len(known) == len(places) - 1 - later
            wanted = columns.time_us[places][columns.subject[places] == part.targets.indices[number]]
            assert (columns.time_us[known] <= wanted).all()


def test_seeds_break_ties_in_time(log: Path) -> None:
    columns = read_pair(log).columns
    first, again, other = (parts_of(columns, "leave_one_out", seed)[1].targets.toarray() for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    assert [part.seed for part in parts_of(columns, "leave_one_out", 4, 5) if part.is_test] == [4, 5]


def test_rolling_cuts_know_nothing_of_later(log: Path) -> None:
    columns = read_pair(log).columns
    parts = parts_of(columns, "time")
    assert [(part.is_validation, part.is_test) for part in parts] == [
        *[(True, False)] * 2,
        *[(True, True)] * 4,
        (False, True),
    ]
    ends = [*(part.asked_us for part in parts[1:]), int(columns.time_us.max()) + 1]
    for part, end in zip(parts, ends, strict=True):
        assert part.asked_us is not None
        assert end is not None
        newest = columns.time_us[part.known].max()
        assert newest < part.asked_us == columns.time_us[~part.known].min()
        users, items = part.targets.nonzero()
        for user, item in zip(part.users[users].tolist(), items.tolist(), strict=True):
            at = columns.time_us[(columns.user == user) & (columns.subject == item)]
            assert (at > newest).all()
            assert at.min() < end


@pytest.mark.parametrize("protocol", ["leave_one_out", "time"])
def test_what_is_learned_from_is_known_where_it_is_learned(log: Path, protocol: Protocol) -> None:
    columns, seeds = read_pair(log).columns, (0, 1, 2)
    parts, learned = Splitter(columns, seeds).parts(protocol), 0
    of_name = {part.name: part for part in parts}
    assert len(of_name) == len(parts)
    pairs = columns.user * len(columns.subjects) + columns.subject
    for part in parts:
        for name in (*part.lists, *([part.before] if part.before else [])):
            earlier = of_name[name]
            assert parts.index(earlier) < parts.index(part)
            assert not (earlier.known & ~part.known).any()
        for name in part.lists:
            user, item = of_name[name].targets.nonzero()
            asked = of_name[name].users[user] * len(columns.subjects) + item
            assert np.isin(asked, pairs[part.known]).all()
            learned += len(asked)
    assert learned


def test_cuts_that_are_asked_for(log: Path) -> None:
    columns = read_pair(log).columns
    *earlier, first, last = Splitter(columns, cuts=(0.8, 0.9)).parts("time")
    assert not any(part.is_validation or part.is_test for part in earlier)
    assert [first.name, last.name] == ["cut at 80%", "cut at 90%"]
    assert [(part.is_validation, part.is_test) for part in (first, last)] == [(True, False), (False, True)]


def test_a_quick_evaluation_asks_by_the_last_cuts_alone(log: Path, tiny_home: Path, tmp_path: Path) -> None:
    words = ["--quick", "--dataset", log, "--home", tiny_home, "--precision", "fp32", "--json", tmp_path / "quick.json"]
    ran = CliRunner().invoke(app, [*map(str, words), "--system", "text"])
    assert ran.exit_code == 0, ran.output
    found = json.loads((tmp_path / "quick.json").read_text())
    assert list(found["protocols"]) == ["time"]
    assert [part["name"] for part in found["data"]["parts"]] == ["cut at 80%", "cut at 90%"]


def test_users_are_sampled(log: Path) -> None:
    columns = read_pair(log).columns
    whole, sample = (
        next(part for part in Splitter(columns, most_users=most).parts("leave_one_out") if part.is_validation)
        for most in (None, 7)
    )
    assert (len(sample.users), sample.asked) == (7, len(whole.users))
    assert np.isin(sample.users, whole.users).all()
    assert (sample.targets.toarray() == whole.targets.toarray()[np.isin(whole.users, sample.users)]).all()


def test_held_out_items_are_unknown_and_the_only_candidates(log: Path) -> None:
    columns = read_pair(log).columns
    part = Splitter(columns).parts("leave_one_out")[-1]
    assert part.candidates is not None
    assert part.candidates.sum() == round(0.1 * len(np.unique(columns.subject)))
    assert not part.candidates[columns.subject[part.known]].any()
    assert part.candidates[part.targets.indices].all()


def test_items_that_only_occur_have_no_text(tmp_path: Path) -> None:
    write_small_log(tmp_path)
    with (tmp_path / "small.inter").open("a") as file:
        file.write("0\tunheard\t4\t1\n")
    pair = read_pair(tmp_path / "small.inter")
    assert len(pair.columns.subjects) == ITEMS + 1
    assert pair.texts[-1] == {}
    assert pair.fields == ("title", "class")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user:token\tthing:token\n1\t2\n", "bad.inter: no column of items; the file has: user, thing"),
        ("user_id:token\titem_id:token\ttimestamp:float\n", "no interactions that can be read, 0 rows are refused"),
        ("user_id:token\titem_id:token\ttimestamp:float\n1\t2\tnoon\n", "1 rows are refused"),
        ("user_id:token\titem_id:token\ttimestamp:float\n1\t2\tnan\n", "1 rows are refused"),
        ("user_id:token\titem_id:token\ttimestamp:float\n1\t2\n", "1 rows are refused"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.inter").write_text(content)
    with pytest.raises(BenchmarkError, match=message):
        read_pair(tmp_path)


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"has 0 \.inter files"):
        read_pair(tmp_path)
