"""Configurations and build commands of the encoder's targets, against golden files; see `test_model_configs`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from recserve_export.encoder.targets.tensorrt import build_script
from recserve_server_ext.triton.encoder_config import EncoderConfig, profile_shapes

GOLDEN = Path(__file__).parent / "golden" / "encoder"
EMBEDDED = EncoderConfig(target="embedded", precision="fp32", dim=384, max_tokens=256, max_batch=256, preferred=(8, 32))
ONNXRUNTIME = replace(EMBEDDED, target="onnxruntime", threads=2)
TENSORRT = replace(EMBEDDED, target="tensorrt", precision="fp16")
CONFIGS = {
    "embedded": EMBEDDED,
    "onnxruntime-cpu": ONNXRUNTIME,
    "onnxruntime-cuda": replace(ONNXRUNTIME, provider="cuda"),
    "onnxruntime-cuda-fp16": replace(ONNXRUNTIME, provider="cuda", precision="fp16"),
    "onnxruntime-tensorrt": replace(ONNXRUNTIME, provider="tensorrt"),
    "onnxruntime-tensorrt-fp16": replace(ONNXRUNTIME, provider="tensorrt", precision="fp16"),
    "tensorrt-fp16": TENSORRT,
    "tensorrt-bf16": replace(TENSORRT, precision="bf16"),
}


def golden(name: str, text: str) -> str:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return path.read_text()


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_equals_its_golden_file(name: str) -> None:
    proto = CONFIGS[name].proto()
    text = text_format.MessageToString(proto)
    assert text == golden(f"{name}.pbtxt", text)
    assert text_format.Parse(text, pb.ModelConfig()) == proto


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_all_have_the_same_tensors(name: str) -> None:
    proto, embedded = CONFIGS[name].proto(), EMBEDDED.proto()
    for found, expected in ((proto.input, embedded.input), (proto.output, embedded.output)):
        assert [(one.name, one.data_type) for one in found] == [(one.name, one.data_type) for one in expected]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_all_are_complete(name: str) -> None:
    config, proto = CONFIGS[name], CONFIGS[name].proto()
    assert proto.version_policy.latest.num_versions == 1
    assert list(proto.dynamic_batching.preferred_batch_size) == [8, 32]
    (group,) = proto.instance_group
    assert group.kind == (pb.ModelInstanceGroup.KIND_GPU if config.on_gpu else pb.ModelInstanceGroup.KIND_CPU)
    assert proto.HasField("optimization")
    warmed = {(sample.batch_size, *sample.inputs["input_ids"].dims) for sample in proto.model_warmup}
    assert warmed >= {(1, width) for width in config.widths}
    assert ((32, 256) in warmed) is config.on_gpu


def test_preferred_batches_never_pass_the_largest() -> None:
    assert list(replace(EMBEDDED, max_batch=16).proto().dynamic_batching.preferred_batch_size) == [8]
    assert replace(EMBEDDED, max_batch=4).usual_batch == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_build_command(precision: str) -> None:
    config = replace(TENSORRT, precision=precision)  # type: ignore[arg-type]  # the parameters are such precisions
    script = build_script(config, "model.onnx", "encoder/1/model.plan")
    assert script == golden(f"build-{precision}.sh", script)


def test_the_profiles_take_every_width_once() -> None:
    taken: list[int] = []
    for shapes in profile_shapes(TENSORRT):
        least, most = (int(text.split(",")[0].rpartition("x")[2]) for text in (shapes.least, shapes.most))
        taken += range(least, most + 1)
    assert taken == list(range(1, 257))
