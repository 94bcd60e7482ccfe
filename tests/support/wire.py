"""Raw KServe v2 calls over gRPC: what a client without our library would send, also the malformed."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

#: name, datatype, shape, raw content
RawTensor = tuple[str, str, Sequence[int], bytes]


def element(content: bytes) -> bytes:
    """A BYTES element: little-endian length, then the content."""
    return struct.pack("<I", len(content)) + content


class Wire:
    """A channel to a server; raises grpc.RpcError as it comes."""

    def __init__(self, address: str) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(address, options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def infer(self, model: str, tensors: Sequence[RawTensor], *, timeout_s: float = 30) -> Any:
        """Send any tensors; the response as protobuf."""
        request = service_pb2.ModelInferRequest(model_name=model)
        for name, datatype, shape, content in tensors:
            tensor = request.inputs.add()
            tensor.name, tensor.datatype = name, datatype
            tensor.shape.extend(shape)
            request.raw_input_contents.append(content)
        return self._stub.ModelInfer(request, timeout=timeout_s)

    def ask(self, model: str, body: Any, *, timeout_s: float = 30) -> Any:
        """Send one packed request, a JSON value or raw bytes; the decoded answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = self.infer(model, [("request", "BYTES", (1, 1), element(raw))], timeout_s=timeout_s)
        return json.loads(response.raw_output_contents[0][4:])

    def refused(self, model: str, body: Any) -> tuple[str, str]:
        """Status name and message of a packed request that must be refused."""
        try:
            answer = self.ask(model, body)
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
        raise AssertionError(f"not refused: {str(answer)[:200]}")

    def refused_tensors(self, model: str, tensors: Sequence[RawTensor]) -> tuple[str, str]:
        """Status name and message of raw tensors that must be refused."""
        try:
            answer = self.infer(model, tensors)
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
        raise AssertionError(f"not refused: {str(answer)[:200]}")
