"""`train_home`: judged by the newest slice, resumed where it was killed, and without who was erased."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recserve_export.errors import TrainingError
from recserve_export.training.publish import Done, Request, train_home
from recserve_export.training.registry import TRAINERS
from recserve_export.training.run.verdict import Verdict
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot_versions import kept
from recserve_server_ext.index.trained import TrainedSpace, read_trained
from recserve_server_ext.index.trained_versions import current_spaces, kept_versions
from recserve_server_ext.services.model_traces import model_traces, traced_versions
from support.crowds import USERS, crowd, make_crowd_home, opened, record
from support.events import PSEUDONYMS, event

BAD = {"l2": 1e9, "rank": 1}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A home with an index and a log of four crowds."""
    return make_crowd_home(tmp_path)


def trained(workspace: Workspace, *names: str, **more: Any) -> Done:
    given = {"ease": {"l2": 5.0, "rank": 8}, **more.pop("settings", {})}
    options = {name: more.pop(name) for name in ("stage", "clock") if name in more}
    request = Request(names=names or ("ease",), settings=given, **more)
    return train_home(workspace, workspace.interactions, request, **options)


def verdict_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_trained(folder).made_from["judged"]
    return found


def later(workspace: Workspace) -> None:
    """A month passes, in which users like more of the same."""
    with opened(workspace) as store:
        record(store, crowd(day=10, each=8))
        record(store, crowd(day=1, each=6))


def test_the_first_training_serves(workspace: Workspace) -> None:
    (first,) = trained(workspace).published
    assert first.verdict == Verdict(serves=True, why="nothing was trained before")
    assert current_spaces(workspace.spaces) == {"ease": first.folder}


def test_what_is_significantly_worse_does_not_serve_unless_forced(workspace: Workspace) -> None:
    (champion,) = trained(workspace).published
    snapshot = current(workspace.snapshots)
    later(workspace)
    (worse,) = trained(workspace, settings={"ease": BAD}).published
    verdict = worse.verdict
    assert not verdict.serves
    assert verdict.champion == champion.folder.name
    assert verdict.users >= 20
    assert verdict.low <= verdict.high < 0
    assert verdict.ndcg < verdict.champion_ndcg
    assert verdict_of(worse.folder)["why"] == "it is significantly worse on the newest slice"
    assert current_spaces(workspace.spaces) == {"ease": champion.folder}
    assert current(workspace.snapshots) == snapshot
    (forced,) = trained(workspace, settings={"ease": BAD}, force=True).published
    assert forced.verdict == Verdict(serves=True, why="forced")
    assert current_spaces(workspace.spaces) == {"ease": forced.folder}
    assert current(workspace.snapshots) != snapshot


def test_what_is_as_good_serves_and_was_not_trained_on_the_slice(workspace: Workspace) -> None:
    (champion,) = trained(workspace).published
    later(workspace)
    (new,) = trained(workspace).published
    assert new.verdict.serves
    assert new.verdict.why == "it is not significantly worse"
    assert new.verdict.high >= 0
    assert current_spaces(workspace.spaces) == {"ease": new.folder}
    log = read_trained(new.folder).made_from["log"]
    assert champion.verdict.since_us < log["newest_us"] < new.verdict.since_us
    with opened(workspace) as store:
        assert log["number"] == store.stats().interactions > log["interactions"]


def test_without_anything_new_there_is_nothing_to_judge_by(workspace: Workspace) -> None:
    trained(workspace)
    (again,) = trained(workspace).published
    assert again.verdict.serves
    assert again.verdict.why == "nothing came since the version before"


def test_too_few_users_cannot_tell(workspace: Workspace) -> None:
    trained(workspace)
    with opened(workspace) as store:
        record(store, crowd(day=1, each=6, users=4))
    (new,) = trained(workspace).published
    assert new.verdict.serves
    assert "users have something new" in new.verdict.why


@pytest.mark.parametrize("name", ["als", "item_knn", "transitions"])
def test_each_training_is_judged(workspace: Workspace, name: str) -> None:
    trained(workspace, name)
    later(workspace)
    (new,) = trained(workspace, name).published
    assert new.verdict.users >= 20
    assert 0 < new.verdict.ndcg <= 1


