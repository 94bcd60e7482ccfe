"""`recserve export encoder --target`: the Triton model folders, and what serving makes of them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb
from typer.testing import CliRunner

from recserve_export.cli.encoder import app
from recserve_export.encoder.checks.speed import SpeedPoint
from recserve_export.encoder.export import export_encoder
from recserve_export.encoder.report.report import REPORT, EncoderReport
from recserve_export.encoder.targets.preferred_batches import preferred_batches
from recserve_export.encoder.targets.targets import BUILD, suiting, write_target
from recserve_export.encoder.targets.tensorrt import PLAN
from recserve_export.errors import ExportError
from recserve_server_ext.cli import serve as cli_serve
from recserve_server_ext.common.errors import EncoderError, LaunchError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import MODEL_SETTINGS, EncoderSettings, ServeSettings, Target
from recserve_server_ext.encoder.manifest import MANIFEST, MODEL, EncoderManifest, Precision, read_manifest
from recserve_server_ext.triton.binary import TritonBinary
from recserve_server_ext.triton.encoder_target import (
    CONFIG,
    CONFIGS,
    TARGETS,
    find_backend,
    fitted,
    model_folder,
)
from recserve_server_ext.triton.model_config import served_encoder
from recserve_server_ext.triton.repository import MODELS, write_model
from support.fake_triton import fake_triton
from support.tiny_encoder import DIM, LOOSE, MAX_TOKENS

ON_TRITON = ServeSettings(encoder=EncoderSettings(target="onnxruntime"))


@pytest.fixture
def encoder(tiny_home: Path, tmp_path: Path) -> Path:
    """A copy of the tiny fp32 encoder to change."""
    return shutil.copytree(tiny_home / "encoder", tmp_path / "home" / "encoder", symlinks=True) / "fp32"


def write(encoder: Path, target: Target, **options: int) -> Any:
    report = msgspec.json.decode((encoder / REPORT).read_bytes(), type=EncoderReport)
    return write_target(encoder, read_manifest(encoder), report, target, **options)


def config_of(encoder: Path, target: Target) -> pb.ModelConfig:
    return text_format.Parse((model_folder(encoder, target) / CONFIG).read_text(), pb.ModelConfig())


class TestExport:
    def test_the_embedded_target_is_there_by_default(self, tiny_home: Path) -> None:
        model = model_folder(tiny_home / "encoder" / "fp32", "embedded")
        version = {path.name for path in (model / "1").iterdir()}
        assert version == {MODEL, "tokenizer.json", MANIFEST, "model.py", MODEL_SETTINGS}
        assert json.loads((model / "1" / MODEL_SETTINGS).read_bytes())["encoder"] == ""
        assert read_manifest(model / "1") == read_manifest(tiny_home / "encoder" / "fp32")

    def test_all_of_one_that_is_up_to_date(self, source: Path, encoder: Path) -> None:
        before = (encoder / MANIFEST).stat().st_mtime_ns
        settings = replace(LOOSE, targets=("embedded", "onnxruntime", "tensorrt"), max_batch=16)
        (done,) = export_encoder(source, Workspace(encoder.parents[1]), "fp32", settings=settings)
        assert not done.is_new
        assert (encoder / MANIFEST).stat().st_mtime_ns == before
        assert [one.target for one in done.targets] == ["embedded", "onnxruntime", "tensorrt"]
        for one in done.targets:
            assert config_of(encoder, one.target).max_batch_size == 16
        providers = {path.name for path in (model_folder(encoder, "onnxruntime") / CONFIGS).iterdir()}
        assert providers == {"cpu.pbtxt", "cuda.pbtxt", "tensorrt.pbtxt"}
        graph = model_folder(encoder, "onnxruntime") / "1" / MODEL
        assert graph.samefile(encoder / MODEL)

    def test_preferred_batches_are_those_measured(self, encoder: Path) -> None:
        report = msgspec.json.decode((encoder / REPORT).read_bytes(), type=EncoderReport)
        grid = [measured("fp32", size, rate) for size, rate in ((1, 1.0), (8, 9.7), (32, 10))]
        (encoder / REPORT).write_bytes(msgspec.json.encode(msgspec.structs.replace(report, grid=grid)))
        for target in ("embedded", "onnxruntime"):
            write(encoder, target)
            assert list(config_of(encoder, target).dynamic_batching.preferred_batch_size) == [8, 32]

    def test_without_a_gpu_no_plan_is_built_and_it_says_so(
        self, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        found = write(encoder, "tensorrt")
        assert "no plan was built (there is no NVIDIA GPU)" in found.note
        assert str(encoder / TARGETS / "tensorrt" / BUILD) in found.note
        assert not (found.folder / "1" / PLAN).exists()
        assert os.access(encoder / TARGETS / "tensorrt" / MODEL, os.R_OK)

    def test_what_a_killed_export_left_is_removed(self, encoder: Path) -> None:
        left = encoder / TARGETS / ".embedded.123.tmp"
        (left / "encoder").mkdir(parents=True)
        write(encoder, "embedded")
        assert [path.name for path in (encoder / TARGETS).iterdir()] == ["embedded"]

    def test_a_target_that_suits_no_encoder_is_refused(self, source: Path, tmp_path: Path) -> None:
        words = [str(source), "--home", str(tmp_path), "--precision", "int8", "--target", "tensorrt"]
        result = CliRunner().invoke(app, ["encoder", *words])
        assert result.exit_code == 1
        assert "target tensorrt does not run int8 encoders" in " ".join(result.output.split())
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("precision", "expected"),
        [("fp32", 3), ("fp16", 3), ("int8", 2), ("int8-fast", 2), ("bf16", 1)],
    )
    def test_all_means_those_that_suit(self, precision: Precision, expected: int) -> None:
        assert len(suiting([precision], ("embedded", "onnxruntime", "tensorrt"))[precision]) == expected


def measured(system: str, size: int, rate: float) -> SpeedPoint:
    return SpeedPoint(system=system, tokens=8, batch=size, texts_per_s=rate, latency_ms=1e3 * size / rate)


@given(st.dictionaries(st.sampled_from([1, 8, 32]), st.floats(1, 1e4), min_size=1), st.integers(1, 40))
def test_preferred_batches_are_near_the_best(rates: dict[int, float], most: int) -> None:
    grid = [measured("fp32", size, rate) for size, rate in rates.items()]
    grid.append(measured("pytorch", 16, 1e9))
    found = preferred_batches(grid, "fp32", most)
    allowed = {size: rate for size, rate in rates.items() if size <= most}
    assert set(found) <= set(allowed) - {1}
    if found:
        best = max(allowed, key=lambda size: allowed[size])
        assert best in found
        assert all(allowed[size] >= 0.94 * allowed[best] for size in found)
    elif allowed:
        assert 1 in allowed
        assert allowed[1] >= 0.94 * max(allowed.values())


class TestPlans:
    """With stand-ins for the driver, trtexec and the package: what they are told, and what becomes of their answer."""

    @pytest.fixture
    def programs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        program(folder / "nvidia-smi", "echo 'GPU 0: A GPU (UUID: GPU-1)'")
        monkeypatch.setenv("PATH", f"{folder}:{os.defpath}")
        return folder

    def test_by_trtexec(self, programs: Path, encoder: Path) -> None:
        said = programs / "said"
        script = (
            f'printf "%s\\n" "$@" > {said}\nfor a; do case $a in --saveEngine=*) echo plan > "${{a#*=}}";; esac; done'
        )
        program(programs / "trtexec", script)
        found = write(encoder, "tensorrt")
        assert found.note == ""
        assert (found.folder / "1" / PLAN).read_text() == "plan\n"
        words = said.read_text().splitlines()
        assert words.count("--noTF32") == 1
        assert "--maxShapes=input_ids:256x64,attention_mask:256x64" in words
        assert served_encoder(encoder, read_manifest(encoder), settings_of("tensorrt"), "{}").exported == found.folder

    def test_a_failure_is_quoted_and_leaves_nothing(self, programs: Path, encoder: Path) -> None:
        program(programs / "trtexec", "echo 'out of workspace' >&2; exit 3")
        with pytest.raises(ExportError, match="code 3: out of workspace"):
            write(encoder, "tensorrt")
        assert [path.name for path in (encoder / TARGETS).iterdir()] == ["embedded"]

    def test_by_the_package(self, programs: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeTensorRT()
        monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
        monkeypatch.setattr("recserve_export.encoder.targets.tensorrt.find_spec", lambda _: True)
        found = write(encoder, "tensorrt")
        assert (found.folder / "1" / PLAN).read_bytes() == b"plan"
        assert fake.shapes[-1] == ("attention_mask", (1, 33), (64, 64), (256, 64))
        assert fake.cleared == ["TF32"]
        assert fake.graph == (encoder / MODEL).read_bytes()

    def test_the_script_does_the_same(self, programs: Path, encoder: Path) -> None:
        """`build.sh` of an export without trtexec makes the plan where serving looks for it."""
        found = write(encoder, "tensorrt")
        assert "no trtexec on PATH" in found.note
        manifest = read_manifest(encoder)
        with pytest.raises(EncoderError, match=r"has no model.plan.*build\.sh"):
            served_encoder(encoder, manifest, settings_of("tensorrt"), "{}")
        program(programs / "trtexec", 'for a; do case $a in --saveEngine=*) echo plan > "${a#*=}";; esac; done')
        assert os.system(f"sh {encoder / TARGETS / 'tensorrt' / BUILD}") == 0
        assert served_encoder(encoder, manifest, settings_of("tensorrt"), "{}").config.backend == "tensorrt"


class FakeTensorRT:
    """Records what a build is told."""

    def __init__(self) -> None:
        self.shapes: list[tuple[Any, ...]] = []
        self.cleared: list[str] = []
        self.graph = b""
        profile = SimpleNamespace(set_shape=lambda *words: self.shapes.append(words))
        config = SimpleNamespace(
            set_memory_pool_limit=lambda *_: None,
            clear_flag=self.cleared.append,
            add_optimization_profile=lambda _: None,
        )
        builder = SimpleNamespace(
            create_network=lambda _: None,
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda *_: b"plan",
        )

        def parse(graph: bytes) -> bool:
            self.graph = graph
            return True

        self.module: Any = SimpleNamespace(
            Logger=type("Logger", (), {"ERROR": 0, "__init__": lambda *_: None}),
            Builder=lambda _: builder,
            OnnxParser=lambda *_: SimpleNamespace(parse=parse),
            NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
            MemoryPoolType=SimpleNamespace(WORKSPACE=0),
            BuilderFlag=SimpleNamespace(TF32="TF32", BF16="BF16"),
        )


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def settings_of(target: Target, **more: Any) -> ServeSettings:
    return ServeSettings(encoder=EncoderSettings(target=target, **more))


class TestServing:
    def test_embedded_takes_the_servers_batch_and_settings(self, encoder: Path) -> None:
        served = served_encoder(encoder, read_manifest(encoder), ServeSettings(encoder_batch=9), "{}", name="other")
        proto = served.config
        assert (proto.name, proto.backend, proto.max_batch_size) == ("other", "python", 9)
        assert served.settings == "{}"
        assert [list(one.dims) for one in proto.input] == [[MAX_TOKENS]] * 2

    def test_embedded_needs_no_exported_folder(self, encoder: Path) -> None:
        shutil.rmtree(encoder / TARGETS)
        assert served_encoder(encoder, read_manifest(encoder), ServeSettings(), "{}").config.model_warmup

    def test_onnxruntime_serves_what_was_exported(self, encoder: Path, tmp_path: Path) -> None:
        write(encoder, "onnxruntime", max_batch=16)
        manifest = read_manifest(encoder)
        assert fitted(encoder, manifest, ON_TRITON).encoder_batch == 16
        assert fitted(encoder, manifest, ServeSettings()).encoder_batch == 256
        served = served_encoder(encoder, manifest, msgspec.structs.replace(ON_TRITON, threads=3), "{}")
        assert served.config.instance_group[0].count == 3
        write_model(tmp_path, served)
        folder = tmp_path / MODELS / served.name
        assert (folder / "1" / MODEL).samefile(encoder / MODEL)
        assert len((folder / "warmup" / "attention_mask").read_bytes()) == 8 * MAX_TOKENS

    def test_a_hand_on_the_configuration_counts(self, encoder: Path) -> None:
        write(encoder, "onnxruntime")
        path = model_folder(encoder, "onnxruntime") / CONFIGS / "cpu.pbtxt"
        path.write_text(path.read_text().replace("num_versions: 1", "num_versions: 2"))
        assert (
            served_encoder(encoder, read_manifest(encoder), ON_TRITON, "{}").config.version_policy.latest.num_versions
            == 2
        )

    def test_the_provider_is_a_setting(self, encoder: Path) -> None:
        write(encoder, "onnxruntime")
        proto = served_encoder(
            encoder, read_manifest(encoder), settings_of("onnxruntime", provider="tensorrt"), "{}"
        ).config
        names = [one.name for one in proto.optimization.execution_accelerators.gpu_execution_accelerator]
        assert names == ["tensorrt", "cuda"]
        cache = proto.optimization.execution_accelerators.gpu_execution_accelerator[0].parameters
        assert cache["trt_engine_cache_path"] == str(encoder.resolve() / TARGETS / "onnxruntime" / "trt_engine_cache")

    def test_what_was_not_exported_is_named(self, encoder: Path) -> None:
        manifest = read_manifest(encoder)
        with pytest.raises(EncoderError, match="export encoder --precision fp32 --target onnxruntime"):
            fitted(encoder, manifest, ON_TRITON)

    @pytest.mark.parametrize(("precision", "target"), [("int8", "tensorrt"), ("bf16", "embedded")])
    def test_what_does_not_suit_is_refused(self, encoder: Path, precision: Precision, target: Target) -> None:
        other = msgspec.structs.replace(read_manifest(encoder), precision=precision)
        with pytest.raises(EncoderError, match=f"target {target} does not run {precision}"):
            fitted(encoder, other, settings_of(target))

    def test_int8_has_no_gpu_provider(self, encoder: Path) -> None:
        int8 = msgspec.structs.replace(read_manifest(encoder), precision="int8")
        with pytest.raises(EncoderError, match=r"provider cuda does not run int8 .* provider to cpu"):
            fitted(encoder, int8, settings_of("onnxruntime", provider="cuda"))

    @pytest.mark.parametrize("broken", ["name: 3", "output { dims: 7 }", "\xff"])
    def test_a_broken_configuration_is_named(self, encoder: Path, broken: str) -> None:
        write(encoder, "onnxruntime")
        path = model_folder(encoder, "onnxruntime") / CONFIGS / "cpu.pbtxt"
        path.write_text(broken, encoding="latin-1")
        with pytest.raises(EncoderError, match=r"cpu\.pbtxt|model_filename|has no "):
            served_encoder(encoder, read_manifest(encoder), ON_TRITON, "{}")

    def test_vectors_of_another_length_are_refused(self, encoder: Path) -> None:
        write(encoder, "onnxruntime")
        manifest: EncoderManifest = msgspec.structs.replace(read_manifest(encoder), dim=DIM + 1)
        with pytest.raises(EncoderError, match=f"the encoder has {DIM + 1}"):
            served_encoder(encoder, manifest, ON_TRITON, "{}")


class TestBackend:
    @pytest.fixture
    def binary(self, tmp_path: Path) -> TritonBinary:
        """Like the wheel: a folder of backends with that of Python alone."""
        (tmp_path / "wheel" / "python").mkdir(parents=True)
        return TritonBinary(tmp_path / "tritonserver", "wheel", backends=tmp_path / "wheel")

    def test_embedded_needs_none(self, binary: TritonBinary) -> None:
        assert find_backend(binary, EncoderSettings()) is None

    def test_one_that_is_missing_is_named(self, binary: TritonBinary) -> None:
        with pytest.raises(LaunchError, match=r"no onnxruntime/libtriton_onnxruntime\.so .*--triton.*backends"):
            find_backend(binary, EncoderSettings(target="onnxruntime"))

    def test_from_a_folder_of_ones_own(self, binary: TritonBinary, tmp_path: Path) -> None:
        asked = EncoderSettings(target="onnxruntime", backends=str(tmp_path / "more"))
        (tmp_path / "more" / "onnxruntime").mkdir(parents=True)
        (tmp_path / "more" / "onnxruntime" / "libtriton_onnxruntime.so").touch()
        assert find_backend(binary, asked) == (tmp_path / "more" / "onnxruntime").resolve()
        with pytest.raises(LaunchError, match=r"libonnxruntime_providers_cuda\.so"):
            find_backend(binary, msgspec.structs.replace(asked, provider="cuda"))

    def test_another_server_will_have_to_know(self, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        server = fake_triton(tmp_path / "bin")
        if not Path("/opt/tritonserver/backends").exists():
            assert find_backend(server, EncoderSettings(target="tensorrt")) is None
        (tmp_path / "backends").mkdir()
        with pytest.raises(LaunchError, match="libtriton_tensorrt"):
            find_backend(server, EncoderSettings(target="tensorrt"))

    def test_serve_says_so_in_one_line(self, tiny_home: Path, tmp_path: Path) -> None:
        home = shutil.copytree(tiny_home, tmp_path / "home", symlinks=True)
        write(home / "encoder" / "fp32", "onnxruntime")
        config = tmp_path / "serve.toml"
        config.write_text('grpc_port = 0\nmetrics_port = 0\n[encoder]\ntarget = "onnxruntime"\n')
        result = CliRunner().invoke(cli_serve.app, ["--home", str(home), "--config", str(config)])
        assert result.exit_code == 1
        (line,) = result.stderr.strip().splitlines()
        assert "needs Triton's onnxruntime backend" in line
