"""`recserve train`: from a store to published spaces."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from recserve_export.cli.train.commands import train
from recserve_export.errors import TrainingError
from recserve_export.training.modalities.own_vectors import read_vectors
from recserve_export.training.publish import Range, Request, names_of, train_home
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.index.matrix import is_matrix
from recserve_server_ext.index.model import is_model
from recserve_server_ext.index.trained import TrainedMatrix, TrainedSpace, load_trained_model, read_trained
from recserve_server_ext.index.trained_versions import current_spaces
from recserve_server_ext.interactions.store import InteractionStore
from support.events import NOW, PSEUDONYMS, event

USERS, ITEMS = 12, 8
app = typer.Typer()
app.command()(train)  # as `recserve` adds it


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Users who have some items each; one who dislikes, and one who is erased."""
    workspace, random = Workspace(tmp_path), np.random.default_rng(3)
    with InteractionStore(workspace.interactions, InteractionLimits(), create=True, clock=lambda: NOW) as store:
        for user in range(USERS):
            chosen = random.choice(ITEMS, 5, replace=False)
            name = PSEUDONYMS.of(f"user{user}")
            store.record(
                [event(name, f"i{item}", type="click", timestamp=NOW - 60 * n) for n, item in enumerate(chosen)]
            )
        store.record([event(PSEUDONYMS.of("user0"), "bad", type="dislike")])
        store.record([event(PSEUDONYMS.of("gone"), f"secret{n}", type="click", timestamp=NOW - n) for n in range(3)])
        store.erase(PSEUDONYMS.of("gone"))
    return workspace


def trained(workspace: Workspace, name: str, **settings: int) -> Path:
    request = Request(names=[name], settings={name: settings})
    return train_home(workspace, workspace.interactions, request).published[0].folder


def test_all_that_is_worth_serving_is_published(workspace: Workspace) -> None:
    names = names_of("all", has_text=False)
    done = train_home(workspace, workspace.interactions, Request(names=names, settings={})).published
    assert [one.name for one in done] == names
    assert current_spaces(workspace.spaces) == {one.name: one.folder for one in done}
    for one in done:
        if is_matrix(one.folder):
            ids = TrainedMatrix.load(one.folder).ids
        else:
            ids = load_trained_model(one.folder).ids if is_model(one.folder) else TrainedSpace.load(one.folder).ids
        assert set(ids) - {"bad"} == ({f"i{n}" for n in range(ITEMS)} if one.name != "ranker" else set())
        assert one.size


def test_the_manifest_says_what_it_was_trained_from(workspace: Workspace) -> None:
    made = read_trained(trained(workspace, "ease", rank=3)).made_from
    assert made["log"]["interactions"] == USERS * 5
    assert made["log"]["users"] == USERS
    assert made["log"]["number"] >= USERS * 5
    assert made["settings"] == {"seed": 0, "l2": 1000.0, "rank": 3, "exact_items": 10_000}
    assert made["rules"] == HistoryRules().version
    assert made["figures"]["seconds"] >= 0


def test_the_same_log_gives_the_same_files(workspace: Workspace) -> None:
    first, again = (read_trained(trained(workspace, "als", factors=4)).files for _ in range(2))
    assert first == again


def test_a_range_of_time_is_read(workspace: Workspace) -> None:
    cut = datetime.fromtimestamp(NOW - 90, UTC)
    spans = Range(since=cut), Range(until=cut)
    counts = []
    for span in spans:
        request = Request(names=["ease"], settings={}, span=span)
        (done,) = train_home(workspace, workspace.interactions, request).published
        counts.append(read_trained(done.folder).made_from["log"]["interactions"])
    assert counts == [USERS * 2, USERS * 3]


