"""API keys over a real Triton: who is let in to what, by the models themselves, with no gateway before them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from recserve_client import Client, ClientOptions, NewItem, RecserveError, interaction, item, text
from recserve_client.contract import models
from recserve_client.errors import PermissionDenied, Unauthenticated
from recserve_server_ext.access.key_file import create_key, read_keys, revoke_key
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.workspace import Workspace
from support.collector import trace_collector
from support.exports import Exports
from support.keys import REQUIRED, ask_inner, keys_of
from support.postgres import NoPostgresError, postgres_cluster
from support.served import Served, served
from support.tiny_home import copy_home
from support.wire import Wire

pytestmark = pytest.mark.triton
PATIENT = ClientOptions(deadline_s=30)
Ask = Callable[[Client], Any]


@pytest.fixture(scope="module")
def home(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of its own, for its keys."""
    return copy_home(tiny_home, tmp_path_factory.mktemp("keys") / "home")


@pytest.fixture(scope="module")
def keys(home: Path) -> dict[str, str]:
    """A key for each scope."""
    return keys_of(home)


@pytest.fixture(scope="module")
def locked(home: Path, keys: dict[str, str]) -> Iterator[Served]:
    """A server that asks for keys."""
    with served(home, settings=REQUIRED) as server:
        yield server


