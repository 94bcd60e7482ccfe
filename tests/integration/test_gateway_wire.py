"""The gateway: a real nginx with TLS before a real Triton that asks for keys."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recserve_client import Client, ClientOptions, NewItem, Tls, item, text
from recserve_client.contract import models
from recserve_client.errors import NotFound, Overloaded, PermissionDenied, Unauthenticated, Unavailable
from recserve_server_ext.access.key_file import create_key, revoke_key
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import TlsSettings
from support.certificates import Authority
from support.gateway import gateway, nginx
from support.keys import REQUIRED, keys_of
from support.served import Served, served
from support.site import PATIENT, Site, caller
from support.tiny_home import copy_home
from support.wire import element

pytestmark = pytest.mark.triton
ONCE = ClientOptions(deadline_s=30, tries=1)
INFER = "/inference.GRPCInferenceService/ModelInfer"


def status(call: Callable[[], Any]) -> tuple[str, str]:
    """Name of the status and message of a call that must fail."""
    with pytest.raises(grpc.RpcError) as failed:
        call()
    return failed.value.code().name, failed.value.details() or ""


def request(content: bytes = b'{"history":[{"text":"a heist"}]}', model: str = models.RECOMMEND) -> Any:
    found = service_pb2.ModelInferRequest(model_name=model)
    found.inputs.add(name="request", datatype="BYTES", shape=(1, 1))
    found.raw_input_contents.append(element(content))
    return found


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


# --- keys ---


def test_every_operation_passes_with_its_scope(site: Site) -> None:
    with site.client("recommend") as client:
        assert client.recommend([text("a heist")]).items
        assert client.recommend_text(["a heist"]).items
        assert client.ready()
        assert client.strategies().strategies
        assert client.server_info().name == "triton"
    with site.client("items") as client:
        client.items.upsert([NewItem("gate-1", {"title": "A heist"})])
        with pytest.raises(PermissionDenied) as denied:
            client.recommend([text("a heist")])
        assert denied.value.status == "PERMISSION_DENIED"
    with site.client("recommend") as client, pytest.raises(NotFound) as unknown:
        client.recommend([item("no such item")])
    assert "no such item" in unknown.value.message  # refusals pass as they are


def methods() -> list[str]:
    """All methods of Triton's service that take one request."""
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    return [method.name for method in service.methods if not method.client_streaming]


@pytest.mark.parametrize("key", ["", "rsk_" + "a" * 43])
def test_without_a_valid_key_every_call_is_unauthenticated(key: str, site: Site) -> None:
    told = set()
    metadata = bearer(key) if key else None
    with site.channel() as channel:
        for method in methods():
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            body = request().SerializeToString() if method == "ModelInfer" else b""
            told.add((method, *status(partial(call, body, metadata=metadata, timeout=20))))
        stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer
        told.add(("stream", *status(lambda: list(stream(iter([request()]), metadata=metadata, timeout=20)))))
        for path in ("/grpc.health.v1.Health/Check", "/no.such.Service/Method"):
            told.add((path, *status(partial(channel.unary_unary(path), b"", metadata=metadata, timeout=20))))
    known = {"ModelInfer", "ServerMetadata", "ModelConfig"}
    for method, name, message in told:
        # A key that is not known opens nothing that could be told from a lack of scope.
        assert (name, message) == (
            ("UNAUTHENTICATED", "unauthenticated: a valid key is needed")
            if not key or method in known
            else ("PERMISSION_DENIED", "permission_denied: the key has no scope for this")
        ), method


def test_streams_and_control_are_closed_to_every_key(site: Site) -> None:
    closed = [name for name in methods() if name not in ("ModelInfer", "ServerMetadata", "ModelConfig")]
    assert {"RepositoryModelUnload", "SystemSharedMemoryRegister", "TraceSetting", "LogSettings"} <= set(closed)
    with site.channel() as channel:
        for method in closed:
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            told = status(partial(call, b"", metadata=bearer(site.keys["admin"]), timeout=20))
            assert told == ("PERMISSION_DENIED", "permission_denied: the key has no scope for this")
        stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer
        told = status(lambda: list(stream(iter([request()]), metadata=bearer(site.keys["admin"]), timeout=20)))
        assert told[0] == "PERMISSION_DENIED"


