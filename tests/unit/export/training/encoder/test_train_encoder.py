"""`recserve train encoder` over a small home: better on items it never saw, proved, resumed, refused with a reason."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import typer
from typer.testing import CliRunner

from recserve_client.contract import ModelTrace
from recserve_export.cli.train.commands import train
from recserve_export.encoder.checks.reference import Reference
from recserve_export.encoder.export import export_encoder
from recserve_export.encoder.source.folder import read_source
from recserve_export.errors import TrainingError
from recserve_export.training.encoder.home import EncoderRequest, Tuned, settings_of, train_encoder
from recserve_export.training.pairs import OF_USER
from recserve_server_ext.catalogue.store import StoredItem
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.files import sha256_of
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.encoder.versions import versions
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.services.model_traces import model_traces
from support.events import NOW, PSEUDONYMS, event
from support.genres import USERS, genre_events, genre_items, make_genre_home
from support.tiny_encoder import LOOSE, measured_once
from support.training_kills import LONG_S, kill_when

app = typer.Typer()
app.command()(train)

QUICK: dict[str, Any] = {
    "steps": 60,
    "every": 20,
    "pairs": 32,
    "rate": 2e-3,
    "distil": 0.0,
    "held_out": 0.3,
    "head_steps": 0,
    "precision": "fp32",
}


def trained(
    workspace: Workspace, source: Path, keep: float = -1.0, budget_s: float | None = None, **given: Any
) -> Tuned:
    settings = settings_of({**QUICK, **given})
    request = EncoderRequest(model=str(source), settings=settings, keep=keep, budget_s=budget_s)
    return train_encoder(workspace, workspace.interactions, request)


def weights_of(done: Tuned) -> str:
    return sha256_of(done.model / "model.safetensors")


def vectors_of(folder: Path, texts: list[str]) -> Vectors:
    return Reference(read_source(folder)).vectors(texts)


@pytest.fixture(scope="module")
def done(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Tuned]:
    """A home with a trained encoder; not to be changed."""
    workspace = make_genre_home(tmp_path_factory.mktemp("genres"), source)
    return workspace, trained(workspace, source, head_steps=100)


def test_it_learns_the_taste_in_items_that_it_never_saw(done: tuple[Workspace, Tuned]) -> None:
    report = done[1].report
    assert report.misses == []
    cold = report.differences["cold items"]
    assert 0 < cold.low <= cold.mean <= cold.high
    by_name = {system.name: system.ndcg["cold items"] for system in report.systems}
    last = {system.name: system.ndcg["last item"] for system in report.systems}
    assert by_name["trained encoder"] > by_name["first encoder"]
    assert by_name["trained, fusion"] > by_name["first, fusion"]
    assert last["trained, fusion"] > last["trained encoder"]
    assert by_name["trained encoder"] > by_name["popularity from text"]
    assert by_name["trained, text_head"] > 0
    assert [look.step for look in report.course.looks] == [0, 20, 40, 60]
    assert report.course.best == max(report.course.looks[1:], key=lambda look: look.ndcg).step


def test_the_report_says_what_was_read(done: tuple[Workspace, Tuned]) -> None:
    workspace, found = done
    written = json.loads((found.folder / "report.json").read_text())
    assert written == json.loads(msgspec.json.encode(found.report))
    with InteractionStore(workspace.interactions) as store:
        assert written["data"]["number"] == store.stats().interactions
    assert written["data"]["held_out"] == 48
    assert written["data"]["trained"] < written["data"]["interactions"]
    assert written["settings"]["rate"] == QUICK["rate"]
    page = (found.folder / "report.md").read_text()
    assert f"| {found.report.differences['cold items'].mean:+.4f} |" in page
    assert "Gate: passed." in page
    assert not list(workspace.tuned.glob(".unfinished*"))


def test_it_is_exported_with_its_vectors(done: tuple[Workspace, Tuned], source: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with measured_once():
        export_encoder(done[1].model, workspace, settings=LOOSE)
    (exported,) = versions(workspace.encoder)
    assert exported.usable().name == "tiny-tuned-1"
    texts = [text for item in genre_items(source)[:8] for text in item.texts.values()]
    expected = vectors_of(done[1].model, texts)
    np.testing.assert_allclose(TextEncoder(exported.folder).encode(texts), expected, atol=1e-5)


def test_the_same_seed_gives_the_same_weights(done: tuple[Workspace, Tuned], source: Path, tmp_path: Path) -> None:
    workspace = make_genre_home(tmp_path, source)
    assert weights_of(trained(workspace, source, head_steps=100)) == weights_of(done[1])


@pytest.mark.parametrize(
    "given",
    [
        {"lora": 4, "steps": 20},
        {"layers": 1, "steps": 20, "adversarial": 0.5, "distil": 1.0, "near": 0.1},
        {"steps": 20, "adversarial": 0.3, "adversarial_steps": 2, "hard": 2, "views": 0.1},
        {"steps": 20, "swap_fields": 0.5, "views": 0.2},
        {"steps": 20, "drop_fields": 0.3, "drop_tokens": 0.1, "patience": 1, "precision": "bf16"},
    ],
)
def test_each_option_gives_a_model(given: dict[str, Any], source: Path, tmp_path: Path) -> None:
    done = trained(make_genre_home(tmp_path, source), source, **given)
    texts = [text for item in genre_items(source)[:8] for text in item.texts.values()]
    before, after = vectors_of(source, texts), vectors_of(done.model, texts)
    assert np.abs(before - after).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1.0, atol=1e-5)


def test_the_last_layers_alone_leave_the_others_as_they_are(source: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    done = trained(make_genre_home(tmp_path, source), source, layers=1, steps=20)
    before, after = load_file(source / "model.safetensors"), load_file(done.model / "model.safetensors")
    changed = {name for name, value in before.items() if not np.array_equal(value, after[name])}
    assert changed
    assert {name.split("layer.")[1][0] for name in changed} == {"1"}
    with pytest.raises(TrainingError, match="layers=9: the model has 2 layers"):
        trained(make_genre_home(tmp_path / "other", source), source, layers=9)


def test_what_holds_on_to_the_first_vectors_keeps_more_of_them(
    done: tuple[Workspace, Tuned], source: Path, tmp_path: Path
) -> None:
    held = trained(make_genre_home(tmp_path, source), source, distil=100.0)
    texts = [text for item in genre_items(source) for text in item.texts.values()]
    before, after, free = (vectors_of(folder, texts) for folder in (source, held.model, done[1].model))
    assert (before * after).sum(axis=1).mean() > (before * free).sum(axis=1).mean() + 0.05


def test_the_time_is_bounded(source: Path, tmp_path: Path) -> None:
    done = trained(make_genre_home(tmp_path, source), source, steps=100_000, budget_s=0.0)
    assert done.report.course.steps == 1
    assert done.report.course.looks[-1].step == 1


def command(workspace: Workspace, source: Path, **given: Any) -> list[str]:
    settings = [part for name, value in {**QUICK, **given}.items() for part in ("--set", f"{name}={value}")]
    return ["encoder", "--home", str(workspace.home), "--model", str(source), *settings]


@pytest.fixture
def priorities(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command lowers its priority to; that of the tests stays, as no process may raise its own again."""
    found: list[Any] = []
    monkeypatch.setattr(psutil.Process, "nice", lambda _, value=0: found.append(value) if value else 0)
    monkeypatch.setattr(psutil.Process, "ionice", lambda _, kind: found.append(kind))
    return found


