"""fp16 graphs: half the weights, and what stands behind the layers in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnxruntime import InferenceSession

from recserve_export.encoder.checks.canonical import TEXTS
from recserve_export.encoder.graph.fp16 import behind_layers, write_fp16
from recserve_server_ext.encoder.manifest import MODEL
from recserve_server_ext.encoder.tokenizer import TextTokenizer
from support.tiny_encoder import MAX_TOKENS


@pytest.fixture(scope="module")
def fp16(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / MODEL
    write_fp16(tiny_home / "encoder" / "fp32" / MODEL, path)
    return path


def test_weights_are_half(fp16: Path) -> None:
    graph = onnx.load(fp16).graph
    # Beside the weights there are the numbers of positions and of token types.
    matrices = [one for one in graph.initializer if len(one.dims) == 2 and one.data_type != TensorProto.INT64]
    assert len(matrices) > 10
    assert {tensor.data_type for tensor in matrices} == {TensorProto.FLOAT16}
    assert all(np.isfinite(numpy_helper.to_array(tensor)).all() for tensor in graph.initializer)


def test_inputs_and_output_keep_their_types(fp16: Path, tiny_home: Path) -> None:
    before, after = (onnx.load(path).graph for path in (tiny_home / "encoder" / "fp32" / MODEL, fp16))
    assert list(after.input) == list(before.input)
    assert list(after.output) == list(before.output)


def test_nothing_is_rounded_behind_the_layers(fp16: Path, tiny_home: Path) -> None:
    kept = behind_layers(onnx.load(tiny_home / "encoder" / "fp32" / MODEL))
    graph = onnx.load(fp16).graph
    assert {"ReduceSum", "ReduceL2", "Div"} <= {node.op_type for node in graph.node if node.name in kept}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input if node.name in kept else ():
            chain = makers.get(name)
            while chain is not None and chain.op_type == "Identity":
                chain = makers.get(chain.input[0])
            if chain is not None and chain.op_type == "Cast":
                source = makers.get(chain.input[0])
                assert source is None or source.op_type != "Cast" or source.attribute[0].i != TensorProto.FLOAT16


def test_vectors_are_of_unit_length_and_near_fp32(fp16: Path, tiny_home: Path) -> None:
    folder = tiny_home / "encoder" / "fp32"
    tokens = TextTokenizer(folder, MAX_TOKENS)(TEXTS)
    feeds = {"input_ids": tokens.ids, "attention_mask": tokens.mask}
    half, full = (InferenceSession(path).run(None, feeds)[0] for path in (fp16, folder / MODEL))
    assert half.dtype == np.float32
    assert np.allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    cosines = (half * full).sum(axis=1)
    assert 0.9999 < cosines.min() < 1 - 1e-8