def test_plain_text_and_strangers_certificates_do_not_pass(site: Site, tmp_path: Path) -> None:
    plain: Any = grpc.insecure_channel(site.address)
    with plain as channel:
        assert status(lambda: channel.unary_unary(INFER)(b"", timeout=5))[0] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    others = Tls(ca=Authority(tmp_path, "others").cert)
    with (
        Client(site.address, ONCE, tls=others, key=site.keys["admin"]) as client,
        pytest.raises(Unavailable, match=r"(?i)certificate|handshake|connect"),
    ):
        client.recommend([text("a heist")])


# --- limits ---


def test_what_is_too_large_is_refused_and_the_largest_request_is_not(site: Site) -> None:
    with site.channel(**{"grpc.max_send_message_length": -1}) as channel:
        call = channel.unary_unary(INFER)

        def of(size: int) -> tuple[str, str]:
            body = request(b" " * size, models.ITEMS).SerializeToString()
            return status(lambda: call(body, metadata=bearer(site.keys["items"]), timeout=60))

        assert of(48 * 2**20)[1].startswith("invalid_json: ")  # by the model, which has read it
        assert of(49 * 2**20) == ("RESOURCE_EXHAUSTED", "too_large: the request is larger than the gateway allows")


def test_a_compressed_request_is_refused_before_it_is_unpacked(site: Site) -> None:
    bomb = request(b" " * (64 << 20)).SerializeToString()
    assert len(gzip.compress(bomb)) < 100_000
    with site.channel(**{"grpc.max_send_message_length": -1}) as channel:
        call = channel.unary_unary(INFER)
        told = status(
            lambda: call(bomb, metadata=bearer(site.keys["recommend"]), compression=grpc.Compression.Gzip, timeout=60)
        )
        assert told == ("UNIMPLEMENTED", "requests must not be compressed")


def test_metadata_of_a_megabyte_is_refused(site: Site) -> None:
    with site.channel(**{"grpc.max_metadata_size": 4 << 20}) as channel:
        call = channel.unary_unary(INFER)
        metadata = [*bearer(site.keys["recommend"]), ("x-large", "a" * (1 << 20))]
        assert status(lambda: call(request().SerializeToString(), metadata=metadata, timeout=20))[0] != "OK"
    with site.client("recommend") as client:
        assert client.ready()


def test_a_key_has_a_rate_and_its_own(tiny_home: Path, tmp_path: Path) -> None:
    nginx()
    home = copy_home(tiny_home, tmp_path / "home")
    keys, authority = keys_of(home), Authority(tmp_path, "ours")
    with served(home, settings=REQUIRED) as server, gateway(server, "", authority, rate=1, burst=4) as address:
        tls = Tls(ca=authority.cert)
        with Client(address, ONCE, tls=tls, key=keys["recommend"]) as client:
            for _ in range(5):
                assert client.ready()
            with pytest.raises(Overloaded) as limited:
                client.recommend([text("a heist")])
            assert limited.value.retry_after_ms == 1000
        with Client(address, ONCE, tls=tls, key=keys["admin"]) as client:
            assert client.recommend([text("a heist")]).items
            with pytest.raises(PermissionDenied):
                client.strategies()  # without an HTTP API nobody can check the key for it


def test_a_key_that_is_revoked_under_load_ends_there(site: Site) -> None:
    path = Workspace(site.server.home).api_keys
    key_id, key = create_key(path, "short lived", [Scope.RECOMMEND])
    outcomes: list[list[str]] = [[] for _ in range(8)]
    begun, revoked = threading.Barrier(9), threading.Event()

    def ask(told: list[str]) -> None:
        with Client(site.address, ONCE, tls=site.tls, key=key) as client:
            client.ready()
            begun.wait()
            after = 0
            while after < 5:
                after += revoked.is_set()
                try:
                    client.recommend([text("a heist")])
                except Unauthenticated:
                    told.append("refused")
                else:
                    told.append("late" if after > 1 else "answered")

    threads = [threading.Thread(target=ask, args=(told,)) for told in outcomes]
    for thread in threads:
        thread.start()
    begun.wait()
    revoke_key(path, key_id)
    revoked.set()
    for thread in threads:
        thread.join()
    for told in outcomes:
        assert "late" not in told  # from the first request on that was sent after the revocation
        assert told[-1] == "refused"
    with site.client("recommend") as client:
        assert client.ready()


# --- HTTP ---


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found = answer.json()
    assert found["status"] == answer.status_code
    assert set(found) == {"type", "title", "status", "detail", "kind", "request_id"}
    assert "nginx" not in answer.text + str({**answer.headers, "server": ""})
    return answer.status_code, found["kind"]


