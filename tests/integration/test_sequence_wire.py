"""The strategies with a network over a real Triton: trained, taken over by an index, served by a model of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from recserve_client import Client, ClientOptions, NewItem, interaction, item, text
from recserve_client.errors import InvalidRequest, Unavailable
from recserve_export.index.build import build
from recserve_export.index.engine_choice import Settings
from recserve_export.index.space_change import activate_space
from recserve_export.training.publish import Request, train_home
from recserve_server_ext.common.errors import SpaceError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.selection import choose_encoder
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.snapshot_versions import collect
from recserve_server_ext.index.space import SpaceManifest
from recserve_server_ext.index.trained import TrainedSpace, publish_space
from recserve_server_ext.index.trained_versions import current_spaces
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from support.keys import REQUIRED, ask_inner, keys_of
from support.sequence import bit_flipped, with_weight
from support.served import Served, serve_command, served
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton
USERS, ITEMS, LENGTH = 60, 40, 12
SETTINGS = {"dim": 16, "length": LENGTH, "layers": 1, "epochs": 12, "rate": 0.01, "held_out": 0.0}
MORE = {"sequence": {}, "generate": {"epochs": 30, "codes": 8, "levels": 2}}


def train_and_build(home: Path, strategy: str, seed: int = 0) -> None:
    workspace, settings = Workspace(home), {strategy: {**SETTINGS, **MORE[strategy], "seed": seed}}
    train_home(workspace, workspace.interactions, Request(names=[strategy], settings=settings, force=True))
    build(workspace, choose_encoder(workspace, "auto"), Settings(engine="exact"))


@pytest.fixture(scope="module", params=MORE)
def strategy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def films(tiny_home: Path) -> list[str]:
    return list(Snapshot.load(current(Workspace(tiny_home).snapshots)).ids)


@pytest.fixture(scope="module")
def untrained(tiny_home: Path, films: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a log in which every user goes from film to film in one order, from a film of their own."""
    copy = copy_home(tiny_home, tmp_path_factory.mktemp("sequence") / "home")
    workspace = Workspace(copy)
    pseudonyms = read_pseudonyms(workspace.pseudonym_key)
    events = [
        Interaction(
            user=pseudonyms.of(f"user{user}"),
            type="like",
            item=films[(user + step) % ITEMS],
            timestamp=1_700_000_000.0 + 1000 * user + 10 * step,
        )
        for user in range(USERS)
        for step in range(10)
    ]
    with InteractionStore(workspace.interactions, create=True) as store:
        assert {found.status for found in store.record(events)} == {"recorded"}
    return copy


