"""`recserve bench spaces`: own vectors that tell what the texts do not, and made-up pictures and recordings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from made_media import picture, sound
from recserve_benchmarks.cli.bench import app
from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.training.spaces import SpacesRun
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.trained import Origin, publish_space
from recserve_server_ext.index.trained_versions import make_current
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.store import InteractionStore
from support.events import PSEUDONYMS

START, USERS, OF_EACH, ITEMS = 1_700_000_000, 60, 12, 80


@pytest.fixture
def workspace(tiny_home: Path, tmp_path: Path) -> Workspace:
    """A home whose users like every other item: even or odd places in the index."""
    ignored = shutil.ignore_patterns("run", "interactions.db*", "pseudonym.key")
    workspace = Workspace(shutil.copytree(tiny_home, tmp_path / "home", symlinks=True, ignore=ignored))
    ids, random = Snapshot.load(current(workspace.snapshots)).ids, np.random.default_rng(0)
    events = [
        Interaction(
            user=PSEUDONYMS.of(f"u{user}"),
            type="like",
            item=ids[user % 2 + 2 * place],
            timestamp=float(START + n * USERS + user),
        )
        for user in range(USERS)
        for n, place in enumerate(random.choice(ITEMS // 2, OF_EACH, replace=False).tolist())
    ]
    with InteractionStore(workspace.interactions, create=True) as store:
        store.record(events)
    return workspace


def publish(workspace: Workspace, name: str, vectors: NDArray[Any], made_from: dict[str, object]) -> None:
    ids = Snapshot.load(current(workspace.snapshots)).ids[: len(vectors)]
    origin = Origin(made_from=made_from)
    make_current(publish_space(workspace.spaces, name, ids, vectors.astype(np.float32), origin=origin))


def test_vectors_that_tell_the_taste_help_where_texts_do_not(workspace: Workspace) -> None:
    is_odd = np.arange(ITEMS) % 2
    publish(workspace, "pictures", np.stack([1 - is_odd, is_odd], axis=1), {"image": "poster"})
    publish(workspace, "als", np.eye(ITEMS), {"log": {"number": 1}})  # of the log: it would know what is asked
    results = SpacesRun(workspace=workspace, seeds=2, show=lambda *_: None).measure()
    rows = results["rows"]
    assert results["items"] == ITEMS
    assert list(rows) == [
        "popularity", "popularity from text", "text", "pictures", "text + pictures", "ease + text",
        "ease + text + pictures", "ease mapped from all + text",
    ]  # fmt: skip
    for what in ("cold items", "last item"):
        text, both = (np.array(rows[name][what]) for name in ("text", "text + pictures"))
        assert (both > text).all()
    assert min(rows["pictures"]["cold items"]) > max(rows["text"]["cold items"])
    shown = CliRunner().invoke(app, ["spaces", "--home", str(workspace.home), "--seeds", "2"])
    assert shown.exit_code == 0, shown.output
    assert f"| text + pictures | {np.mean(rows['text + pictures']['cold items']):.3f} (" in shown.output


def test_a_home_without_own_vectors_is_refused(workspace: Workspace) -> None:
    publish(workspace, "als", np.eye(ITEMS), {"log": {"number": 1}})
    with pytest.raises(BenchmarkError, match="recserve train vectors"):
        SpacesRun(workspace=workspace, seeds=1, show=lambda *_: None).measure()


def test_made_up_media_tell_their_genres() -> None:
    genres = 18
    red, green = (np.asarray(picture(np.random.default_rng(3), [number], genres), float) for number in (0, 6))
    assert (red == np.asarray(picture(np.random.default_rng(3), [0], genres))).all()
    # Where the two differ are the shapes: hue 0 is red, hue 120 green.
    differs = np.abs(red - green).max(axis=2) > 150
    assert red[differs][:, 0].mean() > red[differs][:, 1].mean() + 100
    assert green[differs][:, 1].mean() > green[differs][:, 0].mean() + 100
    samples = sound(np.random.default_rng(3), [4])
    strength = np.abs(np.fft.rfft(samples))
    loudest = np.argmax(strength) * 22_050 / len(samples)
    keys = 69 + 12 * np.log2(loudest / 440)
    assert min(abs(keys - key) for key in (52, 55, 59)) < 0.5  # a minor triad on the fourth key above middle C's octave