def test_nothing_to_train_on_is_refused(tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(TrainingError, match="recserve interactions import"):
        train_home(Workspace(tmp_path / "none"), tmp_path / "none.db", Request(names=["ease"], settings={}))
    future = Range(since=datetime(2100, 1, 1, tzinfo=UTC))
    with pytest.raises(TrainingError, match="nothing to train on"):
        train_home(workspace, workspace.interactions, Request(names=["ease"], settings={}, span=future))
    assert current_spaces(workspace.spaces) == {}


def test_what_does_not_fit_into_memory_is_refused_before_it_starts(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = USERS * 6 * 500 + 5000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    with pytest.raises(TrainingError, match=r"the training 'item_knn' takes .* GiB of memory, and 0\.0 GiB are free"):
        trained(workspace, "item_knn")
    monkeypatch.setattr(Memory, "available", 100)
    with pytest.raises(TrainingError, match=r"reading .* interactions takes"):
        trained(workspace, "item_knn")


def test_the_command(workspace: Workspace) -> None:
    run = CliRunner()
    done = run.invoke(app, ["transitions", "--home", str(workspace.home), "--set", "most=3"])
    assert done.exit_code == 0, done.output
    assert "transitions: " in done.output
    assert "recserve index build" in done.output
    given = ["--set", "ease.rank=3", "--set", "als.factors=2", "--set", "text_head.steps=1"]
    cheap = ["--set", "sequence.epochs=1", "--set", "sequence.dim=8", "--set", "ranker.cuts=0"]
    every = run.invoke(app, ["all", "--home", str(workspace.home), *given, *cheap])
    assert every.exit_code == 0, every.output
    made = {name: read_trained(current_spaces(workspace.spaces)[name]).made_from for name in ("ease", "als")}
    assert (made["ease"]["settings"]["rank"], made["als"]["settings"]["factors"]) == (3, 2)
    unnamed = run.invoke(app, ["all", "--home", str(workspace.home), "--set", "rank=3"])
    assert (unnamed.exit_code, "TRAINING.rank=VALUE" in unnamed.output) == (2, True)
    other = run.invoke(app, ["ease", "--home", str(workspace.home), "--set", "als.factors=2"])
    assert (other.exit_code, "what is trained is ease" in other.output) == (2, True)
    wrong = run.invoke(app, ["transition", "--home", str(workspace.home)])
    assert wrong.exit_code == 1
    assert "did you mean 'transitions'?" in wrong.output
    wrong = run.invoke(app, ["ease", "--home", str(workspace.home), "--set", "rank=0"])
    assert wrong.exit_code == 1
    assert "rank" in wrong.output
    assert run.invoke(app, ["vectors", "--home", str(workspace.home)]).exit_code == 2
    assert run.invoke(app, ["ease", "--from", "x.parquet", "--home", str(workspace.home)]).exit_code == 2


@pytest.mark.parametrize("name", ["all", "ease", "encoder", "sentiment", "vectors"])
def test_every_training_by_hand_yields_to_what_serves(name: str, tmp_path: Path, yielded: list[int | None]) -> None:
    assert CliRunner().invoke(app, [name, "--home", str(tmp_path)]).exit_code != 0  # there is no log
    assert yielded == [None]


def test_own_vectors_are_published(workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "own.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "vector": [[3.0, 4.0], [0.0, -2.0]]}), file)
    done = CliRunner().invoke(app, ["vectors", "--home", str(workspace.home), "--from", str(file)])
    assert done.exit_code == 0, done.output
    found = TrainedSpace.load(current_spaces(workspace.spaces)["vectors"])
    assert found.ids == ["a", "b"]
    np.testing.assert_allclose(found.vectors, [[0.6, 0.8], [0.0, -1.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"id": ["a"], "vector": [[1.0, float("nan")]]}, "not finite or all zero, the first is of 'a'"),
        ({"id": ["a"], "vector": [[0.0, 0.0]]}, "all zero"),
        ({"id": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}, "not of one length"),
        ({"id": ["a", "b"], "vector": [[1.0], None]}, "not of one length"),
        ({"id": ["a", "a"], "vector": [[1.0], [2.0]]}, "more than once"),
        ({"id": ["a"], "vector": ["x"]}, "lists of numbers are needed"),
        ({"item": ["a"], "vector": [[1.0]]}, "no column 'id'"),
    ],
)
def test_wrong_vectors_are_refused(tmp_path: Path, columns: dict[str, list[object]], named: str) -> None:
    file = tmp_path / "own.parquet"
    pq.write_table(pa.table(columns), file)
    with pytest.raises(TrainingError, match=named):
        read_vectors(file, "id", "vector")
