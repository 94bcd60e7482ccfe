"""Trained strategies over a real Triton: trained, taken over by an index, served; what came after counts at once."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import UNSET

from recserve_client import Client, ClientOptions, NewItem, interaction, item, text
from recserve_client.errors import Unavailable
from recserve_export.index.build import build
from recserve_export.index.engine_choice import Settings
from recserve_export.index.space_change import activate_space, roll_back_space
from recserve_export.training.publish import Request, names_of, train_home
from recserve_server_ext.common.errors import SpaceError
from recserve_server_ext.common.files import write_file, write_json
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.selection import choose_encoder
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.trained import TrainedSpace, publish_space
from recserve_server_ext.index.trained_versions import current_spaces
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.strategies.parts.chosen import Choice, Chosen, EvaluationFile
from support.served import served

pytestmark = pytest.mark.triton
USERS, LIKED = 60, 40
#: Small networks: what is trained counts here, not how good it is.
SMALL = {
    "sequence": {"dim": 16, "length": 8, "epochs": 2, "patience": 1},
    "text_head": {"steps": 20, "batch": 32, "hidden": 32},
    "ranker": {"cuts": 1, "trees": 5},
}
SMALL_SETTINGS = "\n".join(
    line
    for name, given in SMALL.items()
    for line in (f"[trainings.{name}]", *(f"{setting} = {value}" for setting, value in given.items()))
)


@pytest.fixture(scope="module")
def films(tiny_home: Path) -> list[str]:
    return list(Snapshot.load(current(Workspace(tiny_home).snapshots)).ids)


@pytest.fixture(scope="module")
def home(tiny_home: Path, films: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a log of two crowds: one likes the first films, one those after them."""
    copy = tmp_path_factory.mktemp("trained") / "home"
    ignored = shutil.ignore_patterns("run", "interactions.db*", "pseudonym.key")
    shutil.copytree(tiny_home, copy, symlinks=True, ignore=ignored)
    workspace, random = Workspace(copy), np.random.default_rng(4)
    pseudonyms = read_pseudonyms(workspace.pseudonym_key)
    events = [
        Interaction(
            user=pseudonyms.of(f"user{user}"),
            type="like",
            item=films[LIKED * (user % 2) + place],
            timestamp=1_700_000_000.0 + 100 * user + n,
        )
        for user in range(USERS)
        for n, place in enumerate(random.choice(LIKED, 8, replace=False).tolist())
    ]
    with InteractionStore(workspace.interactions, create=True) as store:
        assert {found.status for found in store.record(events)} == {"recorded"}
    train_home(
        workspace,
        workspace.interactions,
        Request(names=names_of("all", has_text=False), settings={**SMALL, "ease": {"l2": 5.0}}),
    )
    build(workspace, choose_encoder(workspace, "auto"), Settings(engine="exact"))
    chosen = Chosen(few=Choice("ease"), many=Choice("hybrid"))
    write_json(workspace.evaluation, EvaluationFile(chosen=chosen))
    return copy


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with served(home) as live:
        yield live.grpc


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    with Client(address, ClientOptions(deadline_s=30, tries=10)) as client:
        yield client


@pytest.mark.parametrize("strategy", ["ease", "als", "transitions", "item_knn", "user_knn", "linear"])
def test_users_get_what_their_crowd_likes(client: Client, films: list[str], strategy: str) -> None:
    for user in (0, 1):
        slate = client.recommend_for(f"user{user}", k=5, strategy=strategy)
        crowd = set(films[LIKED * user : LIKED * (user + 1)])
        assert len({found.id for found in slate.items} & crowd) >= 4
        for found in slate.items:
            assert sum(found.contributions or []) == pytest.approx(found.score, abs=1e-5)


def test_a_new_interaction_counts_at_once(client: Client, films: list[str]) -> None:
    for place, crowd in ((3, 0), (LIKED + 3, 1)):
        client.interactions.record([interaction("fresh", "like", films[place])])
        best = client.recommend_for("fresh", k=1, strategy="ease", options={"half_life": 0.1}).items[0].id
        assert films.index(best) // LIKED == crowd


def test_a_new_item_is_in_the_space_by_its_texts(client: Client, films: list[str]) -> None:
    client.items.upsert([NewItem("brandnew", {"title": "a film about lighthouses"})])
    every = client.recommend([item(films[3])], k=300, strategy="als").items
    assert "brandnew" in {found.id for found in every}
    assert client.recommend([item("brandnew")], k=3, strategy="als").items
    assert client.recommend([text("a film about lighthouses")], k=3, strategy="als").items
    client.items.delete(["brandnew"])
    every = client.recommend([item(films[3])], k=300, strategy="als").items
    assert "brandnew" not in {found.id for found in every}


def test_a_short_slate_is_filled_up(client: Client) -> None:
    slate = client.recommend_for("user0", k=100, strategy="transitions")
    scores = [found.score for found in slate.items]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == 0.0
    assert len({found.id for found in slate.items}) == len(slate.items) > LIKED


def test_the_default_is_what_was_chosen_by_activity(client: Client, films: list[str]) -> None:
    client.interactions.record([interaction("little", "like", films[5])])
    answers = [client.recommend_for(user).strategy for user in ("nobody", "little", "user0")]
    assert answers == ["popular", "ease", "hybrid"]


