"""The encoder's targets on a real Triton.

Triton's onnxruntime backend is not in the wheel: those tests run where RECSERVE_TRITON_BACKENDS names a folder that
holds `onnxruntime/libtriton_onnxruntime.so`, as /opt/tritonserver/backends of NVIDIA's image does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from recserve_client import Client
from recserve_client.contract import models as names
from recserve_export.encoder.checks.canonical import TEXTS, verify_served
from recserve_export.encoder.checks.fidelity_gate import gate_where_it_runs
from recserve_export.encoder.report.report import REPORT, EncoderReport
from recserve_export.encoder.targets.targets import write_target
from recserve_server_ext.encoder.manifest import read_manifest
from recserve_server_ext.encoder.padding import padded, padded_widths, plan_calls
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.triton.binary import find_triton
from recserve_server_ext.triton.encoder_target import model_folder
from recserve_server_ext.triton.probes import server_version
from recserve_server_ext.triton.process import TritonProcess, claim_endpoint
from recserve_server_ext.triton.repository import MODELS, assemble
from support.exports import Exports
from support.served import Served, served
from support.tiny_home import copy_home, make_tiny_home
from support.wire import RawTensor, Wire

pytestmark = pytest.mark.triton

#: float32 sums in another order, over a tiny graph.
CLOSE = 2e-6


@pytest.fixture(scope="module")
def encoder(tiny_home: Path) -> TextEncoder:
    return TextEncoder(tiny_home / "encoder" / "fp32")


def tensors(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> list[RawTensor]:
    pairs = ((names.INPUT_IDS.name, ids), (names.ATTENTION_MASK.name, mask))
    return [(name, "INT64", tensor.shape, tensor.astype("<i8").tobytes()) for name, tensor in pairs]


def vectors_of(response: Any, dim: int) -> NDArray[np.float32]:
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(-1, dim)


def test_the_exported_embedded_model_stands_alone(tiny_home: Path, encoder: TextEncoder, tmp_path: Path) -> None:
    """Its folder, copied away, in a Triton that serves nothing else."""
    folder = tmp_path / "triton"
    binary = find_triton()
    assemble(folder, [], binary)
    shutil.copytree(model_folder(tiny_home / "encoder" / "fp32", "embedded"), folder / MODELS / "encoder")
    endpoint = claim_endpoint("127.0.0.1", 0, 0)
    process = TritonProcess(binary, folder, endpoint)
    try:
        ended = server_version(endpoint, 30, until=lambda: process.exit_code() is not None)
        assert ended is not None, process.last_lines()
        tokens = encoder.tokenizer(TEXTS)
        wire, (rows,) = Wire(endpoint.grpc), [np.arange(len(TEXTS))]
        found = vectors_of(
            wire.infer("encoder", tensors(*padded(tokens, encoder.manifest.max_tokens, rows))), encoder.dim
        )
        assert np.allclose(found, encoder.run(tokens), atol=CLOSE)
    finally:
        process.stop()


@pytest.fixture(scope="module")
def backends() -> str:
    folder = os.environ.get("RECSERVE_TRITON_BACKENDS", "")
    library = Path(folder, "onnxruntime", "libtriton_onnxruntime.so")
    if not folder or not library.is_file():
        pytest.skip(f"RECSERVE_TRITON_BACKENDS is {folder!r}: it names no folder with Triton's onnxruntime backend")
    return folder


@pytest.fixture(scope="module")
def on_triton(tiny_home: Path, backends: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The tiny home, its encoder on Triton's own onnxruntime."""
    home = copy_home(tiny_home, tmp_path_factory.mktemp("native") / "home")
    with native_server(home, home / "encoder" / "fp32", backends) as server:
        yield server


@contextmanager
def native_server(home: Path, folder: Path, backends: str) -> Iterator[Served]:
    """Serve an encoder folder of a home on Triton's own onnxruntime."""
    manifest = read_manifest(folder)
    report = msgspec.json.decode((folder / REPORT).read_bytes(), type=EncoderReport)
    write_target(folder, manifest, report, "onnxruntime")
    settings = f'precision = "{manifest.precision}"\n[encoder]\ntarget = "onnxruntime"\nbackends = "{backends}"\n'
    with served(home, settings=settings) as server:
        yield server


@pytest.fixture
def native(on_triton: Served) -> Wire:
    return Wire(on_triton.grpc)


