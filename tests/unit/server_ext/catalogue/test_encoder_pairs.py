"""A snapshot of another encoder is served with that encoder's vectors only, whatever was written meanwhile."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_client.contract import ErrorKind, RequestError, Slate, models
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.errors import ModelNotLoadedError, SnapshotError
from recserve_server_ext.config.server import Limits
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.pointers import CURRENT, publish
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.snapshot_versions import before_last_encoder, newest_of
from recserve_server_ext.services.recommend import RecommendService
from support.calls import Call
from support.edited import ENCODER, Edited, item_vector, vector_of
from support.examples import examples
from support.service import without_users

OTHER = "other"


class Live:
    """A live catalogue over a changed one, with the encoders that are loaded."""

    def __init__(self, edited: Edited) -> None:
        self.edited = edited
        self.loaded = {ENCODER}
        self.changes = 0
        self.is_away = False
        self.catalogue = LiveCatalogue(
            edited.snapshots, self._load, lambda: edited.store, encode=self._encode, loadable=lambda: self.changes
        )

    def load(self, encoder: str) -> None:
        self.loaded.add(encoder)
        self.changes += 1

    def settled(self) -> View:
        """The view once what is published is loaded."""
        view = self.catalogue.view()
        while self.catalogue._loading is not None:
            self.catalogue._loading.join(30)
            view = self.catalogue.view()
        return view

    def _load(self, folder: Path) -> Snapshot:
        if (encoder := read_manifest(folder).encoder) not in self.loaded:
            raise ModelNotLoadedError(f"encoder {encoder} is not loaded")
        return Snapshot.load(folder)

    def _encode(self, texts: Sequence[str], encoder: str) -> NDArray[np.float32]:
        if self.is_away:
            raise RequestError(ErrorKind.UNAVAILABLE, "the encoder is away")
        return self.edited.encode(texts, encoder)


@pytest.fixture
def live(tmp_path: Path) -> Live:
    return Live(Edited(tmp_path, tmp_path / "catalogue.db"))


def film(item_id: str, title: str) -> dict[str, object]:
    return {"id": item_id, "texts": {"title": title}}


def check(view: View, edited: Edited) -> None:
    """Every item of the store is there with the vector that the view's encoder gives its texts."""
    items = list(edited.store.items())
    rows = np.array([view.row_of.get(item.id, -1) for item in items])
    assert rows.min() >= 0
    expected = np.stack([item_vector(item.texts, view.encoder) for item in items])
    np.testing.assert_allclose(view.text.vectors(rows), expected, atol=1e-6)