@pytest.fixture(scope="module")
def home(untrained: Path, strategy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("trained") / "home"
    shutil.copytree(untrained, copy, symlinks=True)
    train_and_build(copy, strategy)
    return copy


@pytest.fixture(scope="module")
def live(home: Path) -> Iterator[Served]:
    with served(home) as live:
        yield live


@pytest.fixture(scope="module")
def client(live: Served) -> Iterator[Client]:
    with Client(live.grpc, ClientOptions(deadline_s=30, tries=10)) as client:
        yield client


def test_a_history_leads_to_what_follows(client: Client, films: list[str], strategy: str) -> None:
    for start in (0, 7, 20):
        slate = client.recommend([item(film) for film in films[start : start + 5]], k=3, strategy=strategy)
        assert slate.strategy == strategy
        assert films[start + 5] in {found.id for found in slate.items}


def test_the_same_history_gives_the_same_scores_in_any_company(client: Client, films: list[str], strategy: str) -> None:
    def scores(start: int) -> list[tuple[str, float]]:
        history = [item(film) for film in films[start : start + 4]]
        return [(found.id, found.score) for found in client.recommend(history, k=5, strategy=strategy).items]

    alone = [scores(start) for start in range(12)]
    together: list[list[tuple[str, float]] | None] = [None] * 12

    def ask(start: int) -> None:
        together[start] = scores(start)

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_user_by_id_and_what_happened_a_second_ago(client: Client, films: list[str], strategy: str) -> None:
    assert films[13] in {found.id for found in client.recommend_for("user3", k=3, strategy=strategy).items}
    client.interactions.record([interaction("user3", "like", films[25]), interaction("user3", "like", films[26])])
    assert films[27] in {found.id for found in client.recommend_for("user3", k=3, strategy=strategy).items}


def test_a_session_is_the_newest_of_a_history(client: Client, films: list[str], strategy: str) -> None:
    session = [item(films[30]), item(films[31])]
    slate = client.recommend_for("user7", k=3, strategy=strategy, session=session)
    assert films[32] in {found.id for found in slate.items}


def test_a_new_item_and_a_text_count_at_once(client: Client, films: list[str], strategy: str) -> None:
    client.items.upsert([NewItem("brandnew", {"title": "a film about lighthouses"})])
    every = client.recommend([item(films[3])], k=300, strategy=strategy).items
    assert "brandnew" in {found.id for found in every}
    history = [item(films[3]), item("brandnew")]
    with_new = client.recommend(history, k=3, strategy=strategy).items
    with_text = client.recommend([item(films[3]), text("a film about lighthouses")], k=3, strategy=strategy).items
    assert [found.score for found in with_new] == pytest.approx([found.score for found in with_text], abs=1e-4)
    assert with_new[0].score != client.recommend(history[:1], k=1, strategy=strategy).items[0].score
    client.items.delete(["brandnew"])
    every = client.recommend([item(films[3])], k=300, strategy=strategy).items
    assert "brandnew" not in {found.id for found in every}


def test_reasons_are_approximate_and_say_what_a_behaviour_changed(
    client: Client, films: list[str], strategy: str
) -> None:
    history = [item(film) for film in films[5:10]]
    plain = client.recommend(history, k=2, strategy=strategy, options={"reasons": 0})
    assert not plain.approximate
    assert not any(found.contributions for found in plain.items)
    slate = client.recommend(history, k=2, strategy=strategy, options={"reasons": 2})
    assert slate.approximate is True
    without = client.recommend(history[:4], k=300, strategy=strategy, exclude_history=False)
    score_of = {found.id: found.score for found in without.items}
    for found in slate.items:
        assert found.contributions
        assert found.contributions[:3] == [0.0, 0.0, 0.0]
        assert found.contributions[4] == pytest.approx(found.score - score_of[found.id], abs=1e-5)


def test_interest_clusters_have_runs_of_their_own(client: Client, films: list[str], strategy: str) -> None:
    history = [item(film) for film in (*films[5:10], *films[25:30])]
    slate = client.recommend(history, k=6, strategy=strategy, interests=2)
    assert len(slate.interests or []) >= 1
    assert len(slate.items) == 6


def test_users_without_a_usable_history(client: Client, strategy: str) -> None:
    assert client.recommend_for("nobody at all", k=3, strategy=strategy).strategy == "popular"
    with pytest.raises(InvalidRequest):
        client.recommend_for("nobody at all", k=3, strategy=strategy, on_cold="error")


def test_a_fusion_waits_for_its_part(client: Client, films: list[str], strategy: str) -> None:
    history = [item(film) for film in films[5:10]]
    weights = {"weights": {strategy: 1.0, "text": 1.0}, "by": "rank", "prior": 0.0}
    slate = client.recommend(history, k=3, strategy="fusion", options=weights)
    assert set(slate.items[0].parts or {}) == {strategy, "text"}


def test_a_dead_process_is_loaded_again(live: Served, client: Client, films: list[str], strategy: str) -> None:
    live.stub(strategy).kill()
    live.wait_for("model_reloaded", timeout_s=60)
    assert client.recommend([item(films[3])], k=1, strategy=strategy).items


def test_a_new_training_is_served_without_a_failed_request(
    live: Served, client: Client, films: list[str], strategy: str
) -> None:
    history = [item(film) for film in films[5:10]]
    before = client.recommend(history, k=3, strategy=strategy)
    train_and_build(live.home, strategy, seed=1)
    revision = client.items.upsert([NewItem("later", {"title": "later"})]).revision
    after = before
    while after.items[0].score == before.items[0].score:  # as long as the test may take
        after = client.recommend(history, k=3, strategy=strategy, min_revision=revision)
    assert live.wait_for("network_loaded")
    assert films[10] in {found.id for found in after.items}


def publish_forged(home: Path, strategy: str, monkeypatch: pytest.MonkeyPatch) -> SpaceManifest:
    """Publish the current version with other weights in its network, with right checksums, past the check."""
    workspace = Workspace(home)
    trained = TrainedSpace.load(current_spaces(workspace.spaces)[strategy])
    assert trained.network is not None
    forged = publish_space(
        workspace.spaces, strategy, trained.ids, trained.vectors, inputs=trained.inputs, text_map=trained.text_map,
        network=with_weight(trained.network, bit_flipped),
    )  # fmt: skip
    with pytest.raises(SpaceError, match=r"canonical\.npz is off by"):
        activate_space(workspace, strategy, forged.name)
    with monkeypatch.context() as patched:
        patched.setattr("recserve_export.index.spaces.check_canonical", lambda *_: None)
        activate_space(workspace, strategy, forged.name)
    return read_manifest(current(workspace.snapshots), verify=True).spaces[strategy]


def test_a_network_with_other_weights_is_never_served(
    live: Served, client: Client, films: list[str], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while a server runs, nor by one that starts: the snapshot before serves."""
    history = [item(film) for film in films[5:10]]
    before = client.recommend(history, k=3, strategy=strategy).items
    refused = len(live.logged("network_refused"))
    forged = publish_forged(live.home, strategy, monkeypatch)
    assert forged.network is not None
    (*_, event) = live.wait_for("network_refused", count=refused + 1, timeout_s=60)
    assert "canonical.npz is off by" in event["fault"]
    assert event["fault"].endswith("train its space again on this machine, or go back with: recserve spaces rollback")
    assert event["model"].endswith(forged.network.fingerprint[:8])
    revision = client.items.upsert([NewItem("after", {"title": "after"})]).revision
    after = client.recommend(history, k=3, strategy=strategy, min_revision=revision).items
    assert [(found.id, found.score) for found in after] == [(found.id, found.score) for found in before]

    copy = shutil.copytree(live.home, live.home.parent / "again", symlinks=True, ignore=shutil.ignore_patterns("run"))
    with served(copy) as again, Client(again.grpc, ClientOptions(deadline_s=30, tries=10)) as other:
        assert other.recommend(history, k=3, strategy=strategy).items
        assert re.search(r"canonical\.npz is off by .*; snapshot \S+ is used instead", again.log.read_text(), re.DOTALL)
    collect(Workspace(copy).snapshots)
    alone = subprocess.run(serve_command(copy), capture_output=True, text=True, timeout=120, check=False)
    assert alone.returncode == 1
    assert "canonical.npz is off by" in "".join(alone.stderr.split("\n"))


@pytest.fixture(scope="module")
def without_training(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that both strategies ask."""
    with served(shutil.copytree(untrained, tmp_path_factory.mktemp("bare") / "home", symlinks=True)) as server:
        yield server


def test_without_a_training_it_is_refused_with_the_command(without_training: Served, strategy: str) -> None:
    with (
        Client(without_training.grpc, ClientOptions(deadline_s=30)) as client,
        pytest.raises(Unavailable, match=f"run: recserve train {strategy}"),
    ):
        client.recommend_for("user0", strategy=strategy)


def test_with_keys_models_alone_ask_a_network(untrained: Path, films: list[str], tmp_path: Path, strategy: str) -> None:
    home = tmp_path / "home"
    shutil.copytree(untrained, home, symlinks=True)
    train_and_build(home, strategy)
    keys, history = keys_of(home), [item(film) for film in films[5:10]]
    options = ClientOptions(deadline_s=30, tries=10)
    with served(home, settings=REQUIRED) as live, Client(live.grpc, options, key=keys["recommend"]) as client:
        assert client.recommend(history, k=3, strategy=strategy).items
        train_and_build(home, strategy, seed=1)
        live.wait_for("network_loaded", timeout_s=60)
        networks = {folder.name for folder in home.glob(f"run/*/models/{strategy}_*")}
        for network in networks:
            with pytest.raises(grpc.RpcError, match="permission_denied"):
                ask_inner(live.grpc, network, keys["recommend"])
        assert client.recommend(history, k=3, strategy=strategy).items
        assert live.logged("model_unhealthy") == []
