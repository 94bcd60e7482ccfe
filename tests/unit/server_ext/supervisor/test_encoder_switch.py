"""How a server comes from one encoder to another, step by step, on a stand-in for Triton."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.errors import EncoderError, ModelNotLoadedError, SnapshotError
from recserve_server_ext.config.server import ModelSettings, ServeSettings
from recserve_server_ext.encoder.loaded import SERVING, LoadedEncoder, ServedEncoders, loaded
from recserve_server_ext.index.pointers import CURRENT
from recserve_server_ext.supervisor import encoder_switch
from recserve_server_ext.supervisor.encoder_switch import EncoderSwitch
from recserve_server_ext.supervisor.event_log import EventLog
from recserve_server_ext.supervisor.network_switch import NetworkSwitch
from recserve_server_ext.triton.model_config import all_models
from recserve_server_ext.triton.probes import Admin
from recserve_server_ext.triton.repository import MODELS, write_model
from support.versions import loaded_encoder

FIRST = loaded_encoder("1111111111111111", "/one")
SECOND = loaded_encoder("2222222222222222", "/two", dim=6, max_tokens=16)
PATIENCE_S = 30 + 5


class RefusedError(grpc.RpcError):
    """What gRPC raises."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INVALID_ARGUMENT

    def details(self) -> str:
        return "no such model"


class Triton:
    """Says what it was asked, and refuses what it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuses: set[str] = set()
        self.length = 1.0

    def load(self, model: str, timeout_s: float) -> None:
        self.asked.append(f"+{model}")
        if model in self.refuses:
            self.refuses.remove(model)
            raise RefusedError

    def unload(self, model: str, timeout_s: float) -> None:
        self.asked.append(f"-{model}")

    def length_of_a_vector(self, encoder: LoadedEncoder, timeout_s: float) -> float:
        return self.length

    def close(self) -> None:
        pass


class Switched:
    """A switch whose clock stands still."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.triton = Triton()
        self.now = 100.0
        self.wanted: LoadedEncoder | SnapshotError = FIRST
        self.broken: set[str] = set()
        self.published = 0
        monkeypatch.setattr(encoder_switch, "try_in_process", self._try)
        monkeypatch.setattr("recserve_server_ext.supervisor.encoder_switch.time.monotonic", lambda: self.now)
        self.folder = folder
        self.log = io.StringIO()
        (folder / "snapshots").mkdir()
        settings = ModelSettings(str(folder), str(folder / "snapshots"), "", ServeSettings(), "", "", "")
        for model in all_models(settings, FIRST):
            write_model(folder, model)
        log = EventLog(as_json=True, stream=self.log)
        self.switch = EncoderSwitch(settings, FIRST, self._find, NetworkSwitch(settings, [], log), log)

    def publish(self, wanted: LoadedEncoder | SnapshotError) -> None:
        self.wanted = wanted
        path = self.folder / "snapshots" / CURRENT
        path.write_text("x")
        self.published += 1
        os.utime(path, ns=(self.published, self.published))

    def serve(self, encoder: LoadedEncoder) -> None:
        (self.folder / SERVING).write_text(encoder.fingerprint)

    def check(self, times: int = 1) -> list[str]:
        """What Triton is asked, each step done."""
        self.triton.asked.clear()
        for _ in range(times):
            self.switch.check(cast(Callable[[], Admin], lambda: self.triton))
            if self.switch._work is not None:
                self.switch._work.result(30)
        return list(self.triton.asked)

    def models(self) -> list[str]:
        return sorted(path.name for path in (self.folder / MODELS).iterdir())

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def _find(self) -> LoadedEncoder:
        if isinstance(self.wanted, SnapshotError):
            raise self.wanted
        return self.wanted

    def _try(self, folder: Path, timeout_s: float) -> None:
        if str(folder) in self.broken:
            raise EncoderError("it cannot be loaded")


@pytest.fixture
def switched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Switched:
    return Switched(tmp_path, monkeypatch)


def of(encoder: LoadedEncoder, *models: str) -> list[str]:
    return [f"{model}_{encoder.fingerprint[:8]}" for model in models or ("encoder", "tokenize", "pool")]


