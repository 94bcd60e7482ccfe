"""Every architecture that docs/reference/encoders.md lists: its graph against transformers, and its int8 graph."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from recserve_export.encoder.graph.fp16 import write_fp16
from recserve_export.encoder.quantise import int8 as quantise
from recserve_export.encoder.recipe import FP32_FFN_SHARE, int8_recipe
from recserve_export.encoder.source.folder import SourceOptions
from recserve_export.errors import EncoderSourceError, ExportError
from recserve_server_ext.common.files import sha256_of
from recserve_server_ext.encoder.manifest import MANIFEST, MODEL, TOKENIZER, Precision
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.triton.encoder_target import providers_of, targets_of
from support.tiny_models import DIM, POSITIONS, TEXTS, make_tiny_model, quick_encoder, vectors_by_transformers

DECODERS = ("gpt2", "llama", "qwen2", "qwen3")
#: Products with constant weights in the tiny model: four of each layer's attention and two of its FFN, unless said so.
PRODUCTS = {
    "bert": 12,
    "roberta": 12,
    "xlm-roberta": 12,
    "mpnet": 12,
    "distilbert": 12,
    "electra": 13,  # one from the embeddings' size to that of the layers
    "albert": 13,
    "deberta-v2": 16,  # and those of the relative positions
    "modernbert": 12,  # three layers; query, key and value in one
    "gpt2": 8,  # the same, two layers
    "llama": 14,  # and a gate
    "qwen2": 14,
    "qwen3": 14,
    "gemma3_text": 14,
    "nomic_bert": 14,
    "gte": 14,
}
LAYERS = {"modernbert": 3}
#: Of the default tier: a WordPiece encoder, one whose positions begin behind the padding, and a decoder.
USUAL = ("bert", "xlm-roberta", "qwen3")


@dataclass(frozen=True)
class Made:
    """A tiny model and its fp32 encoder."""

    kind: str
    folder: Path
    encoder: TextEncoder
    encoder_folder: Path


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=() if kind in USUAL else pytest.mark.architectures) for kind in PRODUCTS],
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    if not _is_known(kind):
        pytest.skip(f"this version of transformers knows no {kind}")
    make_tiny_model(folder / "source", kind)
    options = SourceOptions(pooling="last" if kind in DECODERS else None)
    return Made(kind, folder / "source", quick_encoder(folder / "source", folder / "fp32", options), folder / "fp32")


def _is_known(kind: str) -> bool:
    from transformers import CONFIG_MAPPING

    return kind in CONFIG_MAPPING


def test_agrees_with_transformers(made: Made) -> None:
    encoder, decodes = made.encoder, made.kind in DECODERS
    longest = encoder.manifest.max_tokens
    assert POSITIONS - 2 <= longest <= POSITIONS
    expected = vectors_by_transformers(made.folder, TEXTS, lambda row: row[-1] if decodes else row.mean(0), longest)
    assert encoder.tokenizer(TEXTS).lengths.max() == longest  # a truncated text is among them
    for found in _in_all_company(encoder):
        assert found.shape == (len(TEXTS), DIM)
        assert np.einsum("td,td->t", found, expected).min() >= 0.9999
    # Random weights tell the texts apart, so that a wrong graph would be seen.
    assert (expected @ expected.T - np.eye(len(TEXTS))).max() < 0.999


@pytest.mark.parametrize("precision", ["int8", "int8-fast"])
def test_int8(made: Made, precision: Precision, tmp_path: Path) -> None:
    """Every product with constant weights that is to be int8 is, close to fp32, with the same bits in any company."""
    tokens = made.encoder.tokenizer(TEXTS)
    calibration = [ids[:length] for ids, length in zip(tokens.ids, tokens.lengths, strict=True)]
    statistics = quantise.calibrated(made.encoder_folder / MODEL, calibration)
    quantise.write_int8(made.encoder_folder / MODEL, tmp_path / MODEL, statistics, int8_recipe(precision))
    kinds = [node.op_type for node in onnx.load(tmp_path / MODEL).graph.node]
    kept = math.ceil(FP32_FFN_SHARE[precision] * LAYERS.get(made.kind, 2))
    assert kinds.count("MatMulIntegerToFloat") == PRODUCTS[made.kind] - kept
    together, alone, padded = _in_all_company(_with_graph(made, precision, tmp_path))
    assert np.array_equal(together, alone)
    assert np.array_equal(padded, alone)
    # The least at hand was .9902 (qwen2, int8-fast); weights that were rescaled for one use of two gave .83 and .92.
    assert np.einsum("td,td->t", alone, made.encoder.encode(TEXTS)).min() >= 0.98


def test_int8_without_products_is_refused(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4])],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / MODEL)
    with pytest.raises(ExportError, match="has none that end a feed-forward network; take --precision fp32"):
        quantise.write_int8(tmp_path / MODEL, tmp_path / "int8.onnx", {}, int8_recipe("int8"))
    assert not (tmp_path / "int8.onnx").exists()


def _with_graph(made: Made, precision: Precision, folder: Path) -> TextEncoder:
    """The encoder with the graph in `folder`."""
    shutil.copyfile(made.encoder_folder / TOKENIZER, folder / TOKENIZER)
    manifest = json.loads((made.encoder_folder / MANIFEST).read_text())
    manifest["precision"], manifest["files"][MODEL] = precision, sha256_of(folder / MODEL)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return TextEncoder(folder)


def _in_all_company(encoder: TextEncoder) -> tuple[NDArray[np.float32], ...]:
    """Vectors of `TEXTS` as serving makes them, one by one, and in one run padded to the longest."""
    tokens = encoder.tokenizer(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    return encoder.run(tokens), alone, encoder._run_batch(tokens, np.arange(len(TEXTS)))


@pytest.mark.parametrize(
    ("kind", "nearest"), [("modern-bert", "modernbert"), ("xlm-robertta", "xlm-roberta"), ("qwen9", "qwen2")]
)
def test_unknown_names_the_nearest(kind: str, nearest: str, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model", "bert")
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": kind}))
    with pytest.raises(
        EncoderSourceError, match=f"knows no architecture {kind}.*supported are bert.*{nearest}"
    ) as found:
        quick_encoder(folder, tmp_path / "out")
    assert "\n" not in str(found.value)


def test_code_that_transformers_has_is_not_asked_for(tmp_path: Path) -> None:
    """nomic's models name Python code of their own, from before transformers 5 knew them."""
    known = _is_known("nomic_bert")
    folder = make_tiny_model(tmp_path / "model", "nomic_bert" if known else "bert")
    config = folder / "config.json"
    code = {"model_type": "nomic_bert", "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling.NomicBertModel"}}
    config.write_text(json.dumps({**json.loads(config.read_text()), **code}))
    if known:
        assert quick_encoder(folder, tmp_path / "out").encode(["star wars"]).shape == (1, DIM)
    else:
        with pytest.raises(
            EncoderSourceError, match=r"transformers 4\.\d+\.\d+ knows no architecture nomic_bert; supp"
        ):
            quick_encoder(folder, tmp_path / "out")