def test_the_ranker_is_served_with_parts_that_add_up(client: Client) -> None:
    slate = client.recommend_for("user0", k=5, strategy="ranker")
    assert slate.strategy == "ranker"
    assert len(slate.items) == 5
    for found in slate.items:
        assert isinstance(found.parts, dict)
        assert {"ease", "user_knn", "popularity", "history", "base"} <= found.parts.keys()
        assert sum(found.parts.values()) == pytest.approx(found.score, abs=1e-6)


def test_a_new_choice_is_served_without_a_restart(client: Client, home: Path) -> None:
    path = Workspace(home).evaluation
    before = path.read_bytes()
    write_json(path, EvaluationFile(chosen=Chosen(many=Choice("ranker"))))
    for strategy in ("ranker", "hybrid"):
        # It is looked for once a second.
        give_up = time.monotonic() + 30
        while client.recommend_for("user0").strategy != strategy:
            assert time.monotonic() < give_up
        write_file(path, before)


def test_what_is_not_trained_is_refused_with_the_command(client: Client) -> None:
    with pytest.raises(Unavailable, match="recserve train item2vec"):
        client.recommend_for("user0", strategy="item2vec")


def test_spaces_change_under_load_without_a_failed_request(
    client: Client, address: str, home: Path, films: list[str]
) -> None:
    """A version with vectors twice as long doubles the scores; one that is damaged changes nothing."""
    workspace, over = Workspace(home), threading.Event()
    before = TrainedSpace.load(current_spaces(workspace.spaces)["ease"])
    new = publish_space(workspace.spaces, "ease", before.ids, 2 * before.vectors, inputs=before.inputs)

    def ask(strategy: str) -> list[float]:
        scores = []
        with Client(address, ClientOptions(tries=1, deadline_s=30)) as own:
            while not over.is_set():
                scores.append(own.recommend([item(films[3])], k=1, strategy=strategy).items[0].score)
        return scores

    def wait_until(score: float) -> None:
        deadline = time.monotonic() + 60
        while client.recommend([item(films[3])], k=1, strategy="ease").items[0].score != pytest.approx(score):
            assert time.monotonic() < deadline

    score = client.recommend([item(films[3])], k=1, strategy="ease").items[0].score
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(ask, strategy) for strategy in ("ease", "ease", "text")]
        try:
            activate_space(workspace, "ease", new.name)
            wait_until(2 * score)
            roll_back_space(workspace, "ease")
            wait_until(score)
            (new / "vectors.npy").write_bytes(b"damaged")
            with pytest.raises(SpaceError, match="damaged"):
                activate_space(workspace, "ease", new.name)
            wait_until(score)
        finally:
            over.set()
        seen = {round(found / score, 3) for future in asked[:2] for found in future.result()}
        assert seen == {1.0, 2.0}
        assert len({round(found, 5) for found in asked[2].result()}) == 1


def check_young_places(client: Client, films: list[str]) -> None:
    """Of ten places the last two are of items that no training knows: films that nobody had to do with."""
    liked = set(films[: 2 * LIKED])
    for strategy in ("ease", "text", "hybrid"):
        slate = client.recommend([item(films[3])], k=10, strategy=strategy).items
        assert len({found.id for found in slate}) == 10
        young = [found.rules is not UNSET and "young" in found.rules for found in slate]
        assert sum(young) <= 2
        assert sum(found.id not in liked for found in slate) >= 2
        assert all(found.id not in liked for found, is_young in zip(slate, young, strict=True) if is_young)
    assert [found.rules for found in client.recommend([item(films[3])], k=10, strategy="linear").items][-2:] == [
        ["young"],
        ["young"],
    ]
    assert not any(found.rules for found in client.recommend([item(films[3])], k=3, strategy="linear").items)


def test_a_server_trains_by_itself_and_forgets_who_was_erased(home: Path, tmp_path: Path, films: list[str]) -> None:
    """Beside serving, without a failed request; the receipt names the models that saw the user, until none did."""
    copy = shutil.copytree(home, tmp_path / "home", symlinks=True, ignore=shutil.ignore_patterns("run"))
    shutil.rmtree(Workspace(copy).spaces)
    over = threading.Event()
    with served(copy, settings=f"train_every = 1.0\nyoung_share = 0.25\n{SMALL_SETTINGS}") as live:

        def ask() -> int:
            asked = 0
            with Client(live.grpc, ClientOptions(tries=1, deadline_s=30)) as own:
                while not over.is_set():
                    assert own.recommend([item(films[3])], k=3, strategy="text").items
                    asked += 1
                    over.wait(0.01)  # the training, which gives way to requests, needs some of the CPU
            return asked

        with Client(live.grpc, ClientOptions(deadline_s=30, tries=10)) as client, ThreadPoolExecutor(1) as threads:
            asked = threads.submit(ask)
            try:
                (first, *_) = live.wait_for("trained", "training_failed", timeout_s=240)
                names = set(names_of("all"))
                assert names <= set(first)
                check_young_places(client, films)
                receipt = client.users.erase("user1")
                assert {one.name for one in receipt.models} == names
                assert all(one.until is not None and one.until > 0 for one in receipt.models)
                assert client.users.verify_erasure("user1", receipt).is_valid
                forged = msgspec.structs.replace(receipt, models=[])
                assert not client.users.verify_erasure("user1", forged).is_valid
                count = len(live.logged("trained"))
                while client.users.erase("nobody").models:
                    count += 1
                    live.wait_for("trained", "training_failed", count=count, timeout_s=240)
            finally:
                over.set()
            assert asked.result() > 0
        assert not live.logged("training_failed")
