"""Preferred batches of the GPU targets: measured where they run (here onnxruntime on the CPU), kept and written."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from typer.testing import CliRunner

from recserve_export.cli.encoder import app
from recserve_export.encoder.checks.speed import SpeedPoint, speed_point
from recserve_export.encoder.report.report import REPORT, EncoderReport
from recserve_export.encoder.targets import preferred_batches as encoder_batches
from recserve_export.encoder.targets.preferred_batches import (
    BATCHES,
    SYSTEMS,
    keep_batches,
    measure_batches,
    read_batches,
)
from recserve_export.encoder.targets.targets import write_target
from recserve_export.errors import ExportError
from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.config.server import Provider, Target
from recserve_server_ext.encoder.gpu import GpuEncoder
from recserve_server_ext.encoder.manifest import read_manifest
from recserve_server_ext.triton.encoder_target import CONFIG, CONFIGS, model_folder
from support.tiny_encoder import DIM, MAX_TOKENS


@pytest.fixture
def encoder(tiny_home: Path, tmp_path: Path) -> Path:
    """A copy of the tiny fp32 encoder with all targets, to change."""
    folder = shutil.copytree(tiny_home / "encoder" / "fp32", tmp_path / "home" / "encoder" / "fp32")
    for target in ("onnxruntime", "tensorrt"):
        write(folder, target)
    return folder


def write(folder: Path, target: Target) -> None:
    report = msgspec.json.decode((folder / REPORT).read_bytes(), type=EncoderReport)
    write_target(folder, read_manifest(folder), report, target, 64)


def preferred(file: Path) -> list[int]:
    config = text_format.Parse(file.read_text(), pb.ModelConfig())
    assert config.HasField("dynamic_batching")
    return list(config.dynamic_batching.preferred_batch_size)


def files(encoder: Path) -> dict[str, Path]:
    folder = model_folder(encoder, "onnxruntime") / CONFIGS
    named = {str(provider): folder / f"{provider}.pbtxt" for provider in SYSTEMS}
    return {**named, "plan": model_folder(encoder, "tensorrt") / CONFIG}


def rates(provider: Provider, found: dict[int, float]) -> list[SpeedPoint]:
    return [speed_point(SYSTEMS[provider], 8, size, size / rate) for size, rate in found.items()]


def test_every_shape_is_measured_by_a_real_run(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_batches, "_SIZES", (1, 4))
    real, shapes = GpuEncoder.run, []

    def run(self: GpuEncoder, ids: Ints, mask: Ints) -> Vectors:
        vectors = real(self, ids, mask)
        assert vectors.shape == (len(ids), DIM)
        assert np.isfinite(vectors).all()
        shapes.append(ids.shape)
        return vectors

    monkeypatch.setattr(GpuEncoder, "run", run)
    assert list(measure_batches(encoder, "cpu")) == [files(encoder)["cpu"]]
    points = read_batches(encoder)
    expected = {(tokens, size) for tokens in (8, 32, MAX_TOKENS) for size in (1, 4)}  # 128 is more than it takes
    assert {(point.tokens, point.batch) for point in points} == expected
    assert len(points) == len(expected)
    assert all(point.latency_ms > 0 and point.system == "onnxruntime cpu" for point in points)
    assert len(shapes) == len(expected) * (1 + encoder_batches._ROUNDS)


def test_they_go_into_the_configurations_and_nothing_else_does(encoder: Path) -> None:
    before = {name: file.read_text() for name, file in files(encoder).items()}
    assert preferred(files(encoder)["cuda"]) == [8, 16, 32, 64]
    written = keep_batches(encoder, "cuda", rates("cuda", {1: 10, 16: 98, 32: 100, 128: 500}))
    assert written == {files(encoder)["cuda"]: [16, 32]}  # no batch of this configuration has more than 64 texts
    assert preferred(files(encoder)["cuda"]) == [16, 32]
    written = keep_batches(encoder, "tensorrt", rates("tensorrt", {1: 99, 16: 100}))
    assert written == {files(encoder)["tensorrt"]: [], files(encoder)["plan"]: []}
    assert files(encoder)["cpu"].read_text() == before["cpu"]
    changed = text_format.Parse(files(encoder)["cuda"].read_text(), pb.ModelConfig())
    original = text_format.Parse(before["cuda"], pb.ModelConfig())
    for config in (changed, original):
        config.ClearField("dynamic_batching")
    assert changed == original


def test_a_later_export_keeps_to_them(encoder: Path) -> None:
    keep_batches(encoder, "cuda", rates("cuda", {1: 10, 16: 100}))
    keep_batches(encoder, "tensorrt", rates("tensorrt", {1: 10, 32: 100}))
    keep_batches(encoder, "cuda", rates("cuda", {1: 10, 64: 100}))  # in place of the first
    assert {point.system for point in read_batches(encoder)} == {"onnxruntime cuda", "onnxruntime tensorrt"}
    for target in ("onnxruntime", "tensorrt"):
        write(encoder, target)
    found = {name: preferred(file) for name, file in files(encoder).items() if name != "cpu"}
    assert found == {"cuda": [64], "tensorrt": [32], "plan": [32]}


def test_a_damaged_measurement_is_named(encoder: Path) -> None:
    (encoder / BATCHES).write_text("{")
    with pytest.raises(ExportError, match=r"batches\.json cannot be read.*remove it, or measure again"):
        write(encoder, "onnxruntime")


class TestCommand:
    def run(self, *words: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, ["gate", *words])
        return found.exit_code, " ".join(found.output.split())

    def test_gate_then_measure(self, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the CPU's provider in the place of CUDA's."""
        monkeypatch.setattr(encoder_batches, "_SIZES", (1, 4))
        on_cpu = lambda folder, _: GpuEncoder(folder, "cpu")  # noqa: E731
        monkeypatch.setattr("recserve_server_ext.encoder.gpu.GpuEncoder", on_cpu)
        before = preferred(files(encoder)["cuda"])
        assert self.run(str(encoder), "--provider", "cuda")[0] == 0
        assert (preferred(files(encoder)["cuda"]), read_batches(encoder)) == (before, [])
        code, said = self.run(str(encoder), "--provider", "cuda", "--batches")
        assert code == 0, said
        assert "preferred batches " in said
        assert {point.batch for point in read_batches(encoder)} == {1, 4}
        assert preferred(files(encoder)["cuda"]) in ([], [4])

    def test_one_that_misses_is_not_measured(self, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("recserve_server_ext.encoder.gpu.GpuEncoder", _Biased)
        code, said = self.run(str(encoder), "--provider", "cuda", "--batches")
        assert code == 1
        assert "misses the gate" in said
        assert not (encoder / BATCHES).exists()

    def test_it_runs_in_this_process(self, encoder: Path) -> None:
        code, said = self.run(str(encoder), "--server", "127.0.0.1:1", "--batches")
        assert code == 1
        assert "--batches measures in this process; give --provider in place of --server" in said


class _Biased:
    """Gives every text the same vector."""

    def __init__(self, folder: Path, provider: Provider) -> None:
        del folder, provider

    def encode(self, texts: list[str]) -> Vectors:
        return np.full((len(texts), DIM), DIM**-0.5, np.float32)