def test_the_way_from_one_encoder_to_another(switched: Switched) -> None:
    switched.serve(FIRST)
    assert switched.check(3) == []
    before = switched.models()
    switched.publish(SECOND)
    assert switched.check() == [f"+{name}" for name in of(SECOND)]
    assert loaded(switched.folder) == [FIRST.fingerprint, SECOND.fingerprint]
    assert switched.switch.served == FIRST
    assert switched.check(3) == []  # until `recommend` has the snapshot
    switched.serve(SECOND)
    assert switched.check() == ["+encoder", "+recommend_text"]
    assert switched.switch.served == SECOND
    ensemble = (switched.folder / MODELS / "recommend_text" / "config.pbtxt").read_text()
    assert all(name in ensemble for name in of(SECOND))
    assert switched.check(3) == []
    switched.now += PATIENCE_S + 1
    assert switched.check() == [f"-{name}" for name in of(FIRST)]
    assert loaded(switched.folder) == [SECOND.fingerprint]
    assert switched.switch.models == set(of(SECOND))
    assert switched.models() == sorted(set(before) - set(of(FIRST)) | set(of(SECOND)))
    assert switched.check(3) == []
    events = [entry["event"] for entry in switched.events()]
    assert events == ["encoder_loaded", "encoder_activated", "encoder_unloaded"]


def test_back_before_the_first_was_unloaded(switched: Switched) -> None:
    switched.publish(SECOND)
    switched.check()
    switched.serve(SECOND)
    switched.check()
    switched.publish(FIRST)
    switched.now += PATIENCE_S + 1
    assert switched.check(2) == []
    switched.serve(FIRST)
    assert switched.check() == ["+encoder", "+recommend_text"]
    assert switched.switch.served == FIRST


@pytest.mark.parametrize("fault", ["trial", "load", "length"])
def test_a_broken_encoder_is_refused_once_and_leaves_nothing(switched: Switched, fault: str) -> None:
    before = switched.models()
    if fault == "trial":
        switched.broken.add(SECOND.folder)
    elif fault == "load":
        switched.triton.refuses = set(of(SECOND, "tokenize"))
    else:
        switched.triton.length = float("nan")
    switched.publish(SECOND)
    asked = switched.check()
    if fault == "trial":
        assert asked == []  # Triton never hears of it
    else:
        assert [name for name in asked if name[0] == "-"] == [f"-{name}" for name in of(SECOND)]
    assert switched.check(3) == []
    assert switched.models() == before
    assert loaded(switched.folder) == [FIRST.fingerprint]
    (refused,) = switched.events()
    assert (refused["event"], refused["encoder"]) == ("encoder_refused", SECOND.fingerprint)
    # Mended, it is published again.
    switched.broken.clear()
    switched.triton.length = 1.0
    switched.publish(SECOND)
    assert switched.check() == [f"+{name}" for name in of(SECOND)]


def test_a_snapshot_whose_encoder_is_not_there_is_told_once(switched: Switched) -> None:
    switched.publish(SnapshotError("no such encoder"))
    assert switched.check(3) == []
    (refused,) = switched.events()
    assert (refused["event"], refused["fault"]) == ("encoder_refused", "no such encoder")


def test_leading_to_the_models_is_tried_again(switched: Switched) -> None:
    switched.publish(SECOND)
    switched.check()
    switched.serve(SECOND)
    switched.triton.refuses = {"recommend_text"}
    switched.check()
    assert switched.switch.served == FIRST
    assert switched.events()[-1]["event"] == "encoder_switch_failed"
    switched.check()
    assert switched.switch.served == SECOND


def test_a_server_that_ended_meanwhile_starts_without_what_was_half_loaded(switched: Switched) -> None:
    before = switched.models()
    switched.triton.refuses = set(of(SECOND, "pool"))
    switched.publish(SECOND)
    switched.check()
    switched.switch.settle()
    assert switched.models() == before
    assert switched.check() == [f"+{name}" for name in of(SECOND)]


def test_the_other_models_follow_what_recommend_says(switched: Switched) -> None:
    made: list[str] = []

    def make(encoder: LoadedEncoder) -> Any:
        made.append(encoder.fingerprint)
        return lambda texts: encoder.fingerprint

    encoders = ServedEncoders(switched.folder, make)
    assert encoders.serving() == FIRST.fingerprint  # before anybody has said so
    with pytest.raises(ModelNotLoadedError):
        encoders.require(SECOND.fingerprint)
    with pytest.raises(RequestError) as caught:
        encoders(["a"], SECOND.fingerprint)
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    stamp = encoders.stamp()
    switched.publish(SECOND)
    switched.check()
    assert encoders.stamp() != stamp
    encoders.require(SECOND.fingerprint)
    assert encoders.serving() == FIRST.fingerprint
    encoders.serve(SECOND.fingerprint)
    assert encoders.serving() == SECOND.fingerprint
    assert [encoders(["a"], one.fingerprint) for one in (FIRST, SECOND, FIRST)] == [
        FIRST.fingerprint, SECOND.fingerprint, FIRST.fingerprint,
    ]  # fmt: skip
    assert made == [FIRST.fingerprint, SECOND.fingerprint]
