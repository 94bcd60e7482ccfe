"""A backup of a home that a real Triton serves, restored into an empty one: it serves the same slates."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from recserve_client import Client, ClientOptions, NewItem, interaction, item, text
from recserve_server_ext.cli.backup import app
from recserve_server_ext.common.workspace import Workspace
from support.served import Served, served
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton

PATIENT = ClientOptions(deadline_s=30, tries=10)
USERS = ("ann", "bob", "cid")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def slates(server: Served, films: list[str]) -> list[dict[str, Any]]:
    """What is recommended for users, for items, and for a text that the server has not seen."""
    with Client(server.grpc, PATIENT) as client:
        found = [client.recommend_for(user, k=20) for user in USERS]
        found.append(client.recommend([item(films[3]), item(films[7])], k=20))
        found.append(client.recommend([text("a voyage to a distant planet")], k=20))
        return [
            {"revision": slate.revision, "encoder": slate.encoder, "items": [(of.id, of.score) for of in slate.items]}
            for slate in found
        ]


def test_a_restored_home_serves_the_same_slates(tiny_home: Path, films: list[str], tmp_path: Path) -> None:
    home, new, folder = copy_home(tiny_home, tmp_path / "home"), tmp_path / "new", tmp_path / "backups"
    key = tmp_path / "backup.key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    settings = "compact_after = 0\n"
    with served(home, settings=settings) as server, Client(server.grpc, PATIENT) as client:
        for number, user in enumerate(USERS):
            client.interactions.record([interaction(user, "click", films[5 * number + at]) for at in range(5)])
        client.items.upsert([NewItem("new", {"title": "A new film about bees"})])
        client.items.delete([films[0]])
        before = slates(server, films)
        assert all(slate["items"] for slate in before)
        asked = _ask_meanwhile(client, films)
        made = run("create", folder, "--home", home, "--key-file", key)
        asked()
        client.users.erase("cid")
    assert made.exit_code == 0, made.stderr
    assert run("verify", folder, "--key-file", key).exit_code == 0
    assert made.stdout.strip() in run("list", folder).stdout
    new.mkdir()
    shutil.copy2(Workspace(home).pseudonym_key, new)
    ledger = ("--ledger", Workspace(home).erasures)
    shutil.rmtree(home / "snapshots")  # the old home is of no use any more
    back = run("restore", folder, "--home", new, "--key-file", key, *ledger)
    assert back.exit_code == 0, back.stderr
    assert "1 users who were erased since are erased again" in back.stderr
    with served(new, settings=settings) as server:
        after = slates(server, films)
        with Client(server.grpc) as client:
            assert client.users.export("cid").interactions == []
    # All but what is recommended for the erased one, who has no history any more.
    erased = USERS.index("cid")
    assert after[:erased] + after[erased + 1 :] == before[:erased] + before[erased + 1 :]


def _ask_meanwhile(client: Client, films: list[str]) -> Any:
    """Ask for recommendations from another thread until the function that is returned is called; none may fail."""
    done, faults = threading.Event(), list[BaseException]()

    def ask() -> None:
        try:
            while not done.is_set():
                client.recommend([item(films[3])], k=5)
                client.interactions.record([interaction("dan", "view", films[9])])
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=ask)
    thread.start()

    def stop() -> None:
        done.set()
        thread.join()
        assert faults == []

    return stop
