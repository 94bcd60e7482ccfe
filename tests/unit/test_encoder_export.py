"""`recserve export encoder`: the graph, its agreement with PyTorch, reuse, and refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from recserve_export import encoder_recipe, fidelity, quantise
from recserve_export.cli_encoder import app
from recserve_export.encoder_export import choose_precisions, export_encoder
from recserve_export.encoder_report import REPORT, BatchInvariance, EncoderReport
from recserve_export.encoder_source import default_folder, read_source
from recserve_export.encoder_texts import sample_texts
from recserve_export.errors import EncoderSourceError, ExportError, FidelityError
from recserve_server_ext import cpu
from recserve_server_ext.encoder_manifest import MANIFEST, MODEL, TOKENIZER, read_manifest
from recserve_server_ext.text_encoder import TextEncoder
from recserve_server_ext.workspace import Workspace
from support.tiny_encoder import DIM, MAX_TOKENS, make_tiny_source


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_source(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home with both precisions of the tiny model; tests do not change it."""
    home = tmp_path_factory.mktemp("home")
    export_encoder(source, Workspace(home), ["fp32", "int8"])
    return home


@pytest.fixture
def home(exported: Path, tmp_path: Path) -> Path:
    """A copy of `exported` to change."""
    return shutil.copytree(exported, tmp_path / "home")


