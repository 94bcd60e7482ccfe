"""Networks that come and go with snapshots, on a Triton that only writes down what it is asked."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from recserve_server_ext.config.server import ModelSettings, ServeSettings
from recserve_server_ext.index.pointers import CURRENT
from recserve_server_ext.networks.loaded import SERVING, TABLE
from recserve_server_ext.networks.network import NETWORK, Network, write_network
from recserve_server_ext.supervisor import network_switch
from recserve_server_ext.supervisor.event_log import EventLog
from recserve_server_ext.supervisor.network_switch import NetworkSwitch
from recserve_server_ext.triton.network_config import SnapshotNetwork
from recserve_server_ext.triton.probes import Admin
from recserve_server_ext.triton.repository import MODELS
from support.sequence import bit_flipped, tiny_network, with_weight


class Triton:
    """Writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken: set[str] = set()

    def load(self, model: str, timeout_s: float) -> None:
        self.asked.append(f"load {model}")
        if model in self.broken:
            raise grpc.RpcError("it is broken")

    def unload(self, model: str, timeout_s: float) -> None:
        self.asked.append(f"unload {model}")


class Switched:
    """A switch whose clock stands still, over snapshots that are only their networks."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.now, self.published = folder, 100.0, 0
        self.wanted: list[SnapshotNetwork] = []
        (folder / "snapshots").mkdir()
        monkeypatch.setattr(network_switch, "current", lambda _: folder)
        monkeypatch.setattr(network_switch, "read_manifest", lambda *_, **__: None)
        monkeypatch.setattr(network_switch, "networks_of", lambda *_: self.wanted)
        monkeypatch.setattr("recserve_server_ext.supervisor.network_switch.time.monotonic", lambda: self.now)
        self.triton, self.log = Triton(), io.StringIO()
        settings = ModelSettings(str(folder), str(folder / "snapshots"), "", ServeSettings(), "", "", "")
        self.switch = NetworkSwitch(settings, [], EventLog(as_json=True, stream=self.log))

    def network(self, seed: int, network: Network | None = None) -> SnapshotNetwork:
        network = network or tiny_network(seed)
        own = self.folder / f"of{seed}"
        own.mkdir(exist_ok=True)
        write_network(own, network)
        return SnapshotNetwork("sequence", network.manifest, own / NETWORK)

    def publish(self, *networks: SnapshotNetwork) -> None:
        self.wanted, self.published = list(networks), self.published + 1
        path = self.folder / "snapshots" / CURRENT
        path.write_text("x")
        os.utime(path, ns=(self.published, self.published))

    def work(self) -> list[str]:
        """What Triton is asked until there is nothing to do."""
        self.triton.asked.clear()
        while (work := self.switch.next()) is not None:
            work(cast(Admin, self.triton))
        return list(self.triton.asked)

    def serve(self, *networks: SnapshotNetwork) -> None:
        (self.folder / SERVING).write_text(json.dumps([one.manifest.fingerprint for one in networks]))

    def table(self) -> list[str]:
        return [entry["model"] for entry in json.loads((self.folder / TABLE).read_text())]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@pytest.fixture
def switched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Switched:
    return Switched(tmp_path, monkeypatch)


def test_the_network_of_a_new_snapshot_is_loaded_from_a_copy(switched: Switched) -> None:
    assert switched.work() == []
    assert switched.table() == []
    first = switched.network(0)
    switched.publish(first)
    assert switched.work() == [f"load {first.model}"]
    assert switched.table() == [first.model]
    assert switched.switch.models == {first.model}
    copy = switched.folder / MODELS / first.model / "1" / NETWORK
    first.file.unlink()
    assert copy.read_bytes() == tiny_network(0).content
    assert switched.work() == []


def test_the_one_before_stays_until_nobody_asks_it(switched: Switched) -> None:
    first, second = switched.network(0), switched.network(1)
    switched.publish(first)
    switched.work()
    switched.serve(first)
    switched.publish(second)
    assert switched.work() == [f"load {second.model}"]
    switched.now += 1000
    assert switched.work() == []
    switched.serve(second)
    assert switched.work() == []
    switched.now += 1000
    assert switched.work() == [f"unload {first.model}"]
    assert switched.table() == [second.model]
    assert not (switched.folder / MODELS / first.model).exists()


def test_a_network_that_cannot_be_loaded_is_reported_once(switched: Switched) -> None:
    first, second = switched.network(0), switched.network(1)
    switched.publish(first)
    switched.work()
    switched.serve(first)
    switched.triton.broken.add(second.model)
    switched.publish(second)
    assert switched.work() == [f"load {second.model}", f"unload {second.model}"]
    assert switched.work() == []
    assert switched.table() == [first.model]
    assert [entry["event"] for entry in switched.events()] == ["network_loaded", "network_refused"]
    switched.triton.broken.clear()
    switched.publish(second)
    assert switched.work() == [f"load {second.model}"]


def test_a_damaged_file_never_reaches_triton(switched: Switched) -> None:
    first = switched.network(0)
    first.file.write_bytes(b"damaged")
    switched.publish(first)
    assert switched.work() == [f"unload {first.model}"]
    assert switched.table() == []


def test_a_network_that_gives_other_vectors_never_reaches_triton(switched: Switched) -> None:
    """Its checksum is right, and what was served goes on; the log names the file, the figure and what to do."""
    first = switched.network(0)
    switched.publish(first)
    switched.work()
    switched.serve(first)
    wrong = switched.network(1, with_weight(tiny_network(1), bit_flipped))
    switched.publish(wrong)
    assert switched.work() == [f"unload {wrong.model}"]
    assert switched.table() == [first.model]
    fault = switched.events()[-1]["fault"]
    assert str(wrong.file) in fault
    assert "vector of history" in fault
    assert "of its length, over 0.0001; train its space again on this machine" in fault