def test_the_budget_leaves_trainings_for_the_next_command(workspace: Workspace) -> None:
    seconds = iter([0.0, 0.0, 9.0, 9.0, 9.0])
    done = trained(workspace, "ease", "als", "item_knn", budget_s=5.0, clock=lambda: next(seconds))
    assert [one.name for one in done.published] == ["ease"]
    assert done.left == ["als", "item_knn"]
    later(workspace)
    again = trained(workspace, "ease", "als", "item_knn")
    assert [one.name for one in again.published] == ["ease", "als", "item_knn"]
    assert again.published[0].folder == done.published[0].folder
    numbers = {read_trained(one.folder).made_from["log"]["number"] for one in again.published}
    assert numbers == {USERS * 8}  # as of the same interaction
    assert again.left == []
    (fresh,) = trained(workspace, "ease").published
    assert fresh.folder != done.published[0].folder


def interrupted(monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> Path:
    """A command that ends in its second training; the version of the first one."""

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TRAINERS["als"], "train", fail)
        with pytest.raises(KeyboardInterrupt):
            trained(workspace, "ease", "als")
    (one,) = kept_versions(workspace.spaces)
    assert not one.is_current
    return one.folder


def test_what_is_finished_is_not_trained_again(monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> None:
    first = interrupted(monkeypatch, workspace)
    done = trained(workspace, "ease", "als")
    assert done.published[0].folder == first
    assert current_spaces(workspace.spaces) == {one.name: one.folder for one in done.published}


def test_an_erasure_begins_anew(monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> None:
    first = interrupted(monkeypatch, workspace)
    with opened(workspace) as store:
        store.erase(PSEUDONYMS.of("user3"))
    done = trained(workspace, "ease", "als")
    assert done.published[0].folder != first
    assert not first.exists()
    assert read_trained(done.published[0].folder).made_from["log"]["users"] == USERS - 1


def test_the_store_is_read_as_of_one_moment(workspace: Workspace) -> None:
    @contextmanager
    def stage(what: str, _: int | None) -> Iterator[Callable[[int], None]]:
        with opened(workspace) as store:
            if what == "read the log":
                record(store, [event(PSEUDONYMS.of("late"), "i1", event_id="late")])
            if what == "train ease":
                store.erase(PSEUDONYMS.of("user3"))
        yield lambda _: None

    (done,) = trained(workspace, stage=stage).published
    made = read_trained(done.folder).made_from["log"]
    assert (made["users"], made["number"]) == (USERS, USERS * 8)
    # What it was trained on was erased meanwhile, and that is known.
    with opened(workspace) as store:
        assert [one.folder for one in traced_versions(workspace.spaces, store)] == [done.folder]


def test_an_erased_user_is_left_out_of_the_next_training(workspace: Workspace) -> None:
    with opened(workspace) as store:
        record(store, [event(PSEUDONYMS.of("gone"), f"i{n}", type="like") for n in (1, 5)])
        record(store, [event(PSEUDONYMS.of("gone"), "only mine", type="like")])
    (first,) = trained(workspace).published
    snapshot = current(workspace.snapshots)
    assert "only mine" in TrainedSpace.load(first.folder).ids
    with opened(workspace) as store:
        assert model_traces(workspace.spaces, store, 0) == []
        store.erase(PSEUDONYMS.of("nobody"))
        assert model_traces(workspace.spaces, store, 0) == []
        store.erase(PSEUDONYMS.of("gone"))
        (trace,) = model_traces(workspace.spaces, store, 0)
        assert (trace.name, trace.version, trace.until) == ("ease", first.folder.name, None)
        (trace,) = model_traces(workspace.spaces, store, 3600.0)
        created = read_trained(first.folder).created
        assert trace.until == np.datetime64(created.removesuffix("+00:00")).astype("datetime64[s]").astype(int) + 3600
    # Even where it were worse: the erasure decides.
    (second,) = trained(workspace, settings={"ease": BAD}).published
    assert second.verdict.why == "the version before may hold a trace of erased users"
    assert "only mine" not in TrainedSpace.load(second.folder).ids
    with opened(workspace) as store:
        assert model_traces(workspace.spaces, store, 0) == []
    assert not first.folder.exists()
    assert snapshot.name not in {one.name for one in kept(workspace.snapshots)}


def test_a_log_of_items_that_left_the_catalogue_is_refused_where_none_is_left(workspace: Workspace) -> None:
    with opened(workspace) as store:
        record(store, [event(PSEUDONYMS.of("odd"), f"left{n}", type="like") for n in range(4)])
    (done,) = trained(workspace).published
    assert {f"left{n}" for n in range(4)} < set(TrainedSpace.load(done.folder).ids)
    with pytest.raises(TrainingError, match="unknown"):
        trained(workspace, settings={"ease": {"unknown": 1}})