@pytest.fixture
def copied(source: Path, tmp_path: Path) -> Path:
    """A copy of the source to change."""
    return shutil.copytree(source, tmp_path / "copied")


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def change(path: Path, **values: Any) -> None:
    write(path, {**json.loads(path.read_text(encoding="utf-8")), **values})


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
        assert kinds.count("MatMulInteger") == 2 * 6
        assert kinds.count("MatMul") == 2 * 2  # inside attention
        assert sum(node.name.endswith("_smoothed") for node in graph.node) == 2 * 4

    def test_is_reproducible(self, source: Path, exported: Path, tmp_path: Path) -> None:
        again = export_encoder(source, Workspace(tmp_path), ["fp32", "int8"])
        for one in again:
            assert one.manifest == read_manifest(exported / "encoder" / one.manifest.precision)

    @pytest.mark.parametrize("kind", ["distilbert", "mpnet"])
    def test_other_architectures_with_cls_pooling(self, kind: str, copied: Path, tmp_path: Path) -> None:
        import torch
        from transformers import AutoModel, DistilBertConfig, MPNetConfig, PretrainedConfig

        size: dict[str, Any] = {"vocab_size": json.loads((copied / "config.json").read_text())["vocab_size"]}
        config: PretrainedConfig = (
            DistilBertConfig(dim=DIM, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=80, **size)
            if kind == "distilbert"
            else MPNetConfig(
                hidden_size=DIM,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=80,
                **size,
            )
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            AutoModel.from_config(config).save_pretrained(copied)
        write(copied / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
        (one,) = export_encoder(copied, Workspace(tmp_path), ["fp32"])
        assert one.manifest.pooling == "cls"
        assert one.report().agreement.min_cos >= fidelity.LEAST_FP32_COS


class TestReport:
    def test_fp32_agrees_with_pytorch(self, exported: Path) -> None:
        report = json.loads((exported / "encoder" / "fp32" / REPORT).read_text())
        assert report["agreement"]["against"] == "pytorch"
        assert report["agreement"]["texts"] == 500
        assert report["agreement"]["min_cos"] >= 0.9999
        assert report["batch_invariance"]["max_abs_difference"] <= 1e-5
        assert report["machine"]["cpu"]
        assert report["sizes_bytes"][MODEL] == (exported / "encoder" / "fp32" / MODEL).stat().st_size

    def test_int8_is_compared_with_fp32(self, exported: Path) -> None:
        report = json.loads((exported / "encoder" / "int8" / REPORT).read_text())
        assert report["agreement"]["against"] == "fp32"
        assert report["neighbours"]["texts"] == 2000
        assert 0.5 < report["neighbours"]["overlap"] <= 1
        assert report["batch_invariance"]["is_bit_equal"]
        assert set(report["texts_per_s"]) == {"fp32", "int8"}

    def test_texts_are_disjoint_and_seeded(self) -> None:
        texts = sample_texts()
        samples = [texts.calibration, texts.checked, texts.neighbours, texts.titles]
        everything = [text for sample in samples for text in sample]
        assert len(set(everything)) == len(everything)
        assert [len(sample) for sample in samples] == [300, 500, 2000, 500]
        assert sample_texts() == texts
        assert sample_texts(1) != texts

    def test_compare(self) -> None:
        right = np.eye(4, dtype=np.float32)
        turned = right.copy()
        turned[0] = [0.8, 0.6, 0, 0]
        figures = fidelity.compare(turned, right, "fp32")
        assert figures.min_cos == pytest.approx(0.8)
        assert figures.mean_cos == pytest.approx(0.95)
        assert figures.max_abs_difference == pytest.approx(0.6)

    def test_neighbours_of_equal_vectors_overlap_wholly(self) -> None:
        vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
        assert fidelity.measure_neighbours(vectors, vectors).overlap == 1
        assert fidelity.measure_neighbours(vectors, -vectors[::-1]).overlap < 0.6


class TestReuse:
    def test_second_export_does_nothing(self, source: Path, home: Path) -> None:
        before = (home / "encoder" / "int8" / MANIFEST).stat().st_mtime_ns
        done = export_encoder(source, Workspace(home), ["fp32", "int8"])
        assert [one.is_new for one in done] == [False, False]
        assert (home / "encoder" / "int8" / MANIFEST).stat().st_mtime_ns == before

    def test_second_export_imports_no_torch(self, source: Path, home: Path) -> None:
        code = (
            "import sys\n"
            "from recserve_export.cli_encoder import app\n"
            "app(sys.argv[1:], standalone_mode=False)\n"
            "heavy = {'torch', 'onnx', 'onnxruntime', 'transformers', 'optimum'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
        )
        command = [sys.executable, "-c", code, "encoder", str(source), "--home", str(home), "--precision", "int8"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        assert "int8 encoder is up to date" in found.stderr

    def test_force_makes_it_anew(self, source: Path, home: Path) -> None:
        done = export_encoder(source, Workspace(home), ["int8"], force=True)
        assert [(one.manifest.precision, one.is_new) for one in done] == [("int8", True)]

    def test_another_source_is_exported(self, home: Path, tmp_path: Path) -> None:
        other = make_tiny_source(tmp_path / "tiny", seed=8)
        before = read_manifest(home / "encoder" / "fp32").fingerprint
        done = export_encoder(other, Workspace(home), ["int8"])
        assert [(one.manifest.precision, one.is_new) for one in done] == [("fp32", True), ("int8", True)]
        assert done[0].manifest.fingerprint != before

    def test_a_damaged_encoder_is_made_anew(self, source: Path, home: Path) -> None:
        model = home / "encoder" / "fp32" / MODEL
        model.write_bytes(model.read_bytes()[:-1])
        (one,) = export_encoder(source, Workspace(home), ["fp32"])
        assert one.is_new

    def test_an_older_recipe_is_made_anew(self, source: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(encoder_recipe, "ALPHA", 0.6)
        done = export_encoder(source, Workspace(home), ["fp32", "int8"])
        assert [one.is_new for one in done] == [False, True]

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "1_Pooling/config.json"])
    def test_every_file_counts(self, name: str, source: Path, copied: Path) -> None:
        before = read_source(copied).sha256()
        assert before == read_source(source).sha256()
        path = copied / name
        path.write_bytes(path.read_bytes() + b"\n")
        assert read_source(copied).sha256() != before

    def test_auto_is_int8_only_with_dot_products(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpu, "has_int8_dot_product", lambda: True)
        assert choose_precisions("auto") == ("fp32", "int8")
        assert encoder_recipe.weight_bits() == 8
        monkeypatch.setattr(cpu, "has_int8_dot_product", lambda: False)
        assert choose_precisions("auto") == ("fp32",)
        assert choose_precisions("int8") == ("int8",)
        assert encoder_recipe.weight_bits() == 7


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def _list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def _unknown_architecture(folder: Path) -> None:
    change(folder / "config.json", model_type="no-such-architecture")


def _truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _lacking_weights(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _other_size(folder: Path) -> None:
    change(folder / "config.json", intermediate_size=48)


def _small_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"] |= {f"added{at}": 5000 + at for at in range(9)}
    write(path, content)


def _max_pooling(folder: Path) -> None:
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_max_tokens": True})


def _two_poolings(folder: Path) -> None:
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})


def _dense_module(folder: Path) -> None:
    write(folder / "modules.json", [{"type": "sentence_transformers.models.Dense"}])


def _no_length(folder: Path) -> None:
    write(folder / "sentence_bert_config.json", {"max_seq_length": "long"})


class TestRefusals:
    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (_no_weights, "has no weights: model.safetensors is missing"),
            (_pickle_only, "pytorch_model.bin is not read"),
            (_no_config, "has no config.json"),
            (_broken_config, "config.json cannot be read"),
            (_list_config, "must hold a JSON object, got list"),
            (_unknown_architecture, "no-such-architecture"),
            (_truncated_weights, "model.safetensors is damaged or truncated"),
            (_lacking_weights, "lacks 1 weights that config.json asks for, such as encoder.layer.1.output.dense"),
            (_other_size, "transformers cannot load"),
            (_small_vocabulary, "they do not belong together"),
            (_max_pooling, "asks for pooling pooling_mode_max_tokens; supported are mean and cls"),
            (_two_poolings, "asks for pooling mean, cls"),
            (_dense_module, "has the module Dense"),
            (_no_length, "must be a whole number of at least 3"),
        ],
    )
    def test_bad_source(self, spoil: Callable[[Path], None], message: str, copied: Path, tmp_path: Path) -> None:
        spoil(copied)
        found = CliRunner().invoke(app, ["encoder", str(copied), "--home", str(tmp_path / "home")])
        assert found.exit_code == 1, found.output
        assert isinstance(found.exception, SystemExit)
        lines = [line for line in found.stderr.splitlines() if "error:" in line]
        assert len(lines) == 1
        assert message in lines[0]
        assert not list(tmp_path.rglob("home/encoder/*"))

    def test_missing_source(self, tmp_path: Path) -> None:
        found = CliRunner().invoke(app, ["encoder", str(tmp_path / "none"), "--home", str(tmp_path / "home")])
        assert found.exit_code == 1
        assert "none is not a folder" in found.stderr

    def test_unwritable_home(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ExportError, match="cannot write the encoder to"):
            export_encoder(source, Workspace(tmp_path / "file"))

    @pytest.mark.parametrize(
        ("precision", "limit", "message"),
        [
            ("fp32", "LEAST_FP32_COS", "differs from PyTorch: least cosine"),
            ("int8", "LEAST_INT8_MEAN_COS", "differs from fp32: mean cosine"),
        ],
    )
    def test_disagreement_leaves_the_earlier_export(
        self, precision: Any, limit: str, message: str, source: Path, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fidelity, limit, 1.1)
        monkeypatch.setattr("recserve_export.encoder_source.default_folder", lambda: source)
        before = sorted(home.rglob("*"))
        with pytest.raises(FidelityError, match=message):
            export_encoder(source, Workspace(home), [precision], force=True)
        assert sorted(home.rglob("*")) == before
        read_manifest(home / "encoder" / precision)

    def test_company_that_changes_vectors_is_refused(self, source: Path, exported: Path) -> None:
        for precision, message in (("fp32", "shares a batch: difference 0.1"), ("int8", "other bits")):
            (one,) = export_encoder(source, Workspace(exported), [precision])[-1:]  # type: ignore[list-item]
            report = one.report()
            changed = BatchInvariance(texts=9, max_abs_difference=0.1, is_bit_equal=False)
            worse = EncoderReport(
                **{name: getattr(report, name) for name in report.__struct_fields__} | {"batch_invariance": changed}
            )
            fidelity.check(report, is_default=False)
            with pytest.raises(FidelityError, match=message):
                fidelity.check(worse, is_default=False)

    def test_a_missing_report_says_how_to_make_one(self, source: Path, home: Path) -> None:
        (home / "encoder" / "fp32" / REPORT).unlink()
        found = CliRunner().invoke(app, ["encoder", str(source), "--home", str(home), "--precision", "fp32"])
        assert found.exit_code == 1
        assert "--force" in found.stderr