def test_a_killed_training_goes_on(
    done: tuple[Workspace, Tuned], source: Path, tmp_path: Path, priorities: list[Any]
) -> None:
    workspace = make_genre_home(tmp_path, source)
    given = [*command(workspace, source, head_steps=100), "--keep", "-1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "recserve_client.cli.main", "train", *given],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    unfinished = workspace.tuned / ".unfinished"
    assert kill_when(process, lambda: bool(list(unfinished.glob("checkpoint-*/WHOLE.json"))))
    assert process.wait(LONG_S) != 0
    assert not list(workspace.tuned.glob("[0-9]*"))
    # What a kill in the middle of writing leaves is no checkpoint.
    (unfinished / "checkpoint-999").mkdir()
    resumed = CliRunner().invoke(app, given)
    assert resumed.exit_code == 0, resumed.output
    assert priorities == [10, psutil.IOPRIO_CLASS_IDLE]
    report = json.loads((workspace.tuned / "0001" / "report.json").read_text())
    assert [look["step"] for look in report["course"]["looks"]] == [0, 20, 40, 60]
    texts = [text for item in genre_items(source) for text in item.texts.values()]
    resumed_model, never_ended = workspace.tuned / "0001" / "tiny-tuned-1", done[1].model
    # Two processes may round differently.
    cosines = (vectors_of(resumed_model, texts) * vectors_of(never_ended, texts)).sum(axis=1)
    assert cosines.min() > 0.999
    assert not unfinished.exists()


@pytest.mark.usefixtures("priorities")
def test_a_gate_that_is_missed_ends_with_an_error_and_serves_nothing(source: Path, tmp_path: Path) -> None:
    workspace = make_genre_home(tmp_path, source)
    result = CliRunner().invoke(app, [*command(workspace, source, steps=20), "--keep", "1"])
    assert result.exit_code == 1
    assert "not to be served: on unrelated sentences it agrees with the first encoder by" in result.output
    assert "below --keep 1: train less" in result.output.replace("\n", " ")
    assert versions(workspace.encoder) == []
    assert "below --keep 1" in (workspace.tuned / "0001" / "report.md").read_text()


def test_a_full_disk_is_said_and_the_checkpoint_before_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    workspace = make_genre_home(tmp_path, source)

    def full(tensors: Any, path: Path) -> None:
        if path.parent.name == "checkpoint-40":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr("recserve_export.training.encoder.fit.save_file", full)
        with pytest.raises(TrainingError, match=r"a checkpoint cannot be written to .*No space left on device"):
            trained(workspace, source)
    assert [path.parent.name for path in workspace.tuned.glob(".unfinished/*/WHOLE.json")] == ["checkpoint-20"]
    assert trained(workspace, source).report.course.steps == 60


def test_without_a_log_or_pairs_there_is_nothing_to_train_on(source: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="there is nothing to train on: no "):
        trained(Workspace(tmp_path / "empty"), source)
    alone = [event(PSEUDONYMS.of(f"u{n}"), f"i{n % 40}", type="like", event_id=f"e{n}") for n in range(60)]
    with pytest.raises(TrainingError, match=r"nothing is left to train on|no pair of different items"):
        trained(make_genre_home(tmp_path / "alone", source, alone), source)
    once = [
        event(PSEUDONYMS.of(f"u{n}"), f"i{n % 40}", type="like", timestamp=NOW - 90 - day, event_id=f"e{n} {day}")
        for n in range(60)
        for day in range(3)
    ]
    with pytest.raises(TrainingError, match="no pair of different items"):
        trained(make_genre_home(tmp_path / "once", source, once), source)


def test_one_item_and_identical_texts_are_refused(source: Path, tmp_path: Path) -> None:
    same = [StoredItem(item.id, {"title": "the same"}, {}) for item in genre_items(source)]
    with pytest.raises(TrainingError, match="1 different texts among the"):
        trained(make_genre_home(tmp_path / "same", source, items=same), source)
    with pytest.raises(TrainingError, match="nothing is left to train on: of 1 items with a text"):
        trained(make_genre_home(tmp_path / "one", source, items=genre_items(source)[:1]), source)


def test_what_does_not_fit_into_memory_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    workspace = make_genre_home(tmp_path, source)

    class Memory:
        available = 2_000_000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    with pytest.raises(TrainingError, match=r"a batch of 32 pairs \(--set pairs=N for less\) takes"):
        trained(workspace, source)


def test_another_model_than_the_served_one_has_to_be_named(tiny_home: Path, source: Path, tmp_path: Path) -> None:
    import shutil

    home = shutil.copytree(tiny_home, tmp_path / "home", symlinks=True)
    make_genre_home(tmp_path / "log", source)
    with pytest.raises(TrainingError, match="was made of tiny, not of all-MiniLM-L6-v2 as it is by default"):
        train_encoder(Workspace(home), tmp_path / "log" / "interactions.db", EncoderRequest())


def test_an_erasure_begins_anew_and_an_erased_user_is_in_no_pair(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recserve_export.training.encoder import home

    workspace, wrong = make_genre_home(tmp_path, source), PSEUDONYMS.of("user3")
    with monkeypatch.context() as patch:
        patch.setattr(home._Run, "_proof", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trained(workspace, source, steps=20)
    assert list(workspace.tuned.glob(".unfinished/checkpoint-*"))
    with InteractionStore(workspace.interactions, clock=lambda: NOW) as store:
        store.erase(wrong)
    done = trained(workspace, source, steps=20)
    data = done.report.data
    assert data.interactions == len(genre_events()) * (USERS - 1) // USERS
    without = make_genre_home(tmp_path / "without", source, [one for one in genre_events() if one.user != wrong])
    assert trained(without, source, steps=20).report.data.pairs == data.pairs
    with InteractionStore(workspace.interactions, clock=lambda: NOW) as store:
        assert model_traces(workspace.spaces, store, 0) == []
        store.erase(PSEUDONYMS.of("user5"))
        assert model_traces(workspace.spaces, store, 0) == [ModelTrace("encoder", done.folder.name, None)]


@pytest.mark.kills
def test_one_user_with_100_000_events_moves_the_vectors_by_little(source: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    poison = [
        event(
            PSEUDONYMS.of("poison"),
            f"i{item}",
            type="like",
            timestamp=NOW - 100_000.0 * 60 + 60.0 * n,
            event_id=f"poison {n}",
        )
        for n, item in enumerate(random.integers(160, size=100_000).tolist())
    ]
    many = genre_events(users=1000)
    texts = [text for item in genre_items(source) for text in item.texts.values()]
    found = {}
    for name, events in (("clean", many), ("poisoned", [*many, *poison])):
        done = trained(make_genre_home(tmp_path / name, source, events), source, steps=40)
        found[name] = done.report.data.pairs, vectors_of(done.model, texts)
    (clean, before), (poisoned, after) = found["clean"], found["poisoned"]
    assert 0 <= poisoned - clean <= 3 * OF_USER
    assert (before * after).sum(axis=1).mean() > 0.9
