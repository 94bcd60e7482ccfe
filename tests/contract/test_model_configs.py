"""The configurations that Triton gets, against golden files; rewrite those with ``UPDATE_GOLDEN=1 pytest``.

The settings that the Python models are handed have a golden file of their own; elsewhere a placeholder stands for them.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from recserve_server_ext.config.server import EncoderSettings, ModelSettings, ServeSettings, Target
from recserve_server_ext.networks.network import NetworkManifest
from recserve_server_ext.triton.model_config import all_models, config_text, network_model
from recserve_server_ext.triton.network_config import SnapshotNetwork
from support.versions import loaded_encoder

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = ModelSettings(
    run="/run",
    snapshots="/snapshots",
    store="/catalogue.db",
    serve=ServeSettings(batch=16, encoder_batch=32),
    interactions="/interactions.db",
    pseudonym_key="/pseudonym.key",
    erasures="/erasures.jsonl",
    evaluation="/evaluation.json",
)
ENCODER = loaded_encoder("0123456789abcdef", dim=384, max_tokens=256)
NETWORK = SnapshotNetwork(
    "sequence", NetworkManifest(fingerprint="89abcdef01234567", dim=64, length=50), Path("/network.onnx")
)
MODELS = {model.name: model for model in all_models(SETTINGS, ENCODER, [NETWORK])}


def golden(name: str, text: str) -> str:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    return path.read_text()


def test_all_models_are_there() -> None:
    assert sorted(MODELS) == [
        "embed", "encoder", "encoder_01234567", "interactions", "items", "pool_01234567", "recommend",
        "recommend_text", "sequence_89abcdef", "tokenize_01234567",
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(MODELS))
def test_equals_its_golden_file(name: str) -> None:
    text = config_text(MODELS[name])
    assert text == golden(f"{name}.pbtxt", text)


def test_the_settings_equal_their_golden_file() -> None:
    text = msgspec.json.format(msgspec.json.encode(SETTINGS), indent=2).decode() + "\n"
    assert text == golden("settings.json", text)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"encoder", "recommend_text", NETWORK.model}))
def test_every_python_model_is_handed_the_settings(name: str) -> None:
    folder = ENCODER.folder if name.endswith(ENCODER.fingerprint[:8]) else ""
    handed = msgspec.json.decode(MODELS[name].settings, type=ModelSettings)
    assert handed == msgspec.structs.replace(SETTINGS, encoder=folder)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_configuration_says_nothing_of_stores_and_files(name: str) -> None:
    """Whoever reaches gRPC can ask for it, and the URL of a store may hold a password."""
    text = config_text(MODELS[name])
    assert not [place for place in ("/run", "/snapshots", ".db", ".key", "/evaluation") if place in text]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_no_open_dimension_reaches_python_from_the_wire(name: str) -> None:
    """A variable dimension lets one crafted request kill a Python process; only outputs may have one."""
    config = text_format.Parse(config_text(MODELS[name]), model_config_pb2.ModelConfig())
    assert all(dim > 0 for tensor in config.input for dim in tensor.dims)


@pytest.mark.parametrize("name", ["encoder", "recommend_text"])
def test_the_ensembles_tensors_exist(name: str) -> None:
    ensemble = MODELS[name].config
    for step in ensemble.ensemble_scheduling.step:
        model = MODELS[step.model_name].config
        assert set(step.input_map) == {tensor.name for tensor in model.input}
        assert set(step.output_map) <= {tensor.name for tensor in model.output}


def test_no_network_no_model() -> None:
    assert NETWORK.model not in {model.name for model in all_models(SETTINGS, ENCODER)}


def test_a_network_runs_where_the_encoder_runs() -> None:
    native = network_model(NETWORK, with_target("onnxruntime"))
    assert (native.config.backend, native.config.default_model_filename) == ("onnxruntime", "network.onnx")
    assert not native.has_process
    text = config_text(native)
    assert text == golden("sequence_native.pbtxt", text)
    assert network_model(NETWORK, with_target("tensorrt")).has_process


def with_target(target: Target) -> ModelSettings:
    serve = msgspec.structs.replace(SETTINGS.serve, encoder=EncoderSettings(target=target))
    return msgspec.structs.replace(SETTINGS, serve=serve)