class TestSource:
    def test_default_is_found_without_importing_it(self) -> None:
        found = read_source()
        assert (found.name, found.is_default) == ("all-MiniLM-L6-v2", True)
        assert (found.pooling, found.max_tokens) == ("mean", 256)
        assert read_source(default_folder()) == found

    def test_defaults_without_sentence_transformers_files(self, copied: Path) -> None:
        shutil.rmtree(copied / "1_Pooling")
        (copied / "sentence_bert_config.json").unlink()
        found = read_source(copied)
        assert (found.pooling, found.max_tokens, found.lowercase) == ("mean", MAX_TOKENS, False)

    def test_length_is_capped(self, copied: Path) -> None:
        (copied / "sentence_bert_config.json").unlink()
        change(copied / "config.json", max_position_embeddings=8192)
        assert read_source(copied).max_tokens == 512
        change(copied / "config.json", max_position_embeddings=514, model_type="roberta", pad_token_id=1)
        assert read_source(copied).max_tokens == 512
        write(copied / "sentence_bert_config.json", {"max_seq_length": 8192})
        assert read_source(copied).max_tokens == 512

    def test_sharded_weights_are_found(self, copied: Path) -> None:
        (copied / "model.safetensors").rename(copied / "model-00001-of-00001.safetensors")
        assert [path.name for path in read_source(copied).weights] == ["model-00001-of-00001.safetensors"]

    def test_lowercase_goes_into_the_tokenizer(self, copied: Path, tmp_path: Path) -> None:
        content = json.loads((copied / "tokenizer.json").read_text(encoding="utf-8"))
        content["normalizer"]["lowercase"] = False
        write(copied / "tokenizer.json", content)
        change(copied / "tokenizer_config.json", do_lower_case=False)
        change(copied / "sentence_bert_config.json", do_lower_case=True)
        (one,) = export_encoder(copied, Workspace(tmp_path), ["fp32"])
        vectors = TextEncoder(one.folder).encode(["STAR WARS", "star wars"])
        assert np.array_equal(vectors[0], vectors[1])

    def test_unknown_package_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(EncoderSourceError, match=r"recserve\[export\]"):
            read_source()


