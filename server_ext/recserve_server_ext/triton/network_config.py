"""The Triton configuration of the model of a network, such as `sequence_0123abcd`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tritonclient.grpc import model_config_pb2 as pb

from recserve_client.contract import models as names
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.index.manifest import SnapshotManifest
from recserve_server_ext.index.space import space_folder
from recserve_server_ext.networks.network import MAX_ROWS, NETWORK, NetworkManifest


class SnapshotNetwork(NamedTuple):
    """A network of a snapshot.

    Attributes:
        space: Name of its space.
        manifest: What it takes.
        file: The ONNX file.
    """

    space: str
    manifest: NetworkManifest
    file: Path

    @property
    def model(self) -> str:
        """Name of its model on Triton."""
        return names.of_network(self.space, self.manifest.fingerprint)


def networks_of(snapshot: Path, manifest: SnapshotManifest) -> list[SnapshotNetwork]:
    """The networks in the folder of a snapshot."""
    return [
        SnapshotNetwork(name, space.network, space_folder(snapshot, name) / NETWORK)
        for name, space in manifest.spaces.items()
        if space.network is not None
    ]


def network_config(network: SnapshotNetwork, serve: ServeSettings) -> pb.ModelConfig:
    """The configuration of its model: with Triton's own onnxruntime where the encoder runs there, else embedded."""
    manifest, is_native = network.manifest, runs_natively(serve)
    config = pb.ModelConfig(name=network.model, max_batch_size=MAX_ROWS)
    config.backend = "onnxruntime" if is_native else "python"
    for tensor in names.behaviour_tensors(manifest.dim, manifest.length):
        config.input.add(name=tensor.name, data_type=pb.TYPE_FP32, dims=tensor.shape)
    config.output.add(name=names.VECTOR, data_type=pb.TYPE_FP32, dims=(manifest.dim,))
    # No delay and no queue policy, as of the other models: docs/decisions/004-no-queue-policy.md.
    config.dynamic_batching.SetInParent()
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    if is_native:
        config.default_model_filename = NETWORK
        config.parameters["intra_op_thread_count"].string_value = "1"
    sample = config.model_warmup.add(name="no behaviours", batch_size=1)
    for tensor in names.behaviour_tensors(manifest.dim, manifest.length):
        zeros = sample.inputs[tensor.name]
        zeros.data_type, zeros.zero_data = pb.TYPE_FP32, True
        zeros.dims.extend(tensor.shape)
    return config


def runs_natively(serve: ServeSettings) -> bool:
    """Whether Triton's own onnxruntime runs networks."""
    return serve.encoder.target == "onnxruntime"
