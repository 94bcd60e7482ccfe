"""Vectors that come with items over a real Triton: served at once, checked one by one, kept by what makes snapshots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from recserve_client import Client, ClientOptions, NewItem, item
from recserve_client.cli.main import build_app
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import published
from support.served import Served, served, wait_for_snapshot
from support.tiny_home import copy_home
from support.wire import Wire

pytestmark = pytest.mark.triton
DIM, WITH_VECTOR = 8, 20
SETTINGS = 'compact_after = 8\n[strategies.images]\nkind = "vectors"\n'
#: The first film of the file, to which all histories lead.
AXIS = [1.0] + [0.0] * (DIM - 1)


def run(*words: str | Path) -> str:
    """What a command says; it must end well."""
    done = CliRunner().invoke(build_app(str(words[0])), [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def train(home: Path, films: list[str], dim: int = DIM) -> None:
    """`recserve train vectors` with a file in which films lie ever further from the first one."""
    angles = np.linspace(0, 1.2, WITH_VECTOR)
    vectors = np.zeros((WITH_VECTOR, dim))
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    file = home / "images.parquet"
    pq.write_table(pa.table({"id": films[:WITH_VECTOR], "vector": vectors.tolist()}), file)
    run("train", "vectors", "--home", home, "--space", "images", "--from", file)


@pytest.fixture(scope="module")
def home(tiny_home: Path, films: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = copy_home(tiny_home, tmp_path_factory.mktemp("own-vectors") / "home")
    train(copy, films)
    return copy


@pytest.fixture(scope="module")
def live(home: Path) -> Iterator[Served]:
    with served(home, settings=SETTINGS) as live:
        yield live


@pytest.fixture(scope="module")
def client(live: Served) -> Iterator[Client]:
    with Client(live.grpc, ClientOptions(deadline_s=30, tries=10)) as client:
        yield client


def near(degrees: float, dim: int = DIM) -> list[float]:
    """A vector of length 5 so far from the first film."""
    vector = np.zeros(dim)
    vector[[0, 1]] = 5 * np.cos(np.radians(degrees)), 5 * np.sin(np.radians(degrees))
    return [float(number) for number in vector]


def scores(client: Client, films: list[str]) -> dict[str, float]:
    """Scores of all items in the space for a user of the first film."""
    slate = client.recommend([item(films[0])], k=300, strategy="images")
    return {found.id: found.score for found in slate.items if found.score}


def test_a_vector_is_served_with_its_item(client: Client, films: list[str]) -> None:
    client.items.upsert(
        [NewItem("plain", {"title": "no picture"}), NewItem("a", {"title": "A"}, vectors={"images": near(0)})]
    )
    found = scores(client, films)
    assert "plain" not in found
    assert found["a"] == pytest.approx(1, abs=1e-6)
    assert next(iter(found)) == "a"
    as_history = client.recommend([item("a")], k=2, strategy="images").items
    assert as_history[0].id == films[0]
    assert as_history[0].score == pytest.approx(1, abs=1e-6)
    client.items.delete(["a"])
    assert "a" not in scores(client, films)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ({"images": [1.0, 2.0]}, "$.vectors.images has 2 numbers, the space has 8"),
        ({"images": [0.0] * DIM}, "$.vectors.images is of length 0"),
        ({"images": [None, *AXIS[1:]]}, "$.vectors"),
        ({"images": ["1", *AXIS[1:]]}, "$.vectors"),
        ({"images": [1e200] * DIM}, "$.vectors.images is of length inf"),
        ({"images": [1.0] * 100_000}, "limits.item_bytes allows 262,144"),
        ({"image": AXIS}, "did you mean 'images'"),
        ({"als": AXIS}, "recserve train vectors --space NAME --from FILE"),
        ({f"n{number}": AXIS for number in range(1000)}, "no space of your own"),
        ([1.0], "$.vectors"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_a_bad_vector_is_refused_alone(live: Served, client: Client, vectors: Any, said: str) -> None:
    process = live.stub("items").pid
    client.items.delete(["good", "bad"])
    new = [
        {"id": name, "texts": {"title": name}, "vectors": of}
        for name, of in (("bad", vectors), ("good", {"images": AXIS}))
    ]
    refused, good = Wire(live.grpc).ask("items", {"op": "upsert", "items": new})["results"]
    assert (refused["status"], good["status"]) == ("refused", "created")
    assert said in refused["error"]
    assert client.items.get(["bad"]).missing == ["bad"]
    assert live.stub("items").pid == process
    client.items.delete(["good"])


def test_it_stays_through_what_makes_snapshots(live: Served, client: Client, films: list[str], tmp_path: Path) -> None:
    """Compaction, index build, backup and restore, and a version of another length; meanwhile no request fails."""
    lines = tmp_path / "items.jsonl"
    new = [{"id": f"n{n}", "texts": {"title": f"N {n}"}, "vectors": {"images": near(10 * n)}} for n in range(8)]
    lines.write_text("\n".join(map(json.dumps, new)))
    assert "8 created" in run("catalogue", "upsert", lines, "--address", live.grpc)
    client.items.upsert([NewItem(films[1], {"title": "of the file before"}, vectors={"images": near(50)})])
    expected = {f"n{n}": pytest.approx(np.cos(np.radians(10 * n)), abs=1e-6) for n in range(8)}
    expected[films[1]] = pytest.approx(np.cos(np.radians(50)), abs=1e-6)

    def check(client: Client) -> None:
        found = scores(client, films)
        assert {name: found.get(name) for name in expected} == expected

    check(client)
    snapshot = live.wait_for("compacted", timeout_s=60)[-1]["snapshot"]
    wait_for_snapshot(live.home, snapshot)
    check(client)
    client.items.upsert([NewItem("n0", {"title": "other text"}, {"year": 2000}), NewItem("n8", {"title": "N 8"})])
    check(client)
    run("index", "build", "--home", live.home, "--engine", "exact")
    wait_for_snapshot(live.home, published(Workspace(live.home).snapshots))
    check(client)

    key, restored = tmp_path / "backup.key", tmp_path / "restored"
    key.write_text("cd" * 32)
    key.chmod(0o600)
    run("backup", "create", tmp_path / "backups", "--home", live.home, "--key-file", key)
    restored.mkdir()
    shutil.copy2(Workspace(live.home).pseudonym_key, restored)
    run("backup", "restore", tmp_path / "backups", "--home", restored, "--key-file", key)
    with served(restored, settings=SETTINGS) as other, Client(other.grpc, ClientOptions(deadline_s=30)) as again:
        check(again)

    train(live.home, films, dim=2 * DIM)
    wait_for_snapshot(live.home, published(Workspace(live.home).snapshots))
    found = scores(client, films)
    assert not found.keys() & {f"n{n}" for n in range(8)}
    assert found[films[1]] == pytest.approx(np.cos(1.2 / (WITH_VECTOR - 1)), abs=1e-6)
    client.items.upsert([NewItem("n1", {"title": "N 1"}, vectors={"images": near(10, 2 * DIM)})])
    assert scores(client, films)["n1"] == expected["n1"]