def test_optimum_exports_the_same(tmp_path: Path) -> None:
    pytest.importorskip("optimum.exporters.onnx", reason="optimum-onnx wants an older transformers")
    folder = make_tiny_model(tmp_path / "model", "bert")
    by_torch = quick_encoder(folder, tmp_path / "torch")
    by_optimum = quick_encoder(folder, tmp_path / "optimum", exporter="optimum")
    assert by_torch.fingerprint != by_optimum.fingerprint
    assert np.abs(by_torch.encode(TEXTS) - by_optimum.encode(TEXTS)).max() <= 1e-6
    for exporter in ("torch", "optimum"):  # int8 and fp16 are made from either graph
        fp32 = tmp_path / exporter / MODEL
        calibration = [np.array([2, 7, 9, 3], np.int64)]
        quantise.write_int8(
            fp32, tmp_path / "int8.onnx", quantise.calibrated(fp32, calibration), int8_recipe("int8-fast")
        )
        kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
        assert kinds.count("MatMulIntegerToFloat") == PRODUCTS["bert"]
        write_fp16(fp32, tmp_path / "fp16.onnx")
        halves = [tensor.data_type for tensor in onnx.load(tmp_path / "fp16.onnx").graph.initializer]
        assert halves.count(onnx.TensorProto.FLOAT16) > PRODUCTS["bert"]


