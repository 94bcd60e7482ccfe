"""API keys of tests: a home with a key for each scope."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recserve_server_ext.access.key_file import create_key
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.workspace import Workspace

#: Settings of a server that asks for keys.
REQUIRED = "[auth]\nrequired = true\n"


def keys_of(home: Path) -> dict[str, str]:
    """A new key for each scope."""
    return {str(scope): create_key(Workspace(home).api_keys, f"test {scope}", [scope])[1] for scope in Scope}


def ask_inner(address: str, model: str, key: str) -> None:
    """One request to a model that others ask, which its own checks may refuse."""
    request = service_pb2.ModelInferRequest(model_name=model)
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        config = stub.ModelConfig(service_pb2.ModelConfigRequest(name=model)).config
        for tensor in config.input:
            dims = [max(1, dim) for dim in tensor.dims]
            shape = [1, *dims] if config.max_batch_size else dims
            of = {pb.TYPE_INT64: "INT64", pb.TYPE_FP32: "FP32", pb.TYPE_STRING: "BYTES"}[tensor.data_type]
            raw = b"\x02\0\0\0{}" if of == "BYTES" else np.ones(shape, "<i8" if of == "INT64" else "<f4").tobytes()
            request.inputs.add(name=tensor.name, datatype=of, shape=shape)
            request.raw_input_contents.append(raw)
        stub.ModelInfer(request, metadata=[("authorization", f"Bearer {key}")] if key else None, timeout=30)
