"""`recserve export encoder`: the graph, its agreement with PyTorch, reuse, and refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto
from typer.testing import CliRunner

from recserve_export.cli.encoder import app
from recserve_export.encoder import recipe as encoder_recipe
from recserve_export.encoder.checks import fidelity, fidelity_gate
from recserve_export.encoder.checks.fidelity import BatchInvariance
from recserve_export.encoder.checks.fidelity_gate import Gate, check_export
from recserve_export.encoder.checks.texts import sample_texts
from recserve_export.encoder.export import Exported, ExportSettings, export_encoder
from recserve_export.encoder.report.report import REPORT, EncoderReport
from recserve_export.encoder.source.folder import read_source
from recserve_export.errors import ExportError, FidelityError
from recserve_server_ext.common import cpu
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.manifest import MANIFEST, MODEL, TOKENIZER, read_manifest
from recserve_server_ext.encoder.versions import discard, versions
from support.exports import OTHER_SEED, Exports
from support.tiny_encoder import DIM, LOOSE, MAX_TOKENS


@pytest.fixture(scope="module")
def exported(exports: Exports) -> Path:
    """Home with both precisions of the tiny model; tests do not change it."""
    return exports.encoders("int8")


@pytest.fixture
def home(exported: Path, tmp_path: Path) -> Path:
    """A copy of `exported` to change."""
    return shutil.copytree(exported, tmp_path / "home", symlinks=True)


class TestGraph:
    def test_signature(self, exported: Path) -> None:
        for precision in ("fp32", "int8"):
            graph = onnx.load(exported / "encoder" / precision / MODEL).graph
            inputs = {value.name: [dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in graph.input}
            assert inputs == {"input_ids": ["batch", "sequence"], "attention_mask": ["batch", "sequence"]}
            assert {value.type.tensor_type.elem_type for value in graph.input} == {TensorProto.INT64}
            (vector,) = graph.output
            batch, dim = vector.type.tensor_type.shape.dim
            assert (vector.name, batch.dim_param, dim.dim_value) == ("vector", "batch", DIM)

    def test_manifests_verify(self, exported: Path) -> None:
        for precision in ("fp32", "int8"):
            manifest = read_manifest(exported / "encoder" / precision)
            assert (manifest.name, manifest.precision) == ("tiny", precision)
            assert (manifest.dim, manifest.max_tokens, manifest.pooling) == (DIM, MAX_TOKENS, "mean")
            assert set(manifest.files) == {MODEL, TOKENIZER}

    def test_only_products_with_constant_weights_are_int8(self, exported: Path) -> None:
        graph = onnx.load(exported / "encoder" / "int8" / MODEL).graph
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("MatMulIntegerToFloat") == 2 * 6 - 1
        assert kinds.count("MatMul") == 2 * 2 + 1 + 1  # inside attention, what ends the first FFN, and pooling
        # Behind GELU (that of the first layer stays fp32) tokens have a zero of their own, and no rescaling.
        assert sum(node.name.endswith("_smoothed") for node in graph.node) == 2 * 3
        assert sum(node.output[0].endswith("_zeros") for node in graph.node) == 1

    def test_is_reproducible(self, source: Path, exported: Path, tmp_path: Path) -> None:
        again = export_encoder(source, Workspace(tmp_path), "int8", settings=LOOSE)
        for one in again:
            assert one.manifest == read_manifest(exported / "encoder" / one.manifest.precision)


class TestReport:
    def test_fp32_agrees_with_pytorch(self, exported: Path) -> None:
        report = json.loads((exported / "encoder" / "fp32" / REPORT).read_text())
        assert report["fidelity"]["texts"] == 2000
        assert report["fidelity"]["min_cos"] >= 0.9999
        assert report["batch_invariance"]["max_abs_difference"] <= 1e-5
        assert report["machine"]["cpu"]
        assert report["sizes_bytes"][MODEL] == (exported / "encoder" / "fp32" / MODEL).stat().st_size

    def test_int8_is_compared_with_pytorch(self, exported: Path) -> None:
        report = json.loads((exported / "encoder" / "int8" / REPORT).read_text())
        assert 0.9 < report["fidelity"]["mean_cos"] < 0.99999
        assert 0.5 < report["fidelity"]["overlap"] < 1
        assert 0.8 < report["fidelity"]["spearman"] < 1
        assert report["batch_invariance"]["is_bit_equal"]
        assert set(report["speeds"]) == {"fp32", "int8"}
        assert report["candidates"] == []
        cosines = [worst["cos"] for worst in report["worst"]]
        assert len(cosines) == 10
        assert cosines[0] == pytest.approx(report["fidelity"]["min_cos"])
        assert cosines == sorted(cosines)
        assert [len(worst["found"]) for worst in report["worst"]] == [10] * 10

    def test_texts_are_disjoint_and_seeded(self) -> None:
        texts = sample_texts()
        samples = [texts.calibration, texts.checked, texts.titles, texts.longer]
        everything = [text for sample in samples for text in sample]
        assert len(set(everything)) == len(everything)
        assert [len(sample) for sample in samples] == [300, 2000, 500, 100]
        assert sample_texts() == texts
        assert sample_texts(seed=1) != texts

    def test_compare(self) -> None:
        right = np.eye(4, dtype=np.float32)
        turned = right.copy()
        turned[0] = [0.8, 0.6, 0, 0]
        figures = fidelity.compare(turned, right)
        assert figures.min_cos == pytest.approx(0.8)
        assert figures.mean_cos == pytest.approx(0.95)
        assert figures.max_abs_difference == pytest.approx(0.6)

    def test_neighbours_of_equal_vectors_overlap_wholly(self) -> None:
        vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
        equal = fidelity.compare(vectors, vectors)
        assert equal.overlap == 1
        assert equal.spearman == pytest.approx(1)
        assert fidelity.compare(vectors, -vectors[::-1]).overlap < 0.6


class TestReuse:
    def test_second_export_does_nothing(self, source: Path, home: Path) -> None:
        before = (home / "encoder" / "int8" / MANIFEST).stat().st_mtime_ns
        done = export_encoder(source, Workspace(home), "int8", settings=LOOSE)
        assert [one.is_new for one in done] == [False]
        assert (home / "encoder" / "int8" / MANIFEST).stat().st_mtime_ns == before

    def test_second_export_imports_no_torch(self, source: Path, home: Path) -> None:
        code = (
            "import sys\n"
            "from recserve_export.cli.encoder import app\n"
            "app(sys.argv[1:], standalone_mode=False)\n"
            "heavy = {'torch', 'onnx', 'onnxruntime', 'transformers', 'optimum'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
        )
        command = [sys.executable, "-c", code, "encoder", str(source), "--home", str(home), "--precision", "int8"]
        command += [f"--min-{name}=0.5" for name in ("mean-cos", "p01-cos", "overlap", "spearman")]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        assert "int8 encoder is up to date" in found.stderr

    def test_force_makes_it_anew(self, source: Path, home: Path) -> None:
        done = export_encoder(source, Workspace(home), "int8", settings=replace(LOOSE, force=True))
        assert [(one.manifest.precision, one.is_new) for one in done] == [("int8", True)]

    def test_another_source_is_exported(self, home: Path, exports: Exports) -> None:
        other = exports.source(OTHER_SEED)
        before = read_manifest(home / "encoder" / "fp32").fingerprint
        done = export_encoder(other, Workspace(home), "int8", settings=LOOSE)
        assert [(one.manifest.precision, one.is_new) for one in done] == [("fp32", True), ("int8", True)]
        assert done[0].manifest.fingerprint != before

    def test_a_damaged_encoder_is_made_anew(self, source: Path, home: Path) -> None:
        model = home / "encoder" / "fp32" / MODEL
        model.write_bytes(model.read_bytes()[:-1])
        (one,) = export_encoder(source, Workspace(home), "fp32")
        assert one.is_new

    def test_a_report_of_another_version_is_made_anew(self, source: Path, home: Path) -> None:
        (home / "encoder" / "fp32" / REPORT).write_text('{"name": "tiny"}')
        with pytest.raises(ExportError, match="export again with --force"):
            Exported(home / "encoder" / "fp32", read_manifest(home / "encoder" / "fp32"), False).report()
        (one,) = export_encoder(source, Workspace(home), "fp32")
        assert one.is_new
        assert one.report().name == "tiny"

    def test_an_older_recipe_is_made_anew(self, source: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(encoder_recipe, "ALPHA", 0.6)
        done = export_encoder(source, Workspace(home), "int8", settings=LOOSE)
        assert [one.is_new for one in done] == [True]

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "1_Pooling/config.json"])
    def test_every_file_counts(self, name: str, source: Path, copied: Path) -> None:
        before = read_source(copied).sha256()
        assert before == read_source(source).sha256()
        path = copied / name
        path.write_bytes(path.read_bytes() + b"\n")
        assert read_source(copied).sha256() != before

    def test_a_tighter_gate_refuses_what_is_up_to_date(self, source: Path, home: Path) -> None:
        tight = ExportSettings(gate=Gate(mean_cos=0.9, p01_cos=0.8, overlap=0.9999, spearman=0.8))
        with pytest.raises(FidelityError, match=r"misses the gate: overlap@10 0\.\d+ < 0.9999"):
            export_encoder(source, Workspace(home), "int8", settings=tight)
        read_manifest(home / "encoder" / "int8")

    def test_weights_have_seven_bits_without_dot_products(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for has, bits in ((True, 8), (False, 7)):
            monkeypatch.setattr(cpu, "has_int8_dot_product", lambda has=has: has)
            assert encoder_recipe.int8_recipe("int8").weight_bits == bits


class TestRefusals:
    def test_unwritable_home(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ExportError, match="cannot write the encoder to"):
            export_encoder(source, Workspace(tmp_path / "file"))

    def test_disagreement_leaves_the_earlier_export(
        self, source: Path, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fidelity_gate, "LEAST_FP32_COS", 1.1)
        before = sorted(home.rglob("*"))
        with pytest.raises(FidelityError, match="differs from PyTorch: least cosine"):
            export_encoder(source, Workspace(home), "fp32", settings=ExportSettings(force=True))
        assert sorted(home.rglob("*")) == before
        read_manifest(home / "encoder" / "fp32")

    def test_a_missed_gate_leaves_nothing(self, source: Path, home: Path) -> None:
        (int8,) = [one for one in versions(home / "encoder") if one.usable().precision == "int8"]
        discard(home / "encoder", int8)
        before = sorted(home.rglob("*"))
        command = ["encoder", str(source), "--home", str(home), "--precision", "int8", "--min-overlap", "0.9999"]
        found = CliRunner().invoke(app, command)
        assert found.exit_code == 1
        (line,) = [line for line in found.stderr.splitlines() if "error:" in line]
        assert "the int8 export of tiny misses the gate: " in line
        assert "< 0.9999; take another --precision, or lower the bound" in line
        assert sorted(home.rglob("*")) == before

    def test_company_that_changes_vectors_is_refused(self, exported: Path) -> None:
        for precision, message in (("fp32", "shares a batch: difference 0.1"), ("int8", "other bits")):
            raw = (exported / "encoder" / precision / REPORT).read_bytes()
            report = msgspec.json.decode(raw, type=EncoderReport)
            changed = BatchInvariance(texts=9, max_abs_difference=0.1, is_bit_equal=False)
            check_export(report.what, report.precision, report.fidelity, report.batch_invariance)
            with pytest.raises(FidelityError, match=message):
                check_export(report.what, report.precision, report.fidelity, changed)