def test_no_python_process_runs_the_encoder(on_triton: Served) -> None:
    stubs = [" ".join(process.cmdline()) for process in on_triton.triton().children()]
    assert any("/recommend/1/model.py" in words for words in stubs)
    assert not any("/encoder/1/model.py" in words for words in stubs)


def test_its_vectors_are_the_exports(on_triton: Served, tiny_home: Path) -> None:
    folder = tiny_home / "encoder" / "fp32"
    assert verify_served(folder, on_triton.grpc).min_cos > 0.99999
    found = gate_where_it_runs(folder, server=on_triton.grpc)
    assert found.texts == 2000
    assert found.min_cos > 0.99999
    assert found.overlap > 0.999


def test_the_same_slates_as_embedded(native: Wire, wire: Wire) -> None:
    history = [
        {"text": "a heist"},
        {"text": "the lion"},
        {"text": TEXTS[-1], "weight": 0.5},
        {"text": "x", "weight": -1},
    ]
    body = {"history": history, "k": 20}
    for model in ("recommend", "recommend_text"):
        slates = [one.ask(model, body) for one in (native, wire)]
        assert slates[0]["encoder"] == slates[1]["encoder"]
        ids = [[item["id"] for item in slate["items"]] for slate in slates]
        assert ids[0] == ids[1]
        scores = [[item["score"] for item in slate["items"]] for slate in slates]
        assert np.allclose(scores[0], scores[1], atol=2e-5)


def test_vectors_do_not_depend_on_the_batch(native: Wire, encoder: TextEncoder) -> None:
    """Each text alone at its own width, all at the widest, and all at once by many callers."""
    tokens = encoder.tokenizer(TEXTS)
    expected = encoder.run(tokens)
    widths = padded_widths("onnxruntime", encoder.manifest.max_tokens)
    whole = vectors_of(native.infer("encoder", tensors(*padded(tokens, widths[-1]))), encoder.dim)
    assert np.allclose(whole, expected, atol=CLOSE)

    def alone(row: int) -> NDArray[np.float32]:
        ((rows, width),) = plan_calls(tokens.lengths[row : row + 1], widths, 1)
        answer = native.infer("encoder", tensors(*padded(tokens, width, rows + row)))
        vector: NDArray[np.float32] = vectors_of(answer, encoder.dim)[0]
        return vector

    with ThreadPoolExecutor(16) as threads:
        found = np.stack(list(threads.map(alone, list(range(len(TEXTS))) * 10)))
    assert np.allclose(found, np.tile(expected, (10, 1)), atol=CLOSE)


def test_embed_of_many_lengths_in_one_request(on_triton: Served, encoder: TextEncoder) -> None:
    texts = [" ".join(TEXTS[: n % 20 + 1]) for n in range(200)]
    with Client(on_triton.grpc) as client:
        found = client.embed(texts)
    assert np.allclose(found, encoder.encode(texts, role="query"), atol=CLOSE)


@pytest.mark.parametrize("shape", [(1, 2**61), (64, 2**58), (1, 2**40), (1, 4096), (300, 16)])
def test_crafted_sizes_are_refused_and_harm_nothing(native: Wire, shape: tuple[int, int]) -> None:
    """The inputs have an open dimension here: nothing but Triton and onnxruntime stands before it."""
    body = np.ones(shape, "<i8").tobytes() if shape[0] * shape[1] < 2**20 else b""
    pairs = (names.INPUT_IDS.name, names.ATTENTION_MASK.name)
    code, _ = native.refused_tensors("encoder", [(name, "INT64", shape, body) for name in pairs])
    assert code in ("INTERNAL", "INVALID_ARGUMENT")
    assert native.ask("embed", {"texts": ["war"]})["count"] == 1


def test_int8_gives_the_same_bits_alone_in_company_and_embedded(
    backends: str, exports: Exports, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = make_tiny_home(tmp_path_factory.mktemp("int8") / "home", exports.encoders("int8"), "int8")
    folder = home / "encoder" / "int8"
    texts = [" ".join(TEXTS[: n % 20 + 1]) for n in range(60)]
    with native_server(home, folder, backends) as server, Client(server.grpc) as client:
        together = client.embed(texts)
        alone = np.concatenate([client.embed([text]) for text in texts])
    assert together.tobytes() == alone.tobytes()
    assert together.tobytes() == TextEncoder(folder).encode(texts, role="query").tobytes()
