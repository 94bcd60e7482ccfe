"""From a recommendation by user id to the report of what came of it, over a real Triton."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from recserve_client import Client, Explore, interaction, item
from recserve_client.errors import InvalidRequest
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.experiments import Experiment, Variant
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.recommend.experiments.file import start_experiment
from support.served import Served, served
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton

_SETTINGS = """
[users.log]
every_s = 0.05
plain = 1.0
"""
_LENGTH = Experiment("length", [Variant("short", {"k": 2}), Variant("long", {"k": 6})])


@pytest.fixture(scope="module")
def live(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = copy_home(tiny_home, tmp_path_factory.mktemp("outcomes") / "home")
    with served(home, settings=_SETTINGS) as server:
        # While it runs: servers follow.
        start_experiment(Workspace(home).experiments, _LENGTH)
        deadline = time.monotonic() + 30
        while metric(server, "recserve_experiment_share") != 1:
            assert time.monotonic() < deadline
        yield server


def logged(client: Client, user: str, count: int) -> list[Any]:
    """The answers of a user, once there are so many."""
    deadline = time.monotonic() + 30
    while len(found := client.users.export(user).answers) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def outcomes(home: Path, *words: str) -> str:
    command = [sys.executable, "-m", "recserve_client.cli.main", "outcomes", *words, "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def metric(live: Served, name: str) -> float:
    with urllib.request.urlopen(f"http://{live.metrics}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_a_click_on_a_recommendation_is_reported(client: Client, live: Served, home: Path, films: list[str]) -> None:
    sizes = {"short": 2, "long": 6}
    variant_of: dict[str, str] = {}
    for n in range(12):
        user = f"user {n}"
        client.interactions.record([interaction(user, "like", films[n])])
        for _ in range(2):
            found = client.recommend_for(user, k=4)
            assert isinstance(found.experiments, list)
            (assigned,) = found.experiments
            assert variant_of.setdefault(user, assigned.variant) == assigned.variant
            assert len(found.items) == sizes[assigned.variant]
        act = interaction(user, "click", found.items[1].id, recommendation_id=found.recommendation_id)
        forged = interaction(user, "click", found.items[1].id, recommendation_id="made-up")
        client.interactions.record([act, act, forged])
    assert set(variant_of.values()) == set(sizes)
    for user in variant_of:
        assert len(logged(client, user, 2)) == 2
    plain = client.recommend([item(films[0])], k=3)
    forced = client.recommend_for("user 0", variants={"length": "long"})
    assert isinstance(forced.experiments, list)
    assert (forced.experiments[0].forced, len(forced.items)) == (True, 6)
    with pytest.raises(InvalidRequest, match="length: short, long"):
        client.recommend_for("user 0", variants={"length": "medium"})
    assert logged(client, "user 0", 3)[2].forced
    found_report = json.loads(outcomes(home, "report", "--json"))
    assert (found_report["named"]["joined"], found_report["named"]["unknown"], found_report["forced"]) == (12, 12, 1)
    (experiment,) = found_report["experiments"]
    assert {of["name"]: (of["users"], of["clicks"]) for of in experiment["variants"]} == {
        name: (list(variant_of.values()).count(name),) * 2 for name in sizes
    }
    assert [group["clicks"]["count"] for group in found_report["positions"][:2]] == [0, 12]
    outcomes(home, "export", str(home / "set.jsonl"))
    rows = [json.loads(line) for line in (home / "set.jsonl").read_text().splitlines()]
    assert sum(row["clicked"] for row in rows) == 12
    assert len([row for row in rows if row["recommendation_id"] == plain.recommendation_id]) == 3
    (home / "set.jsonl").unlink()
    assert metric(live, "recserve_answers_logged_total") >= 26
    assert metric(live, "recserve_answers_lost_total") == 0


@pytest.mark.parametrize("kind", ["epsilon", "thompson"])
def test_what_is_drawn_to_explore_is_logged_with_its_propensity(
    client: Client, films: list[str], kind: Literal["epsilon", "thompson"]
) -> None:
    user = f"explorer-{kind}"
    client.interactions.record([interaction(user, "like", films[5])])
    explore = Explore(kind=kind, epsilon=0.5, at_most=0.5, seed=3)
    found = client.recommend_for(user, strategy="blend", explore=explore, variants={"length": "long"})
    (answer,) = logged(client, user, 1)
    assert answer.strategy == "blend"
    assert answer.items == [of.id for of in found.items]
    assert answer.propensities == [of.propensity for of in found.items]
    assert min(answer.propensities) < 1 == max(answer.propensities)


def test_an_erased_user_leaves_no_answer_behind(client: Client, home: Path, films: list[str]) -> None:
    user = "erased-user-51c0"
    client.interactions.record([interaction(user, "like", films[3])])
    client.recommend_for(user)
    (answer,) = logged(client, user, 1)
    client.recommend_for(user)  # may still wait to be logged
    pseudonym = read_pseudonyms(Workspace(home).pseudonym_key).of(user)
    needles = (user.encode(), pseudonym.encode(), answer.recommendation_id.encode())
    receipt = client.users.erase(user)
    # What waited then is written, or not, before what is asked for from now on.
    client.interactions.record([interaction("after", "like", films[3])])
    client.recommend_for("after")
    logged(client, "after", 1)
    assert client.users.verify_erasure(user, receipt).answers == 0
    files = [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in files if any(needle in path.read_bytes() for needle in needles)]