def test_a_snapshot_waits_for_its_encoder(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    live.edited.publish(OTHER)
    with caplog.at_level(logging.ERROR):
        assert live.settled().encoder == ENCODER
    assert not caplog.records
    live.load(OTHER)
    view = live.settled()
    assert view.encoder == OTHER
    check(view, live.edited)


def test_what_was_written_by_the_encoder_before_is_encoded_again(live: Live) -> None:
    live.edited.publish(OTHER)
    live.edited.change("upsert", [film(f"n{n}", f"new {n}") for n in range(150)])
    before = live.catalogue.view()
    assert (before.encoder, before.revision) == (ENCODER, 2)
    live.edited.asked.clear()
    live.load(OTHER)
    view = live.settled()
    assert (view.encoder, view.revision) == (OTHER, 2)
    check(view, live.edited)
    assert sorted(live.edited.asked) == sorted(f"new {n}" for n in range(150))
    check(before, live.edited)  # answers under way keep theirs
    # `items` has not noticed yet.
    live.edited.change("upsert", [film("late", "written late")])
    check(live.catalogue.view(), live.edited)
    live.edited.encoder = OTHER
    live.edited.asked.clear()
    live.edited.change("upsert", [film("later", "written later")])
    check(live.catalogue.view(), live.edited)
    assert live.edited.asked == ["written later"]


def test_going_back_encodes_what_came_since(live: Live) -> None:
    first = live.catalogue.view().snapshot.manifest.id
    live.load(OTHER)
    live.edited.publish(OTHER)
    assert live.settled().encoder == OTHER
    live.edited.encoder = OTHER
    live.edited.change("upsert", [film("a", "since then")])
    assert before_last_encoder(live.edited.snapshots).id == first
    publish(live.edited.snapshots, first, ENCODER)
    view = live.settled()
    assert (view.encoder, view.revision, view.snapshot.manifest.id) == (ENCODER, 2, first)
    check(view, live.edited)
    assert before_last_encoder(live.edited.snapshots).encoder == OTHER


def test_an_encoder_that_is_away_leaves_what_is_served(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("recserve_server_ext.catalogue.live.time.monotonic", lambda: now)
    live.edited.publish(OTHER)
    live.edited.change("upsert", [film("a", "new")])
    assert live.catalogue.view().revision == 2
    live.is_away = True
    live.load(OTHER)
    view = live.settled()
    assert (view.encoder, view.revision) == (ENCODER, 2)
    assert "the encoder is away" in caplog.text
    live.is_away = False
    assert live.catalogue.view().encoder == ENCODER  # not asked again at once
    now += 1
    view = live.catalogue.view()
    assert (view.encoder, view.revision) == (OTHER, 2)
    check(view, live.edited)


def test_texts_that_cancel_out_under_the_other_encoder_are_not_recommended(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    live.edited.publish(OTHER)
    live.edited.change("upsert", [{"id": "a", "texts": {"title": "one", "genre": "two"}}, film("b", "three")])

    def opposite(texts: Sequence[str], encoder: str) -> NDArray[np.float32]:
        vectors = {"one": vector_of("x"), "two": -2 * vector_of("x"), "three": vector_of("three", OTHER)}
        return np.stack([vectors[text] for text in texts])

    live.catalogue._encode = opposite
    live.load(OTHER)
    view = live.settled()
    assert view.revision == 2
    assert [bool(view.available[view.row_of.get(name, -1)]) for name in "ab"] == [False, True]
    assert "'a' cancel out under encoder other" in caplog.text


ops = st.lists(
    st.tuples(st.sampled_from(["upsert", "delete", "publish", "serve"]), st.integers(0, 9), st.sampled_from([0, 1])),
    min_size=1,
    max_size=25,
)


@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ops)
def test_no_view_mixes_encoders(tmp_path: Path, script: list[tuple[str, int, int]]) -> None:
    """Snapshots by either encoder, and changes written with either: every view has vectors of one, of all items."""
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    edited = Edited(folder, folder / "catalogue.db", items=4)
    live = Live(edited)
    live.load(OTHER)
    for op, item, which in script:
        encoder = (ENCODER, OTHER)[which]
        if op == "publish" and edited.store.count():
            edited.publish(encoder)
        elif op == "serve":
            edited.encoder = encoder
        elif op == "upsert":
            edited.change("upsert", [film(f"i{item}", f"text {item} {which}")])
        elif op == "delete":
            edited.change("delete", [{"id": f"i{item}"}])
        view = live.settled() if op == "publish" else live.catalogue.view()
        assert view.revision == edited.store.revision
        if edited.store.count():
            check(view, edited)
    edited.store.close()


def answered(live: Live, recommender: RecommendService, **request: object) -> Slate | RequestError:
    model = Batcher(recommender, {models.ENCODER: live._encode})
    call = Call(json.dumps(request).encode())
    (now,) = model.run([call])
    model.close()
    answer = call.answers[0] if now is None else now
    return answer if isinstance(answer, RequestError) else msgspec.json.decode(answer, type=Slate)


def test_texts_are_encoded_and_kept_by_encoder(live: Live) -> None:
    recommender = without_users(live.catalogue.view, Limits())
    for encoder in (ENCODER, OTHER, ENCODER):
        live.load(encoder)
        live.edited.publish(encoder)
        live.settled()
        for _ in range(2):
            slate = answered(live, recommender, history=[{"text": "film 3"}], k=1)
            assert isinstance(slate, Slate)
            assert (slate.encoder, slate.items[0].id) == (encoder, "i3")
            assert slate.items[0].score == pytest.approx(1, abs=1e-6)
    # Once for each time it was served, not once for each request.
    assert live.edited.asked == ["film 3"] * 3


def test_a_request_under_way_stays_with_the_encoder_of_its_view(live: Live) -> None:
    live.load(OTHER)
    recommender = without_users(live.catalogue.view, Limits())
    entered, go_on = threading.Event(), threading.Event()

    def slow(texts: Sequence[str], encoder: str) -> NDArray[np.float32]:
        entered.set()
        assert go_on.wait(30)
        return live._encode(texts, encoder)

    model = Batcher(recommender, {models.ENCODER: slow}, at_once=2)
    old, new = (Call(b'{"history":[{"text":"film 3"}],"k":1}') for _ in range(2))
    assert model.run([old]) == [None]
    assert entered.wait(30)
    live.edited.publish(OTHER)
    live.settled()
    assert model.run([new]) == [None]
    go_on.set()
    model.close()
    found = [msgspec.json.decode(call.answers[0], type=Slate) for call in (old, new) if call.answers]  # type: ignore[arg-type]  # bytes, or the test fails
    assert [slate.encoder for slate in found] == [ENCODER, OTHER]
    assert [slate.items[0].score for slate in found] == pytest.approx([1, 1], abs=1e-6)


def test_vectors_of_another_encoder_are_made_anew_or_refused(live: Live) -> None:
    recommender = without_users(live.catalogue.view, Limits())
    foreign = base64.b64encode(vector_of("film 3", OTHER).tobytes()).decode()
    both = [{"text": "film 3", "vector": foreign}]
    slate = answered(live, recommender, history=both, k=1, encoder=OTHER)
    assert isinstance(slate, Slate)
    assert (slate.items[0].id, slate.encoder) == ("i3", ENCODER)
    assert slate.items[0].score == pytest.approx(1, abs=1e-6)
    taken = answered(live, recommender, history=both, k=1, encoder=ENCODER)
    assert isinstance(taken, Slate)
    assert taken.items[0].score < 0.99
    refused = answered(live, recommender, history=[{"vector": foreign}], k=1, encoder=OTHER)
    assert isinstance(refused, RequestError)
    assert refused.kind is ErrorKind.INVALID_REQUEST
    assert "made by encoder 'other', test is served" in str(refused)


def test_the_pair_before_is_kept_through_later_snapshots(tmp_path: Path) -> None:
    edited = Edited(tmp_path, tmp_path / "catalogue.db")
    snapshots = edited.snapshots
    with pytest.raises(SnapshotError, match="no other encoder was served before"):
        before_last_encoder(snapshots)
    first = edited.publish()
    for _ in range(3):
        last = edited.publish(OTHER)
    assert before_last_encoder(snapshots).id == first.name
    assert len([path for path in snapshots.iterdir() if path.is_dir()]) == 3
    found = newest_of(snapshots, OTHER)
    assert found is not None
    assert found.id == last.name == (snapshots / CURRENT).read_text().strip()
    shutil.rmtree(first)
    with pytest.raises(SnapshotError, match="is gone"):
        before_last_encoder(snapshots)
    edited.store.close()