OPERATIONS: dict[str, tuple[str, Ask]] = {
    "recommend": ("recommend", lambda client: client.recommend([text("a heist")])),
    "recommend_text": ("recommend", lambda client: client.recommend_text(["a heist"])),
    "recommend_for": ("recommend", lambda client: client.recommend_for("ann")),
    "embed": ("recommend", lambda client: client.embed(["a heist"])),
    "upsert": ("items", lambda client: client.items.upsert([NewItem("new-1", {"title": "A heist"})])),
    "get": ("items", lambda client: client.items.get(["new-1"])),
    "record": ("interactions", lambda client: client.interactions.record([interaction("ann", "like", item="new-1")])),
    "history": ("interactions", lambda client: client.users.history("ann")),
    "export": ("users.erase", lambda client: client.users.export("ann")),
    "erase": ("users.erase", lambda client: client.users.erase("ann")),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_takes_its_scope_and_no_other(name: str, locked: Served, keys: dict[str, str]) -> None:
    needed, ask = OPERATIONS[name]
    for scope, key in keys.items():
        with Client(locked.grpc, PATIENT, key=key) as client:
            if scope in (needed, "admin"):
                ask(client)
            else:
                with pytest.raises(PermissionDenied) as denied:
                    ask(client)
                assert denied.value.message == "the key has no scope for this"


@pytest.mark.parametrize("key", ["", "rsk_" + "a" * 43, "x"])
def test_without_a_valid_key_nothing_is_done_or_told(key: str, locked: Served) -> None:
    with Client(locked.grpc, PATIENT, key=key) as client:
        for _, ask in OPERATIONS.values():
            with pytest.raises(Unauthenticated) as refused:
                ask(client)
            assert refused.value.message == "a valid key is needed"
        with pytest.raises(Unauthenticated):
            client.ready()
    assert Wire(locked.grpc).refused("recommend", {"no": "such field"})[1].startswith("unauthenticated: a valid key")


def inner_models(server: Served) -> list[str]:
    """Names of the models that other models ask, and of the ensemble around the encoder."""
    names = [folder.name for folder in (server.home / "run").glob("*/models/*")]
    inner = [name for name in names if name.startswith((models.ENCODER, models.TOKENIZE, models.POOL))]
    assert len(inner) == 4
    return inner


def test_models_behind_others_ask_for_a_key_too(locked: Served, keys: dict[str, str]) -> None:
    for model in inner_models(locked):
        for key, kind in (("", "unauthenticated"), (keys["items"], "permission_denied")):
            with pytest.raises(grpc.RpcError) as refused:
                ask_inner(locked.grpc, model, key)
            assert kind in (refused.value.details() or "")
    ask_inner(locked.grpc, models.ENCODER, keys["recommend"])


def test_a_key_is_good_at_once_and_until_it_is_revoked(locked: Served, home: Path) -> None:
    path = Workspace(home).api_keys
    before = len(read_keys(path))
    key_id, key = create_key(path, "for a while", [Scope.RECOMMEND])
    with Client(locked.grpc, PATIENT, key=key) as client:
        assert client.recommend([text("a heist")]).items
        assert client.ready()
        assert client.strategies().strategies
        revoke_key(path, key_id)
        with pytest.raises(Unauthenticated):
            client.recommend([text("a heist")])
    assert len(read_keys(path)) == before


def test_commands_take_the_key_from_the_environment(locked: Served, keys: dict[str, str]) -> None:
    command = [sys.executable, "-m", "recserve_client.cli.main", "recommend", "--text", "a heist", "--json"]

    def run(key: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "RECSERVE_ADDRESS": locked.grpc, "RECSERVE_KEY": key}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = run(keys["recommend"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"]
    for wrong in ("rsk_" + "b" * 43, "two words"):
        refused = run(wrong)
        assert refused.returncode != 0
        assert "key" in refused.stderr
        assert wrong not in refused.stderr


def test_a_server_that_comes_back_lets_its_own_calls_in(tiny_home: Path, films: list[str], tmp_path: Path) -> None:
    home = copy_home(tiny_home, tmp_path / "home")
    key = keys_of(home)["recommend"]
    with served(home, settings=REQUIRED) as server, Client(server.grpc, PATIENT, key=key) as client:
        for model in ("recommend", "encoder"):
            server.stub(model).kill()
            server.wait_for("model_reloaded", count=1 + (model == "encoder"))
            assert client.recommend([item(films[0]), text(f"a heist after {model}")]).items
        assert server.logged("server_exited", "reload_failed") == []


def test_an_encoder_that_is_activated_asks_for_keys_too(exports: Exports, tmp_path: Path) -> None:
    home = shutil.copytree(exports.home_of_two(), tmp_path / "home", symlinks=True)
    keys = keys_of(home)
    command = [sys.executable, "-m", "recserve_client.cli.main", "encoder", "activate", "2", "--reindex"]
    with served(home, settings=REQUIRED) as server, Client(server.grpc, PATIENT, key=keys["recommend"]) as client:
        before = client.server_info().encoder
        ran = subprocess.run([*command, "--home", str(home)], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        server.wait_for("encoder_activated", timeout_s=60)
        after = client.server_info().encoder
        assert after != before
        assert client.ready()
        for model in (models.ENCODER, models.of_encoder(models.ENCODER, after)):
            with pytest.raises(grpc.RpcError, match="unauthenticated"):
                ask_inner(server.grpc, model, "")


PASSWORD = "a-password-of-the-store"


def secrets_of(server: Served) -> dict[str, str]:
    """Secrets of a server beside the keys of its callers, by name; its user store has a password."""
    assert any(PASSWORD in path.read_text() for path in server.home.glob("run/*/models/*/1/settings.json"))
    (handed,) = {path.read_text() for path in server.home.glob("run/*/models/embed/1/settings.json")}
    (control,) = [word for word in server.triton().cmdline() if word.startswith("--grpc-restricted-protocol=")]
    return {
        "own key": str(json.loads(handed)["own_key"]),
        "key of pseudonyms": Workspace(server.home).pseudonym_key.read_text().strip(),
        "password of a store": PASSWORD,
        "secret of Triton's control": control.rpartition("=")[2],
    }


def written(server: Served) -> Iterator[tuple[str, bytes]]:
    """What a server has written into its home but for the files whose content is a secret, and its command lines."""
    for path in server.home.rglob("*"):
        if path.is_file() and path.name not in ("settings.json", "pseudonym.key"):
            yield str(path), path.read_bytes()
    for process in psutil.Process(server.process.pid).children(recursive=True):
        shown = [word for word in process.cmdline() if not word.startswith("--grpc-restricted-protocol=")]
        yield f"command line of {process.pid}", " ".join(shown).encode()


def refusals(address: str, keys: dict[str, str]) -> list[str]:
    """What callers with each key and with a wrong one are told by all operations that refuse them."""
    told = []
    for key in (*keys.values(), "rsk_" + "a" * 43):
        with Client(address, PATIENT, key=key) as client:
            for _, ask in OPERATIONS.values():
                try:
                    ask(client)
                except RecserveError as error:
                    told.append(f"{error!r} {error}")
    return told


def test_no_secret_is_written_or_told_anywhere(tiny_home: Path, tmp_path: Path) -> None:
    home = copy_home(tiny_home, tmp_path / "home")
    keys = keys_of(home)
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(postgres_cluster())
        except NoPostgresError as error:
            pytest.skip(str(error))
        endpoint, traces = stack.enter_context(trace_collector())
        store = cluster.url().replace("@", f":{PASSWORD}@")
        settings = f'[traces]\nendpoint = "{endpoint}"\nshare = 1.0\n[users]\nstore = "{store}"\n{REQUIRED}'
        with served(home, settings=settings) as server:
            secrets = {**secrets_of(server), **keys}
            assert all(path.stat().st_mode & 0o077 == 0 for path in home.glob("run/*/models/*/1/settings.json"))
            with Client(server.grpc, PATIENT, key=secrets["own key"]) as client:
                assert client.ready()  # it is the key of the server's own calls, so it is worth looking for
            told = refusals(server.grpc, keys)
            cluster.stop("immediate")
            failed = refusals(server.grpc, keys)
            cluster.start()
            found = [*written(server), ("log", server.log.read_bytes())]
    assert len(failed) > len(told)
    assert b"recommend" in b"".join(traces)
    found += [("errors", "\n".join([*told, *failed]).encode()), ("traces", b"".join(traces))]
    assert [
        (name, where) for where, content in found for name, secret in secrets.items() if secret.encode() in content
    ] == []
