"""Two encoders over one real Triton: switched under load with their indexes, killed and resumed, refused, removed."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recserve_client import Client, ClientOptions
from recserve_export.encoder.export import export_encoder
from recserve_export.training.encoder.home import EncoderRequest, settings_of, train_encoder
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.files import sha256_of
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.item_vectors import PairCollector, encode_items
from recserve_server_ext.encoder.manifest import MANIFEST, MODEL, read_manifest
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.encoder.versions import VERSIONS, Version, active, find, versions
from recserve_server_ext.index.manifest import read_manifest as read_snapshot_manifest
from recserve_server_ext.index.manifest import write_manifest
from recserve_server_ext.index.pointers import current, publish
from recserve_server_ext.interactions.store import InteractionStore
from support.events import NOW, PSEUDONYMS, event
from support.exports import Exports
from support.served import Served, served
from support.tiny_encoder import LOOSE, measured_once
from support.wire import Wire

pytestmark = pytest.mark.triton

Answer = tuple[str, list[str], dict[str, Any]]


@pytest.fixture(scope="module")
def home(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a second encoder: other weights, other length of vectors."""
    return shutil.copytree(exports.home_of_two(), tmp_path_factory.mktemp("switch") / "home", symlinks=True)


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Served]:
    with served(home) as server:
        yield server


@pytest.fixture(scope="module")
def encoders(home: Path) -> dict[str, TextEncoder]:
    """Both encoders in this process, by fingerprint."""
    loaded = [TextEncoder(one.folder) for one in versions(home / "encoder")]
    return {one.fingerprint: one for one in loaded}


def command(home: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "recserve_client.cli.main", "encoder", *words, "--home", str(home)]


def run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        command(home, *words), capture_output=True, text=True, timeout=200, check=False, env=environment
    )


def said(ran: subprocess.CompletedProcess[str]) -> str:
    return " ".join((ran.stdout + ran.stderr).split())


class Load:
    """Callers of every kind that accept no failure; what was answered is looked at afterwards."""

    def __init__(self, address: str) -> None:
        self.answers: list[Answer] = []
        self._address = address
        self._done = threading.Event()
        self._calling: list[Future[None]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        callers = (self._recommend, self._recommend, self._recommend_text, self._embed, self._change)
        with ThreadPoolExecutor(len(callers)) as threads:
            self._calling = [threads.submit(self._call, call, number) for number, call in enumerate(callers)]
            try:
                yield
            finally:
                self._done.set()
            self._raise_failures()

    def wait_for(self, fingerprint: str, timeout_s: float = 60) -> None:
        """Until every kind of caller has been answered by this encoder."""
        deadline, seen = time.monotonic() + timeout_s, len(self.answers)
        while {kind for kind, _, answer in self.answers[seen:] if answer["encoder"] == fingerprint} < {
            "recommend", "recommend_text", "embed", "items",
        }:  # fmt: skip
            assert time.monotonic() < deadline, Counter((kind, found["encoder"]) for kind, _, found in self.answers)
            self._raise_failures()
            time.sleep(0.05)

    def _raise_failures(self) -> None:
        for future in self._calling:
            if self._done.is_set() or future.done():
                future.result()

    def _call(self, call: Any, number: int) -> None:
        wire, count = Wire(self._address), 0
        while not self._done.is_set():
            call(wire, f"caller {number} of star wars {count}")
            count += 1

    def _recommend(self, wire: Wire, text: str) -> None:
        body = {"history": [{"text": text}, {"text": "space", "weight": 0.5}], "k": 5}
        self.answers.append(("recommend", [text, "space"], wire.ask("recommend", body)))

    def _recommend_text(self, wire: Wire, text: str) -> None:
        body = {"history": [{"text": text}, {"text": "space", "weight": 0.5}], "k": 5}
        self.answers.append(("recommend_text", [text, "space"], wire.ask("recommend_text", body)))

    def _embed(self, wire: Wire, text: str) -> None:
        self.answers.append(("embed", [text], wire.ask("embed", {"texts": [text]})))

    def _change(self, wire: Wire, text: str) -> None:
        """What was acknowledged is in the next answer, whichever encoder it was written with."""
        item = {"id": text, "texts": {"title": f"a film: {text}"}}
        changed = wire.ask("items", {"op": "upsert", "items": [item]})
        body = {"history": [{"item": text}], "k": 1, "exclude_history": False, "min_revision": changed["revision"]}
        answer = wire.ask("recommend", body)
        assert [found["id"] for found in answer["items"]] == [text]
        self.answers.append(("items", [], answer))


def check(answers: list[Answer], home: Path, encoders: dict[str, TextEncoder]) -> None:
    """Every answer is what the encoder that it names gives: scores over the items' texts, and vectors."""
    with CatalogueStore(Workspace(home).store) as store:
        weights, items = store.head().field_weights, {item.id: item.texts for item in store.items()}
    for fingerprint, encoder in encoders.items():
        mine = [answer for answer in answers if answer[2]["encoder"] == fingerprint]
        texts = sorted({text for _, texts, _ in mine for text in texts})
        query = dict(zip(texts, encoder.encode(texts, role="query"), strict=True))
        collector = PairCollector(weights)
        for fields in items.values():
            collector.add(fields)
        item_vectors, _ = encode_items(collector, encoder.encode)
        passage = dict(zip(items, item_vectors, strict=True))
        for kind, asked, answer in mine:
            if kind == "embed":
                vector = np.frombuffer(base64.b64decode(answer["vectors"]), "<f4")
                np.testing.assert_allclose(vector, query[asked[0]], atol=1e-5)
                continue
            if kind == "items":
                assert answer["items"][0]["score"] == pytest.approx(1, abs=1e-4)
                continue
            user = query[asked[0]] + 0.5 * query[asked[1]]
            user /= np.linalg.norm(user)
            assert len(answer["items"]) == 5
            for found in answer["items"]:
                assert found["score"] == pytest.approx(float(user @ passage[found["id"]]), abs=1e-4)


def is_ready(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return bool(stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=10).ready)


def test_an_index_by_another_encoder_is_refused_with_the_command(home: Path, server: Served) -> None:
    first, second = versions(home / "encoder")
    ran = run(home, "activate", "2")
    assert ran.returncode == 1
    assert f"made by encoder {first.usable().fingerprint}" in said(ran)
    assert "recserve encoder activate 2 --reindex" in said(ran)
    assert active(Workspace(home)) == first
    listed = run(home, "list").stdout.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["2", "tiny"], ["*", "1"]] or "*" in listed[2]
    assert second.usable().fingerprint in listed[1]


