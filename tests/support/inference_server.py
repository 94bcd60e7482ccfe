"""A small gRPC server of the same protocol, which answers what a test tells it: for tests of the client alone."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recserve_client.contract import RecommendTimings, Slate, SlateItem, pack

SLATE = Slate("r", [SlateItem("a", 0.5, [0.3, 0.2])], [], 1, "f", RecommendTimings(1, 2, 3, 4, 5))


class InferenceServer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated without types
    """Answers inferences after as many `refusals` as it is told.

    The answer is that of the first of `answers_to` that the request holds, else of `answers` by model, else `answer`.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.keys: list[str] = []
        self.refusals: list[tuple[grpc.StatusCode, str]] = []
        self.answer: bytes = pack(SLATE)
        self.answers: dict[str, bytes] = {}
        self.answers_to: dict[bytes, bytes] = {}
        self.release = threading.Event()
        self.release.set()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self.keys.append(str(dict(context.invocation_metadata()).get("authorization", "")))
        self.release.wait(10)
        if self.refusals:
            context.abort(*self.refusals.pop(0))
        response = service_pb2.ModelInferResponse()
        answer = self.answers.get(request.model_name, self.answer)
        held = b"".join(request.raw_input_contents)
        answer = next((found for needle, found in self.answers_to.items() if needle in held), answer)
        response.raw_output_contents.append(struct.pack("<I", len(answer)) + answer)
        return response

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ServerMetadataResponse(name="triton", version="2.51.0")


@contextmanager
def listening(server: InferenceServer) -> Iterator[str]:
    """Run it on a free port; yields its address."""
    running = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(server, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        running.stop(None).wait(5)
