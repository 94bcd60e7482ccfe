"""The configuration of the gateway: what it holds, and what it is refused for."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.server import AuthSettings, EncoderSettings, Limits, ServeSettings, TlsSettings
from recserve_server_ext.gateway.nginx import Gateway, configuration, write_gateway
from support.certificates import Authority
from support.gateway import nginx

LOCKED = AuthSettings(required=True)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def described(authority: Authority, tmp_path: Path) -> Gateway:
    files = authority.issue("gateway", "recs.test")
    return Gateway(listen="127.0.0.1:8443", cert=str(files.cert), key=str(files.key), state=str(tmp_path / "state"))


def location(content: str, path: str) -> str:
    """The lines of a location."""
    found = re.search(rf"location {re.escape(path)} \{{(.*?)\n        \}}", content, re.DOTALL)
    assert found is not None
    return found[1]


def test_models_that_check_keys_are_asked_without_another_hop(described: Gateway) -> None:
    content = configuration(dataclasses.replace(described, http="127.0.0.1:8080"), ServeSettings(auth=LOCKED))
    infer = location(content, "= /inference.GRPCInferenceService/ModelInfer")
    assert "auth_request" not in infer
    assert "grpc_pass grpc://recserve_grpc" in infer
    assert "%" not in content


def test_native_models_check_none_so_each_call_is_asked_for(described: Gateway) -> None:
    native = ServeSettings(auth=LOCKED, encoder=EncoderSettings(target="onnxruntime"))
    with pytest.raises(ConfigError, match="recserve http"):
        configuration(described, native)
    content = configuration(dataclasses.replace(described, http="127.0.0.1:8080"), native)
    assert "auth_request /recserve-key" in location(content, "= /inference.GRPCInferenceService/ModelInfer")


def test_the_largest_request_of_the_server_fits(described: Gateway) -> None:
    settings = ServeSettings(auth=LOCKED, limits=Limits(items_bytes=100, interactions_bytes=7_000_000, request_bytes=1))
    assert "client_max_body_size 7065536;" in configuration(described, settings)


@pytest.mark.parametrize(
    ("settings", "options", "why"),
    [
        (ServeSettings(), {}, r"\[auth\]"),
        (ServeSettings(auth=LOCKED, grpc_port=0), {}, "grpc_port"),
        (ServeSettings(auth=LOCKED, tls=TlsSettings("a", "b", "c")), {}, "client_ca"),
        (ServeSettings(auth=LOCKED, tls=TlsSettings("a", "b")), {}, "--server-ca"),
        (ServeSettings(auth=LOCKED), {"listen": "8443; include /etc/passwd"}, "characters"),
        (ServeSettings(auth=LOCKED), {"cert": "/a b/c.pem"}, "characters"),
        (ServeSettings(auth=LOCKED), {"http": "127.0.0.1:8080;}"}, "characters"),
    ],
)
def test_what_cannot_work_is_refused(
    settings: ServeSettings, options: dict[str, Any], why: str, described: Gateway
) -> None:
    with pytest.raises(ConfigError, match=why):
        configuration(dataclasses.replace(described, **options), settings)


@pytest.mark.parametrize("http", ["", "127.0.0.1:8080"])
@pytest.mark.parametrize("with_tls", [False, True])
@pytest.mark.parametrize("target", ["embedded", "tensorrt"])
def test_nginx_takes_every_variant(
    http: str, with_tls: bool, target: Any, described: Gateway, authority: Authority, tmp_path: Path
) -> None:
    if target != "embedded" and not http:
        pytest.skip("needs the HTTP API")
    files = authority.issue("server", "recs.inside")
    tls = TlsSettings(cert=str(files.cert), key=str(files.key)) if with_tls else TlsSettings()
    settings = ServeSettings(auth=LOCKED, tls=tls, encoder=EncoderSettings(target=target))
    more: dict[str, Any] = {"http": http, "client_ca": str(authority.cert), "server_ca": str(authority.cert)}
    written = write_gateway(dataclasses.replace(described, **more), settings, tmp_path / "out")
    ran = subprocess.run([nginx(), "-t", "-c", str(written)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
