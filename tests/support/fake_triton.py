"""A stand-in for tritonserver that fails as a test tells it, for tests of the supervisor without models.

It reads files in the folder it runs from: `late` names models that miss every deadline, `busy` models that answer
others meanwhile, `broken` holds what it says when it ends at once, and `aborts` how often a signal ends it at once.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recserve_server_ext.triton.binary import TritonBinary

#: At the end of the name of a model that belongs to an encoder.
_FINGERPRINT = re.compile("_[0-9a-f]{8}$")


def fake_triton(folder: Path) -> TritonBinary:
    """An executable that behaves like tritonserver."""
    script = folder / "tritonserver"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m support.fake_triton "$@"\n')
    script.chmod(0o755)
    return TritonBinary(script, "path")


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated without types
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._answered = 0

    def named(self, file: str) -> list[str]:
        path = self.folder / file
        return path.read_text().split() if path.exists() else []

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        name = request.model_name
        if name in self.named("late") or _FINGERPRINT.sub("", name) in self.named("late"):
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "late")
        return service_pb2.ModelInferResponse()

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ServerMetadataResponse(name="triton", version="0.0.1")

    def metrics(self) -> str:
        self._answered += 1
        name = "nv_inference_request_success"
        lines = [f'{name}{{model="{model}",version="1"}} {self._answered}' for model in self.named("busy")]
        return "\n".join([f"# TYPE {name} counter", *lines, ""])


def _metrics_server(servicer: _Servicer, address: str, port: int) -> ThreadingHTTPServer:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(servicer.metrics().encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer((address, port), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grpc-address")
    parser.add_argument("--grpc-port")
    parser.add_argument("--metrics-address")
    parser.add_argument("--metrics-port", type=int)
    parser.add_argument("--model-repository", type=Path)
    options, _ = parser.parse_known_args()
    servicer = _Servicer(options.model_repository.parent)
    if words := servicer.named("broken"):
        sys.exit(" ".join(words))
    if (left := int((servicer.named("aborts") or ["0"])[0])) > 0:
        (servicer.folder / "aborts").write_text(str(left - 1))
        os.abort()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = grpc.server(ThreadPoolExecutor(16))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"{options.grpc_address}:{options.grpc_port}")
    server.start()
    metrics = _metrics_server(servicer, options.metrics_address, options.metrics_port)
    stop.wait()
    metrics.server_close()
    server.stop(0).wait()


if __name__ == "__main__":
    main()
