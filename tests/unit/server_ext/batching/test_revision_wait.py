"""A request for a revision that is not here yet waits apart, gets what came, and holds up nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from recserve_client.contract import ErrorKind, RequestError, Slate, models
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.batching.revision_wait import RevisionWaitQueue, WaitCounts
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.config.server import Limits
from recserve_server_ext.index.snapshot import Snapshot
from support.calls import Call
from support.edited import ENCODER, Edited
from support.service import without_users

WAIT_S = 2.0


class Waited:
    """A recommender whose requests wait, by a clock that stands still until it is moved."""

    def __init__(self, edited: Edited, most: int = 3) -> None:
        self.now = 100.0
        self.counts: list[WaitCounts] = []
        self.edited = edited
        self.live = LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: edited.store)
        self.is_held = False
        self.seen = self.live.view()
        recommender = without_users(self.view, Limits())
        room = RevisionWaitQueue(WAIT_S, most, show=self.counts.append, clock=lambda: self.now)
        self.model = Batcher(recommender, {models.ENCODER: edited.encode}, at_once=1, revision_queue=room)

    def view(self) -> View:
        """The newest view, unless the test holds it back."""
        if not self.is_held:
            self.seen = self.live.view()
        return self.seen

    def call(self, revision: int = 0, **more: Any) -> Call:
        return Call(json.dumps({"history": [{"item": "i1"}], "min_revision": revision, **more}).encode())


@pytest.fixture
def waited(tmp_path: Path) -> Iterator[Waited]:
    edited = Edited(tmp_path, tmp_path / "catalogue.db")
    waited = Waited(edited)
    yield waited
    waited.model.close()
    edited.store.close()


def slate(answer: object) -> Slate:
    assert isinstance(answer, bytes), answer
    return msgspec.json.decode(answer, type=Slate)


def refusal(answer: object) -> RequestError:
    assert isinstance(answer, RequestError)
    return answer


def test_it_is_answered_when_the_revision_comes_and_nobody_waits_with_it(waited: Waited) -> None:
    early, known, text = waited.call(2, k=1), waited.call(1), waited.call(2, history=[{"text": "never seen"}])
    answers = waited.model.run([early, known, text])
    assert [answer is None for answer in answers] == [True, False, True]
    assert slate(answers[1]).revision == 1
    assert slate(waited.model.run([waited.call()])[0]).revision == 1
    assert waited.counts[-1] == WaitCounts(waiting=2, admitted=2)
    new = [{"id": "n", "texts": {"title": "film 1", "genre": "a"}}, {"id": "m", "texts": {"title": "film 1"}}]
    revision = waited.edited.change("upsert", new).revision
    found = slate(early.answer())
    assert (found.revision, found.items[0].id) == (revision, "m")
    # The encoder is asked for it after it has waited.
    assert slate(text.answer()).revision == revision
    assert waited.edited.asked[-1] == "never seen"
    assert waited.counts[-1] == WaitCounts(waiting=0, admitted=2)


def test_what_never_comes_is_refused_when_the_time_is_over(waited: Waited) -> None:
    late = waited.call(99)
    assert waited.model.run([late]) == [None]
    waited.now += WAIT_S - 0.01
    later = waited.call(99)
    assert waited.model.run([later]) == [None]
    assert late.answers == []
    waited.now += 0.01
    error = refusal(late.answer())
    assert (error.kind, error.status) == (ErrorKind.STALE_REVISION, "UNAVAILABLE")
    assert error.text == "min_revision is 99, the catalogue is at revision 1: waited 2,000 ms (limits.revision_wait_ms)"
    assert later.answers == []
    assert waited.counts[-1] == WaitCounts(waiting=1, admitted=2, expired=1)


def test_one_whose_caller_gave_up_leaves(waited: Waited) -> None:
    gone, stays = waited.call(99), waited.call(99)
    waited.model.run([gone, stays])
    gone.gave_up = True
    waited.now += 0.5
    assert "gave up" in refusal(gone.answer()).text
    assert stays.answers == []
    assert waited.counts[-1] == WaitCounts(waiting=1, admitted=2, cancelled=1)


def test_only_so_many_may_wait(waited: Waited) -> None:
    calls = [waited.call(99) for _ in range(4)]
    answers = waited.model.run(calls)
    assert answers[:3] == [None] * 3
    full = refusal(answers[3])
    assert (full.kind, "3 requests wait already (limits.revision_waiting)" in full.text) == (
        ErrorKind.UNAVAILABLE,
        True,
    )
    assert waited.counts[-1] == WaitCounts(waiting=3, admitted=3, full=1)
    waited.model.close()
    assert all("the server is shutting down" in refusal(call.answer()).text for call in calls[:3])
    assert refusal(waited.model.run([waited.call(99)])[0]).kind is ErrorKind.STALE_REVISION


def test_a_batch_that_sees_the_revision_first_wakes_them(waited: Waited) -> None:
    waited.is_held = True
    early = waited.call(2)
    waited.model.run([early])
    waited.edited.change("upsert", [{"id": "n", "texts": {"title": "film 1"}}])
    assert early.answers == []
    waited.is_held = False
    assert slate(waited.model.run([waited.call()])[0]).revision == 2
    assert slate(early.answer()).revision == 2


def test_a_request_that_turns_out_bad_is_refused_after_it_waited(waited: Waited) -> None:
    bad = waited.call(2, where={"op": "exists", "attribute": "colour"})
    fine = waited.call(2, where={"op": "exists", "attribute": "place"})
    assert waited.model.run([bad, fine]) == [None, None]
    waited.edited.change("upsert", [{"id": "n", "texts": {"title": "x"}, "attributes": {"place": "here"}}])
    assert refusal(bad.answer()).kind is ErrorKind.UNKNOWN_FIELD
    assert [item.id for item in slate(fine.answer()).items] == ["n"]


def test_a_store_that_is_away_costs_them_nothing_but_time(waited: Waited, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> View:
        raise OSError("no disk")

    early, late = waited.call(2), waited.call(2)
    waited.model.run([late])
    waited.now += WAIT_S / 2
    waited.model.run([early])
    monkeypatch.setattr(waited.live, "view", away)
    assert refusal(waited.model.run([waited.call()])[0]).kind is ErrorKind.INTERNAL
    # The time goes on.
    waited.now += WAIT_S / 2
    assert refusal(late.answer()).kind is ErrorKind.STALE_REVISION
    assert early.answers == []
    waited.edited.change("upsert", [{"id": "n", "texts": {"title": "film 1"}}])
    monkeypatch.undo()
    assert slate(early.answer()).revision == 2


def test_a_catalogue_that_cannot_be_served_refuses_every_request(waited: Waited) -> None:
    waited.live._damage = "the snapshot is damaged"
    answers = [refusal(answer) for answer in waited.model.run([waited.call(), waited.call()])]
    assert [(answer.kind, str(answer)) for answer in answers] == [
        (ErrorKind.UNAVAILABLE, "unavailable: the snapshot is damaged")
    ] * 2