def test_without_optimum_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    monkeypatch.delitem(sys.modules, "recserve_export.encoder.graph.optimum_export", raising=False)
    folder = make_tiny_model(tmp_path / "model", "bert")
    with pytest.raises(EncoderSourceError, match=r"--exporter optimum needs pip install 'recserve\[optimum\]'"):
        quick_encoder(folder, tmp_path / "out", exporter="optimum")


def test_a_graph_does_not_tell_where_it_was_made(made: Made) -> None:
    """The same bytes wherever the code lies, and no path in them."""
    graph = (made.encoder_folder / MODEL).read_bytes()
    assert b"stack_trace" not in graph
    signature = [
        (one.name, [axis.dim_param or axis.dim_value for axis in one.type.tensor_type.shape.dim])
        for one in _ends(onnx.load_from_string(graph))
    ]
    axes = ["batch", "sequence"]
    assert signature == [("input_ids", axes), ("attention_mask", axes), ("vector", ["batch", DIM])]


def test_additions_are_not_fused_with_layer_norms(tmp_path: Path) -> None:
    """onnxruntime's fused operator takes several times as long on a CPU."""
    quick_encoder(make_tiny_model(tmp_path / "model", "bert"), tmp_path / "out")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(tmp_path / "out" / MODEL, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "SkipLayerNormalization" not in kinds
    assert (kinds.count("LayerNormalization"), kinds.count("BiasGelu")) == (5, 2)


def _ends(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.input, *model.graph.output]


class TestDocs:
    """The tables of docs/reference/encoders.md say what these tests and the code say."""

    def rows(self, first: str) -> list[list[str]]:
        """Cells of the rows below the header that begins with this cell."""
        lines = (Path(__file__).parents[4] / "docs" / "reference" / "encoders.md").read_text("utf-8").splitlines()
        start = next(at for at, line in enumerate(lines) if line.startswith(f"| {first} |")) + 2
        end = next(at for at in range(start, len(lines)) if not lines[at].startswith("|"))
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end]]

    def test_architectures(self) -> None:
        from recserve_export.encoder.graph.loading import TESTED

        assert tuple(PRODUCTS) == TESTED
        said = self.rows("architecture")
        pooling = {kind: "last" if kind in DECODERS else "mean" for kind in TESTED}
        assert said == [[kind, pooling[kind], "yes", "yes", str(PRODUCTS[kind])] for kind in TESTED]

    def test_targets(self) -> None:
        said = {row[0]: row[1].split(", ") for row in self.rows("target") if len(row) == 2}
        precisions = [one for one in get_args(Precision) if one != "auto"]
        able = {
            target: [one for one in precisions if target in targets_of(one)]
            for target in ("embedded", "onnxruntime", "tensorrt")
        }
        expected = {"embedded": able["embedded"], "tensorrt": able["tensorrt"]}
        for provider in ("cpu", "cuda", "tensorrt"):
            runs = [one for one in able["onnxruntime"] if provider in providers_of(one)]
            expected[f"onnxruntime, {provider}"] = runs
        assert {name: sorted(found) for name, found in said.items()} == {
            name: sorted(found) for name, found in expected.items()
        }