def test_a_killed_reindex_is_resumed_and_both_switch_under_load(
    home: Path, server: Served, encoders: dict[str, TextEncoder]
) -> None:
    first, second = (one.usable().fingerprint for one in versions(home / "encoder"))
    parts = home / "encoding" / second
    process = subprocess.Popen(command(home, "activate", "2", "--reindex"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(parts.glob("*.part")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    kept = {file: file.stat().st_mtime_ns for file in parts.glob("*.part")}
    served_before = active(Workspace(home))
    assert served_before is not None
    assert served_before.number == 1
    load = Load(server.grpc)
    with load.running():
        load.wait_for(first)
        started = subprocess.Popen(command(home, "activate", second[:8], "--reindex"), stderr=subprocess.DEVNULL)
        while started.poll() is None:
            if parts.is_dir():
                now = {file: file.stat().st_mtime_ns for file in parts.glob("*.part") if file in kept}
                assert now.items() <= kept.items()
            time.sleep(0.01)
        assert started.returncode == 0
        load.wait_for(second)
        server.wait_for("encoder_activated", timeout_s=60)
        load.wait_for(second)
    kinds = Counter((kind, answer["encoder"]) for kind, _, answer in load.answers)
    assert set(kinds) == {
        (kind, one) for kind in ("recommend", "recommend_text", "embed", "items") for one in (first, second)
    }
    check(load.answers, home, encoders)
    assert not parts.exists()
    # Nothing that goes on was loaded again.
    (log,) = (home / "run").glob("*/triton.log")
    assert log.read_text().count("loading: recommend:1") == 1
    # For one encoder after the other: nobody was thrown back.
    told = [answer["encoder"] for kind, _, answer in load.answers if kind == "items"]
    assert told == sorted(told, key=[first, second].index)


def test_back_to_the_pair_before_under_load(home: Path, server: Served, encoders: dict[str, TextEncoder]) -> None:
    first, second = (one.usable().fingerprint for one in versions(home / "encoder"))
    load = Load(server.grpc)
    with load.running():
        load.wait_for(second)
        ran = run(home, "rollback")
        assert (ran.returncode, "encoder 0001-fp32-" in ran.stdout) == (0, True), said(ran)
        load.wait_for(first)
        server.wait_for("encoder_activated", count=2, timeout_s=60)
        load.wait_for(first)
    check(load.answers, home, encoders)


def test_a_version_that_gives_other_vectors_is_refused(home: Path, server: Served, tmp_path: Path) -> None:
    second = find(home / "encoder", "2")
    model = second.folder / MODEL
    content = model.read_bytes()
    model.write_bytes(content[:-7])
    try:
        for words in (("activate", "2"), ("activate", "2", "--reindex"), ("rollback",)):
            ran = run(home, *words)
            assert ran.returncode == 1
            assert "model.onnx is damaged" in said(ran)
    finally:
        model.write_bytes(content)
    assert active(Workspace(home)) == find(home / "encoder", "1")


def test_a_broken_version_that_gets_past_the_command_changes_nothing(home: Path, server: Served) -> None:
    """Its checksums are right, and its snapshot is published by hand."""
    workspace = Workspace(home)
    good = current(workspace.snapshots)
    served_now = read_snapshot_manifest(good).encoder
    folder = home / "encoder" / VERSIONS / "aside"
    shutil.copytree(find(home / "encoder", "1").folder, folder)
    (folder / MODEL).write_bytes(b"no model")
    manifest = read_manifest(folder, verify=False)
    broken = msgspec.structs.replace(manifest, files={**manifest.files, MODEL: sha256_of(folder / MODEL)})
    (folder / MANIFEST).write_bytes(msgspec.json.encode(broken))
    folder.rename(folder.with_name(f"0003-fp32-{broken.fingerprint}"))
    snapshot = shutil.copytree(good, good.with_name(f"{good.name}x"))
    write_manifest(
        snapshot,
        msgspec.structs.replace(read_snapshot_manifest(good), id=snapshot.name, encoder=broken.fingerprint),
    )
    publish(workspace.snapshots, snapshot.name, broken.fingerprint)
    with Client(server.grpc, ClientOptions(deadline_s=30)) as client:
        refused: list[dict[str, Any]] = []
        while not refused:
            assert is_ready(server.grpc)
            assert client.server_info().encoder == served_now
            refused = [entry for entry in server.events() if entry["event"] == "encoder_refused"]
        assert refused[0]["encoder"] == broken.fingerprint
        publish(workspace.snapshots, good.name, served_now)
        assert client.server_info().encoder == served_now
    assert is_ready(server.grpc)
    assert run(home, "remove", "3").returncode == 0


def test_what_is_served_or_loaded_is_not_removed(home: Path, server: Served) -> None:
    ran = run(home, "remove", "1")
    assert (ran.returncode, "is served; activate another one first" in said(ran)) == (1, True), said(ran)
    ran = run(home, "remove", "2")
    if ran.returncode:  # within half a minute of the switch
        assert "still has version 0002-fp32-" in said(ran)
    assert versions(home / "encoder")[0].number == 1
    with Client(server.grpc, ClientOptions(deadline_s=30)) as client:
        assert client.server_info().encoder == find(home / "encoder", "1").usable().fingerprint


@pytest.fixture(scope="module")
def tuned_home(exports: Exports, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a log, and an exported encoder that was fine-tuned on it; the first one is served."""
    folder = tmp_path_factory.mktemp("tuned") / "home"
    workspace = Workspace(shutil.copytree(exports.home(), folder, symlinks=True))
    with CatalogueStore(workspace.store) as store:
        films = [item.id for item in store.items()][:200]
    random = np.random.default_rng(0)
    with InteractionStore(workspace.interactions, create=True, clock=lambda: NOW) as log:
        for user in range(60):
            liked = random.choice(50, 8, replace=False).tolist()
            log.record(
                [
                    event(
                        PSEUDONYMS.of(f"user{user}"), films[4 * n + user % 4], type="like", timestamp=NOW - 9000 + place
                    )
                    for place, n in enumerate(liked)
                ]
            )
    settings = settings_of({"steps": 6, "every": 3, "pairs": 16, "rate": 1e-3, "head_steps": 0, "precision": "fp32"})
    done = train_encoder(
        workspace, workspace.interactions, EncoderRequest(model=str(source), settings=settings, keep=-1.0)
    )
    with measured_once():
        export_encoder(done.model, workspace, settings=LOOSE)
    return folder


def test_a_tuned_encoder_is_swapped_in_under_load_and_back(tuned_home: Path) -> None:
    first, tuned = (one.usable().fingerprint for one in sorted(versions(tuned_home / "encoder"), key=number_of))
    assert first != tuned
    loaded = {one.fingerprint: one for one in (TextEncoder(one.folder) for one in versions(tuned_home / "encoder"))}
    apart = [encoder.encode(["star wars", "space opera"]) for encoder in loaded.values()]
    assert np.abs(apart[0] - apart[1]).max() > 1e-3  # it learned something
    with served(tuned_home) as server:
        load = Load(server.grpc)
        with load.running():
            load.wait_for(first)
            ran = run(tuned_home, "activate", "2", "--reindex")
            assert ran.returncode == 0, said(ran)
            server.wait_for("encoder_activated", timeout_s=60)
            load.wait_for(tuned)
            ran = run(tuned_home, "rollback")
            assert ran.returncode == 0, said(ran)
            server.wait_for("encoder_activated", count=2, timeout_s=60)
            load.wait_for(first)
        check(load.answers, tuned_home, loaded)
    # No caller was thrown back while one encoder was followed by the other.
    told = [answer["encoder"] for kind, _, answer in load.answers if kind == "items"]
    changes = [new for old, new in pairwise(told) if new != old]
    assert changes == [tuned, first]


def number_of(version: Version) -> int:
    return version.number
