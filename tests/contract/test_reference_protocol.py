"""The examples of docs/reference/protocol work on a real server, and the contract needs what it says."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

import protocol_pages
from recserve_client.contract import MEANING_OF, STATUS_OF, ErrorKind
from recserve_client.contract.recommend import RecommendRequest
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import first_id
from support.served import Served
from support.wire import Wire


def test_every_kind_has_a_status_and_a_meaning() -> None:
    assert set(STATUS_OF) == set(MEANING_OF) == set(ErrorKind)


def test_the_contract_needs_only_msgspec() -> None:
    code = (
        "import sys, recserve_client.contract; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = ("numpy", "grpc", "google.protobuf", "tritonclient", "typer", "rich")
    assert "'msgspec'" in result.stdout
    assert not [name for name in heavy if f"'{name}'" in result.stdout]


def test_the_client_needs_neither_triton_nor_torch() -> None:
    code = "import sys; from recserve_client import Client; print({'torch', 'pytriton'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_the_load_data_is_the_example() -> None:
    (entry,) = protocol_pages.load_data()["data"]
    (content,) = entry["request"]["content"]
    assert msgspec.json.decode(content, type=RecommendRequest).k == 3


@pytest.mark.triton
def test_the_grpcurl_example_is_answered(tiny_server: Served, tiny_home: Path) -> None:
    item = first_id(current(Workspace(tiny_home).snapshots))
    request = protocol_pages.grpcurl_request()
    message = protocol_pages.example_message().replace(b"tt0076759", item.encode())

    request["inputs"][0]["contents"]["bytes_contents"] = [base64.b64encode(message).decode()]
    parsed = json_format.ParseDict(request, service_pb2.ModelInferRequest())
    stub = service_pb2_grpc.GRPCInferenceServiceStub(Wire(tiny_server.grpc).channel)
    assert b'"title"' in stub.ModelInfer(parsed, timeout=30).raw_output_contents[0]


@pytest.mark.triton
def test_the_tritonclient_example_prints_items(tiny_server: Served, tiny_home: Path) -> None:
    item = first_id(current(Workspace(tiny_home).snapshots))
    code = protocol_pages.TRITONCLIENT.replace("127.0.0.1:8001", tiny_server.grpc).replace("tt0076759", item)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert len(result.stdout.splitlines()) == 3
