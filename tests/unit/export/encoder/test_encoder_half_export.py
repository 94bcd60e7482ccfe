"""`--precision fp16` and `bf16`: encoders for GPUs, made and compared on a CPU, which they say."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from typer.testing import CliRunner

from recserve_export.cli.encoder import app
from recserve_export.encoder.checks.fidelity_gate import fp32_beside
from recserve_export.encoder.checks.texts import LEAST_LINES
from recserve_export.encoder.export import Exported, export_encoder
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.gpu import GpuEncoder
from recserve_server_ext.encoder.manifest import MODEL, Precision
from recserve_server_ext.encoder.versions import VERSIONS
from recserve_server_ext.triton.encoder_target import model_folder
from support.tiny_encoder import LOOSE


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Exported]:
    home = tmp_path_factory.mktemp("half")
    texts = home / "texts.txt"
    texts.write_text("\n".join(f"film number {n} about {'war and ' * (n % 9)}love" for n in range(LEAST_LINES + 50)))
    settings = replace(LOOSE, texts=texts)
    found: dict[Precision, Exported] = {}
    for precision in ("fp16", "bf16"):
        for one in export_encoder(source, Workspace(home), precision, settings=settings):
            found[one.manifest.precision] = one
    return found


def test_each_has_its_fingerprint_which_no_cpu_changes(made: dict[Precision, Exported]) -> None:
    prints = {one.manifest.fingerprint for one in made.values()}
    assert len(prints) == 3
    assert all(one.manifest.runtime_fingerprint == one.manifest.fingerprint for one in made.values())


def test_fp16_has_half_weights_and_bf16_the_fp32_graph(made: dict[Precision, Exported]) -> None:
    graphs = {precision: onnx.load(one.folder / MODEL).graph for precision, one in made.items()}
    kinds = {precision: {tensor.data_type for tensor in graph.initializer} for precision, graph in graphs.items()}
    assert TensorProto.FLOAT16 in kinds["fp16"]
    assert TensorProto.FLOAT16 not in kinds["fp32"]
    assert (made["bf16"].folder / MODEL).read_bytes() == (made["fp32"].folder / MODEL).read_bytes()


def test_the_report_says_what_was_not_gated(made: dict[Precision, Exported]) -> None:
    assert made["fp32"].report().not_gated == ""
    assert "those of a GPU are not gated" in made["fp16"].report().not_gated
    assert "nothing of bf16 was measured" in made["bf16"].report().not_gated
    assert 0.9999 < made["fp16"].report().fidelity.mean_cos < 1
    # Sums in another order may fall on the other side of a rounding to 11 bits.
    assert made["fp16"].report().batch_invariance.max_abs_difference < 1e-3


def test_embedded_is_written_where_it_suits(made: dict[Precision, Exported]) -> None:
    written = {precision: [one.target for one in exported.targets] for precision, exported in made.items()}
    assert written == {"fp32": ["embedded"], "fp16": ["embedded"], "bf16": []}
    assert not model_folder(made["bf16"].folder, "embedded").exists()


def test_the_gate_finds_the_fp32_encoder_beside_a_version(
    made: dict[Precision, Exported], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the CPU's provider in the place of CUDA's."""
    on_cpu = lambda folder, _: GpuEncoder(folder, "cpu")  # noqa: E731
    monkeypatch.setattr("recserve_server_ext.encoder.gpu.GpuEncoder", on_cpu)
    version = made["fp16"].folder.resolve()
    assert version.parent.name == VERSIONS
    fp32 = made["fp32"].folder.resolve()
    for folder in (version, made["fp16"].folder):
        assert fp32_beside(folder, made["fp16"].manifest) == fp32
    words = ["gate", str(version), "--provider", "cuda", "--texts", str(version.parents[2] / "texts.txt")]
    words += ["--min-overlap", "0.9"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "on cuda: mean cosine" in result.output
    alone = shutil.copytree(version, tmp_path / version.name)
    result = CliRunner().invoke(app, ["gate", str(alone), "--provider", "cuda"])
    assert result.exit_code == 1
    assert f"has no fp32 encoder of the model of {alone}; name one with --against" in " ".join(result.output.split())


def test_the_command_says_how_to_gate_it(made: dict[Precision, Exported], source: Path) -> None:
    folder = made["fp16"].folder
    words = ["encoder", str(source), "--home", str(folder.parents[1]), "--precision", "fp16"]
    words += ["--texts", str(folder.parents[1] / "texts.txt"), "--min-overlap", "0.5", "--min-spearman", "0.8"]
    result = CliRunner().invoke(app, [*words, "--min-mean-cos", "0.9", "--min-p01-cos", "0.8", "--target", "tensorrt"])
    said = " ".join(result.output.split())
    assert result.exit_code == 0, result.output
    assert "fp16 is not gated on this machine" in said
    assert f"recserve export gate {folder} --server HOST:PORT" in said
    assert "no plan was built" in said
