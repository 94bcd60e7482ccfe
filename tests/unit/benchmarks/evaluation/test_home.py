"""`recserve evaluate` without files: the home's own log, what it writes there, and what the doctor says of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from recserve_benchmarks.cli.evaluate import app
from recserve_server_ext.common.files import write_json
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.doctor import checks
from recserve_server_ext.doctor.checks import examine
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.strategies.parts.chosen import EvaluationFile, read_chosen
from recserve_server_ext.strategies.registry import Registry
from support.events import PSEUDONYMS

START = 1_700_000_000


@pytest.fixture
def home(tiny_home: Path, tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("run", "interactions.db*", "pseudonym.key")
    return shutil.copytree(tiny_home, tmp_path / "home", symlinks=True, ignore=ignored)


def record(home: Path, users: int, of_each: int, unknown: int = 0) -> None:
    ids = Snapshot.load(current(Workspace(home).snapshots)).ids
    rng = np.random.default_rng(2)

    def like(user: int, item: str, at: int) -> Interaction:
        return Interaction(user=PSEUDONYMS.of(f"u{user}"), type="like", item=item, timestamp=float(START + at))

    events = [
        like(user, ids[user % 2 + 2 * int(item)], n * users + user)
        for user in range(users)
        for n, item in enumerate(rng.choice(40, of_each, replace=False))
    ]
    events += [like(0, f"gone{n}", n) for n in range(unknown)]
    with InteractionStore(Workspace(home).interactions, create=True) as store:
        assert {found.status for found in store.record(events)} == {"recorded"}


def evaluate(home: Path, *options: str) -> None:
    ran = CliRunner().invoke(app, ["--home", str(home), "--seeds", "1", *options])
    assert ran.exit_code == 0, ran.output


def found_by_doctor(home: Path) -> tuple[str, str]:
    findings = {finding.check: finding for finding in examine(Workspace(home), ServeSettings())}
    return findings["evaluation"].found, findings["evaluation"].advice


def test_the_log_of_the_home_is_evaluated_and_what_is_best_is_written(home: Path) -> None:
    record(home, users=40, of_each=12, unknown=7)
    evaluate(home)
    file = Workspace(home).evaluation
    found = json.loads(file.read_text())
    assert found["data"]["interactions"] == 40 * 12
    assert found["data"]["of_unknown_items"] == 7
    assert found["data"]["last_number"] == 40 * 12 + 7
    assert {"leave_one_out", "time"} == set(found["protocols"])
    chosen = read_chosen(file)
    for choice in (chosen.cold, chosen.few, chosen.many):
        assert choice is not None
        Registry().choose(choice.strategy, choice.options)  # `auto` can serve it


def test_a_moment_or_some_systems_change_nothing_in_the_home(home: Path) -> None:
    record(home, users=20, of_each=12)
    evaluate(home, "--system", "popular")
    evaluate(home, "--system", "popular", "--at", "2033-01-01")
    assert not Workspace(home).evaluation.exists()
    ran = CliRunner().invoke(app, ["--home", str(home), "--at", "2001-01-01"])
    assert ran.exit_code == 1
    assert "there are no interactions before that time" in ran.output


def test_a_log_about_other_items_is_refused(home: Path) -> None:
    with InteractionStore(Workspace(home).interactions, create=True) as store:
        store.record([Interaction(user=PSEUDONYMS.of("u"), type="like", item="gone", timestamp=float(START))])
    ran = CliRunner().invoke(app, ["--home", str(home)])
    assert ran.exit_code == 1
    assert "none of the 1 interactions with items names an item of the catalogue" in " ".join(ran.output.split())


def test_the_doctor_asks_for_an_evaluation_of_a_long_log(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_by_doctor(home) == ("none: there is no interaction log", "")
    record(home, users=10, of_each=12)
    assert found_by_doctor(home) == ("none, 120 interactions", "")
    monkeypatch.setattr(checks, "_LEAST_INTERACTIONS", 50)
    assert found_by_doctor(home) == ("none, 120 interactions", "run: recserve evaluate")
    file = Workspace(home).evaluation
    write_json(file, EvaluationFile(data={"last_number": 100}))
    assert found_by_doctor(home) == ("of 100 interactions, 120 now", "")
    write_json(file, EvaluationFile(data={"last_number": 60}))
    assert found_by_doctor(home) == ("of 60 interactions, 120 now", "run: recserve evaluate")