def test_http_takes_the_same_keys(site: Site) -> None:
    body = {"history": [{"text": "a heist"}], "k": 3}
    for headers in ({"authorization": f"Bearer {site.keys['recommend']}"}, {"x-api-key": site.keys["recommend"]}):
        with site.caller(**headers) as http:
            assert len(http.post("/v1/recommend", json=body).json()["items"]) == 3
            assert http.get("/v1/health/ready").json() == {"status": "ready"}
            assert http.get("/v1/strategies").json()["strategies"]
            assert http.get("/v1/openapi.json").json()["openapi"] == "3.1.0"
            assert problem(http.delete("/v1/users/ann")) == (403, "permission_denied")
    with site.caller(authorization=f"Bearer {site.keys['users.erase']}") as http:
        assert http.delete("/v1/users/ann").json()["interactions"] == 0


def test_events_pass_as_they_come(site: Site) -> None:
    with (
        site.caller(**{"x-api-key": site.keys["recommend"]}) as http,
        http.stream("GET", "/v1/events", timeout=60) as answer,
    ):
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert [next(lines).partition(":")[0] for _ in range(3)] == ["id", "event", "data"]


@pytest.mark.parametrize("key", ["", "rsk_" + "a" * 43])
def test_http_tells_nothing_without_a_valid_key(key: str, site: Site) -> None:
    with site.caller(**({"x-api-key": key} if key else {})) as http:
        for path in (
            "strategies",
            "server",
            "health/ready",
            "health/live",
            "openapi.json",
            "items/a",
            "users/ann",
            "events",
        ):
            assert problem(http.get(f"/v1/{path}")) == (401, "unauthenticated"), path
        answer = http.post("/v1/recommend", json={"history": [{"text": "a heist"}]})
        assert problem(answer) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_http_bodies_have_a_bound(site: Site) -> None:
    body, headers = b" " * (50 << 20), {"content-type": "application/json"}
    with site.caller(authorization=f"Bearer {site.keys['items']}") as http:
        assert problem(http.post("/v1/items", content=body, headers=headers)) == (413, "too_large")


# --- what is behind ---


def test_the_way_to_the_server_may_be_a_socket_or_tls(tiny_home: Path, tmp_path: Path) -> None:
    nginx()
    home, ours, inside = copy_home(tiny_home, tmp_path / "home"), Authority(tmp_path, "ours"), Authority(tmp_path, "in")
    keys, files = keys_of(home), inside.issue("server", "recs.inside")
    folder = tempfile.mkdtemp()  # pytest's own are too long for a socket
    with_tls = TlsSettings(cert=str(files.cert), key=str(files.key))
    for written, tls, ca in (
        (f'grpc_socket = "{folder}/grpc"\n', TlsSettings(), ""),
        (f'[tls]\ncert = "{files.cert}"\nkey = "{files.key}"\n', with_tls, str(inside.cert)),
    ):
        with served(home, settings=written + REQUIRED) as server:
            with (
                gateway(server, "", ours, server_tls=tls, server_ca=ca) as address,
                Client(address, PATIENT, tls=Tls(ca=ours.cert), key=keys["recommend"]) as client,
            ):
                assert client.ready()
            if ca:  # a server that another authority signed is none to trust
                with (
                    gateway(server, "", ours, server_tls=tls, server_ca=str(ours.cert)) as address,
                    Client(address, ONCE, tls=Tls(ca=ours.cert), key=keys["recommend"]) as client,
                    pytest.raises(Unavailable),
                ):
                    client.recommend([text("a heist")])
    shutil.rmtree(folder)


def test_a_server_that_is_away_is_unavailable_and_nothing_more_is_told(site: Site, tmp_path: Path) -> None:
    gone = Served(tmp_path, "127.0.0.1:1", "", site.server.process, site.server.log)
    authority = Authority(tmp_path, "ours")
    with (
        gateway(gone, "127.0.0.1:2", authority) as address,
        Client(address, ONCE, tls=Tls(ca=authority.cert), key=site.keys["admin"]) as client,
    ):
        with pytest.raises(Unavailable, match="the server cannot be reached; try again later"):
            client.recommend([text("a heist")])
        with caller(address, authority, **{"x-api-key": site.keys["admin"]}) as http:
            assert problem(http.get("/v1/strategies")) == (503, "unavailable")


def test_the_gateway_logs_no_key(site: Site) -> None:
    with site.client("items") as client, pytest.raises(PermissionDenied):
        client.recommend([text("a heist")])
    folder = site.authority.cert.parent / "gateway"
    held = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not [scope for scope, key in site.keys.items() if key.encode() in held]
