"""`recserve train sentiment` over a small home: what comments say, whether it helps, and who has no part in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from recserve_export.cli.interactions import app as interactions
from recserve_export.cli.train.commands import train
from recserve_export.errors import TrainingError
from recserve_export.index.engine_choice import Settings
from recserve_export.index.spaces import Index, taken_over
from recserve_export.training.publish import Range
from recserve_export.training.sentiment.comments import OF_USER, read_comments
from recserve_export.training.sentiment.home import SentimentRequest, Trained, settings_of, train_sentiment
from recserve_export.training.sentiment.proof import effect, separation
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.history.sentiment import NAME, Sentiment
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.trained import load_trained_model, read_trained
from recserve_server_ext.index.trained_versions import current_spaces
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.services.model_traces import model_traces
from support.comments import rated_events
from support.events import ANN, NOW, PSEUDONYMS, event
from support.tiny_home import copy_home

app = typer.Typer()
app.command()(train)


@pytest.fixture(scope="module")
def words(source: Path) -> tuple[list[str], list[str]]:
    """Words that stand in good comments, and words that stand in bad ones."""
    found = [word for word in (source / "vocab.txt").read_text().split() if word.isalpha() and len(word) > 4]
    return found[:12], found[12:24]


@pytest.fixture
def make(
    tiny_home: Path, films: list[str], words: tuple[list[str], list[str]], tmp_path: Path
) -> Callable[[list[Interaction] | None], Workspace]:
    """Makes a home with an index and comments beside ratings."""

    def made(events: list[Interaction] | None = None) -> Workspace:
        workspace = Workspace(copy_home(tiny_home, tmp_path / "home"))
        with InteractionStore(workspace.interactions, create=True, clock=lambda: NOW) as store:
            found = rated_events(films[:80], *words) if events is None else events
            assert {one.status for one in store.record(found)} == {"recorded"}
        return workspace

    return made


def trained(workspace: Workspace, *, force: bool = False, **given: object) -> Trained:
    request = SentimentRequest(settings=settings_of(given), force=force)
    return train_sentiment(workspace, workspace.interactions, request)


def test_it_tells_comments_apart_and_serves(make: Callable[..., Workspace], words: tuple[list[str], list[str]]) -> None:
    workspace = make()
    done = trained(workspace, force=True)
    assert done.separation.auc > 0.9
    assert done.separation.p_value < 0.01
    assert min(done.separation.recalls) > 0.7
    assert sum(done.comments) == 360
    manifest = read_trained(done.folder)
    encoder = TextEncoder(workspace.encoder / "fp32")
    assert manifest.encoder == encoder.fingerprint
    assert manifest.made_from["figures"]["separation"]["auc"] == done.separation.auc
    snapshot = Snapshot.load(current(workspace.snapshots), encoder=encoder.fingerprint)
    verdicts = Sentiment.of_model(snapshot.models[NAME]).verdicts(encoder.encode([" ".join(part) for part in words]))
    assert verdicts.positive[0] > 0.8 > 0.2 > verdicts.positive[1]
    assert verdicts.factor[0] > 1.0 > 0.0 > verdicts.factor[1]
    assert verdicts.confidence.min() > 0.6


def test_the_same_seed_gives_the_same_model(make: Callable[..., Workspace]) -> None:
    workspace = make()
    first, second = (load_trained_model(trained(workspace, force=True).folder) for _ in range(2))
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[name], array)


def test_what_does_not_tell_comments_apart_does_not_serve(
    make: Callable[..., Workspace], films: list[str], words: tuple[list[str], list[str]]
) -> None:
    both = words[0] + words[1]
    workspace = make(rated_events(films[:80], both, both))
    done = trained(workspace)
    assert not done.verdict.serves
    assert "does not tell held out comments apart" in done.verdict.why
    assert NAME not in current_spaces(workspace.spaces)
    assert trained(workspace, force=True).verdict.serves
    assert NAME in current_spaces(workspace.spaces)


def test_a_log_without_rated_comments_says_what_to_do(make: Callable[..., Workspace], films: list[str]) -> None:
    workspace = make([event(item=films[0], type="rating", value=5.0), event(item=films[1], text="fine", type="view")])
    with pytest.raises(TrainingError, match=r"0 comments beside a rating above 3 and 0 below.*--text-field"):
        trained(workspace)


def test_a_home_without_an_index_says_what_to_do(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with InteractionStore(workspace.interactions, create=True, clock=lambda: NOW) as store:
        store.record([event()])
    with pytest.raises(TrainingError, match="recserve index build"):
        trained(workspace)


def test_erased_users_have_no_part_and_the_model_is_named_as_a_trace(make: Callable[..., Workspace]) -> None:
    workspace, erased = make(), PSEUDONYMS.of("user1")
    before = trained(workspace, force=True)
    with InteractionStore(workspace.interactions, clock=lambda: NOW) as store:
        store.erase(erased)
        assert [(one.name, one.until) for one in model_traces(workspace.spaces, store, 3600.0)] == [(NAME, None)]
        left = read_comments(store, HistoryRules(), Range(), 10_000)
        assert len(left.texts) == 354
    after = trained(workspace, force=True)
    assert sum(after.comments) == 354
    assert not before.folder.exists()
    with InteractionStore(workspace.interactions, clock=lambda: NOW) as store:
        assert model_traces(workspace.spaces, store, 3600.0) == []


def test_nobody_decides_alone_what_a_text_means(make: Callable[..., Workspace], films: list[str]) -> None:
    workspace = make()
    many = [
        event(ANN, films[n % 80], type="rating", value=1.0, text=f"flood {n}", timestamp=NOW - 4000 + n)
        for n in range(1000)
    ]
    with InteractionStore(workspace.interactions, clock=lambda: NOW) as store:
        store.record(many)
        found = read_comments(store, HistoryRules(), Range(), 10_000)
        flood = [text for text in found.texts if text.startswith("flood")]
        assert flood == [f"flood {n}" for n in range(1000 - OF_USER, 1000)]
        # The newest of all where there are too many.
        assert sum(read_comments(store, HistoryRules(), Range(), 300).kinds) == 300


def test_another_encoder_refuses_it(make: Callable[..., Workspace]) -> None:
    workspace = make()
    folder = trained(workspace, force=True).folder
    index = Index(["i"], np.ones((1, 32), np.float32), "", "another")
    refused = taken_over({NAME: folder}, index, Settings()).refused
    assert "recserve train sentiment" in str(refused[NAME])


def test_the_effect_is_that_of_the_histories() -> None:
    """Users like what is near what they praised, and far from what they blamed."""
    from recserve_export.training.sentiment.comments import _columns
    from recserve_server_ext.interactions.comments import RatedComment

    vectors = np.zeros((40, 4), np.float32)
    vectors[np.arange(40), np.arange(40) % 4] = 1.0
    vectors += np.random.default_rng(0).normal(scale=0.05, size=vectors.shape).astype(np.float32)
    rows, good = [], []
    for user in range(30):
        # Three of the wrong kind, blamed; one of the right kind, praised; then another one of that kind.
        kinds = [(user + 1) % 4, (user + 1) % 4 + 4, (user + 1) % 4 + 8, user % 4, user % 4 + 4 * (1 + user % 9)]
        for n, item in enumerate(kinds):
            rows.append(RatedComment(user, f"i{item}", "rating", 10**15 + n * 10**6, 5.0 if n > 2 else 1.0, "text"))
            good.append(n > 2)
    columns, is_positive = _columns(rows), np.array(good)
    of_item = vectors[[int(name[1:]) for name in columns.subjects]]
    factors = np.where(is_positive, 2.0, -1.0)
    found = effect(columns, is_positive, factors, np.ones(30, np.bool_), of_item, HistoryRules())
    assert found.users == 30
    assert found.comments > found.plain + 0.2
    assert found.ratings > found.plain + 0.2
    assert 0 < found.low < found.comments - found.plain < found.high
    nobody = effect(columns, is_positive, factors, np.zeros(30, np.bool_), of_item, HistoryRules())
    assert nobody.users == 0


def test_the_area_under_the_curve() -> None:
    found = separation(np.array([0.9, 0.4, 0.6, 0.1]), np.array([True, True, False, False]))
    assert found.auc == 0.75
    assert found.recalls == (0.5, 0.5)


def test_the_command_prints_figures_and_preview_shows_the_factor(
    make: Callable[..., Workspace], films: list[str], words: tuple[list[str], list[str]]
) -> None:
    workspace = make()
    result = CliRunner().invoke(app, [NAME, "--home", str(workspace.home), "--force", "--set", "negative=-2"])
    assert result.exit_code == 0, result.output
    assert "area under the curve" in result.output
    bad = " ".join(words[1][:5])
    with InteractionStore(workspace.interactions, clock=lambda: NOW) as store:
        store.record(
            [
                event(ANN, films[0], type="purchase", text=bad),
                event(ANN, films[1], type="rating", value=4.0, text=bad),
                event(ANN, films[2], type="purchase"),
            ]
        )
    shown = CliRunner().invoke(interactions, ["preview", ANN, "--pseudonyms", "--home", str(workspace.home), "--json"])
    assert shown.exit_code == 0, shown.output
    rows = {row["subject"]: row for row in json.loads(shown.stdout)["rows"]}
    first, rated, plain = (rows[film] for film in films[:3])
    assert first["comment"] == bad
    assert -2.0 < first["factors"]["sentiment"] < -1.0
    assert 0.6 < first["confidence"] <= 1.0
    assert first["weight"] == pytest.approx(np.prod(list(first["factors"].values())))
    assert (rated["factors"].get("sentiment"), rated.get("confidence"), rated["comment"]) == (None, None, bad)
    assert (plain["factors"].get("sentiment"), plain.get("comment")) == (None, None)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"sentiment.*held_out"):
        settings_of({"held_out": 0.9})