def _two_layers(weight: np.ndarray[Any, Any]) -> Any:
    """x -> relu(x W) W': W' has a product of its own, W stands behind one activation."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "V"], ["y"], name="second"),
    ]
    initializers = [numpy_helper.from_array(weight, "W"), numpy_helper.from_array(weight.T.copy(), "V")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[0]])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class TestSmoothQuant:
    @settings(max_examples=30, deadline=None)
    @given(
        ranges=numpy_strategies.arrays(np.float32, 4, elements=st.floats(0, 100, width=32)),
        alpha=st.floats(0, 1),
        seed=st.integers(0, 99),
    )
    def test_the_graph_computes_the_same(self, ranges: np.ndarray[Any, Any], alpha: float, seed: int) -> None:
        from onnx.reference import ReferenceEvaluator

        rng = np.random.default_rng(seed)
        model = _two_layers(rng.normal(size=(4, 6)).astype(np.float32))
        x = rng.normal(size=(5, 4)).astype(np.float32)
        (before,) = ReferenceEvaluator(model).run(None, {"x": x})
        ones = np.ones(6, np.float32)
        quantise.smooth(model, quantise.weight_products(model), {"x": np.maximum(ranges, 1e-3), "r": ones}, alpha)
        onnx.checker.check_model(model)
        (after,) = ReferenceEvaluator(model).run(None, {"x": x})
        assert np.allclose(before, after, rtol=1e-3, atol=1e-3)

    def test_scales(self) -> None:
        activation = np.array([4, 9, 0, 5], np.float32)
        weight = np.array([1, 4, 3, 0], np.float32)
        assert quantise.channel_scales(activation, weight, 0.5).tolist() == [2, 1.5, 1, 1]

    def test_weights_behind_several_activations_are_left_alone(self) -> None:
        model = _two_layers(np.ones((4, 4), np.float32))
        assert quantise.weight_products(model) == {"x": ["W"], "r": ["V"]}
        model.graph.node[2].input[1] = "W"
        assert quantise.weight_products(model) == {}

    def test_seven_bits(self, exported: Path, tmp_path: Path) -> None:
        for bits, largest in ((7, 64), (8, 127)):
            path = tmp_path / f"{bits}.onnx"
            calibration = [np.array([2, 7, 9, 3], np.int64)]
            quantise.write_int8(exported / "encoder" / "fp32" / MODEL, path, calibration, alpha=0.7, weight_bits=bits)
            weights = [
                numpy_helper.to_array(tensor).astype(np.int16)
                for tensor in onnx.load(path).graph.initializer
                if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2
            ]
            assert len(weights) == 12
            assert largest - 1 <= max(np.abs(weight).max() for weight in weights) <= largest


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("minilm")
    found = CliRunner().invoke(app, ["encoder", "--home", str(home), "--precision", "int8"])
    assert found.exit_code == 0, found.output
    return home


@pytest.mark.realdata
class TestMiniLM:
    def test_figures(self, minilm: Path) -> None:
        fp32, int8 = export_encoder(None, Workspace(minilm), ["fp32", "int8"])
        assert not fp32.is_new
        assert not int8.is_new
        assert fp32.report().agreement.min_cos >= 0.9999
        assert fp32.report().batch_invariance.max_abs_difference <= 1e-5
        assert int8.report().agreement.mean_cos >= 0.99
        neighbours = int8.report().neighbours
        assert neighbours is not None
        assert neighbours.overlap >= 0.85

    def test_agrees_with_sentence_transformers(self, minilm: Path) -> None:
        from sentence_transformers import SentenceTransformer

        texts = [*sample_texts().checked[-60:], "", "Amélie", "千と千尋の神隠し"]
        reference = SentenceTransformer(str(default_folder()), device="cpu")
        expected = reference.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        found = TextEncoder(minilm / "encoder" / "fp32").encode(texts)
        assert np.einsum("td,td->t", found, expected).min() >= 0.9999

    @pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("int8", 0.0)])
    def test_company_does_not_change_a_vector(self, precision: str, limit: float, minilm: Path) -> None:
        encoder = TextEncoder(minilm / "encoder" / precision)
        texts = sample_texts().checked[-60:]
        together = encoder.encode(texts)
        alone = np.concatenate([encoder.encode([text]) for text in texts])
        assert np.abs(together - alone).max() <= limit
