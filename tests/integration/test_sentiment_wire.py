"""Comments over a real Triton: a classifier trained from a log weighs what users say beside items."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from recserve_client import Client, ClientOptions, interaction
from recserve_export.training.sentiment.home import SentimentRequest, train_sentiment
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.interactions.store import InteractionStore
from support.comments import rated_events
from support.events import NOW
from support.served import served
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton


class Served(NamedTuple):
    """A client of a server that reads comments, the films, and words of good and of bad comments."""

    client: Client
    films: list[str]
    good: str
    bad: str


@pytest.fixture(scope="module")
def reading(tiny_home: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = copy_home(tiny_home, tmp_path_factory.mktemp("sentiment") / "home")
    workspace = Workspace(home)
    films = list(Snapshot.load(current(workspace.snapshots)).ids)
    words = [word for word in (source / "vocab.txt").read_text().split() if word.isalpha() and len(word) > 4]
    good, bad = words[:12], words[12:24]
    with InteractionStore(workspace.interactions, create=True, clock=lambda: NOW) as store:
        store.record(rated_events(films[:80], good, bad))
    train_sentiment(workspace, workspace.interactions, SentimentRequest(force=True))
    with served(home) as live, Client(live.grpc, ClientOptions(deadline_s=30, tries=10)) as client:
        yield Served(client, films, " ".join(good[:3]), " ".join(bad[:3]))


def weights(reading: Served, user: str, comment: str | None) -> dict[str, float]:
    """Weights of two purchases of a user, the first of which has a comment."""
    first, second = reading.films[100:102]
    reading.client.interactions.record(
        [interaction(user, "purchase", first, text=comment), interaction(user, "purchase", second)]
    )
    slate = reading.client.recommend_for(user, k=3, strategy="text")
    assert isinstance(slate.history, list)
    for found in slate.items:
        assert sum(found.contributions or []) == pytest.approx(found.score, abs=1e-5)
    return {str(used.item): used.weight for used in slate.history}


def test_a_comment_multiplies_the_weight_of_its_item(reading: Served) -> None:
    first, second = reading.films[100:102]
    plain = weights(reading, "plain", None)
    praised, blamed = weights(reading, "praising", reading.good), weights(reading, "blaming", reading.bad)
    assert praised[first] > 1.3 * plain[first]
    assert blamed[first] < 0.5 * plain[first]
    assert praised[second] == pytest.approx(plain[second], rel=1e-3)
    assert blamed[second] == pytest.approx(plain[second], rel=1e-3)
