"""The configuration of nginx as the gateway before a server: TLS, keys, limits, and nothing else that passes."""

from __future__ import annotations

import json
import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recserve_client.contract import ErrorKind, shown
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import write_file
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.triton.tls import certified_name

FILE: Final = "nginx.conf"
_TEMPLATE: Final = Path(__file__).with_name("nginx.conf.template")
#: What nginx takes between quotes without a meaning of its own.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@+,=\[\]-]+")
#: Room for the protobuf around a packed request.
_ENVELOPE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """What decides the configuration.

    Attributes:
        listen: address:port, or a port of all addresses.
        cert: Certificate of the gateway, PEM, with those between it and its authority.
        key: Its private key.
        client_ca: Authorities whose certificates every caller needs; empty for none.
        server_ca: Authorities that signed the certificate of the server, where that has one.
        http: host:port of `recserve http`; empty without.
        rate: Requests a second of a key.
        burst: Requests of a key beyond that at once.
        connections: Requests of an address at a time.
        state: Folder where nginx keeps its files.
    """

    listen: str
    cert: str
    key: str
    client_ca: str = ""
    server_ca: str = ""
    http: str = ""
    rate: int = 100
    burst: int = 200
    connections: int = 512
    state: str


class _Template(string.Template):
    """With placeholders such as %{name}, since nginx has `$` for itself."""

    delimiter = "%"


def write_gateway(gateway: Gateway, settings: ServeSettings, folder: Path) -> Path:
    """Write the configuration into a folder, and make the folder where nginx keeps its files; returns the file.

    Raises:
        ConfigError: A value does not fit, the server asks for no keys, or the files cannot be written.
    """
    content = configuration(gateway, settings)
    try:
        Path(gateway.state).mkdir(parents=True, exist_ok=True)
        write_file(folder / FILE, content.encode())
    except OSError as error:
        raise ConfigError(f"{folder / FILE} cannot be written: {error.strerror or error}") from error
    return folder / FILE


def configuration(gateway: Gateway, settings: ServeSettings) -> str:
    """The text of the configuration; raises ConfigError as `write_gateway`."""
    _check(gateway, settings)
    grpc = f"unix:{Path(settings.grpc_socket).absolute()}" if settings.grpc_socket else settings.host
    limits = settings.limits
    largest = max(limits.request_bytes, limits.items_bytes, limits.interactions_bytes) + _ENVELOPE_BYTES
    pass_grpc = _PASS.format(scheme="grpcs" if settings.tls.cert else "grpc")
    is_native = settings.encoder.target != "embedded"
    return _Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        state=gateway.state,
        body_bytes=largest,
        rate=gateway.rate,
        burst=gateway.burst,
        connections=gateway.connections,
        grpc=f"{grpc}:{settings.grpc_port}",
        http_upstream=f"upstream recserve_http {{ server {gateway.http}; keepalive 64; }}" if gateway.http else "",
        listen=gateway.listen,
        cert=gateway.cert,
        key=gateway.key,
        client_ca=f"ssl_client_certificate {gateway.client_ca}; ssl_verify_client on;" if gateway.client_ca else "",
        pass_grpc=pass_grpc,
        grpc_tls=_grpc_tls(gateway, settings),
        asked_first=_ASKED if is_native else "",
        descriptions=_DESCRIPTIONS.replace("PASS", pass_grpc) if gateway.http else "",
        http=_HTTP.replace("BURST", str(gateway.burst)).replace("CONNECTIONS", str(gateway.connections))
        if gateway.http
        else "",
        refusals=_refusals(has_http=bool(gateway.http)),
    )


def _check(gateway: Gateway, settings: ServeSettings) -> None:
    if not settings.auth.required:
        raise ConfigError("the server asks for no keys: set required in the table [auth] of its settings")
    if not settings.grpc_port:
        raise ConfigError("grpc_port is 0: give the server a port that the gateway can know")
    if settings.tls.client_ca:
        raise ConfigError("client_ca of [tls] asks the gateway for a certificate: ask callers for theirs, --client-ca")
    if settings.tls.cert and not gateway.server_ca:
        raise ConfigError("the server has TLS: name the authorities that signed its certificate, --server-ca")
    if settings.encoder.target != "embedded" and not gateway.http:
        raise ConfigError(
            f"an encoder of target {settings.encoder.target} asks for no key: the gateway has keys checked by "
            "recserve http; start that, and name it with --http"
        )
    for value in (
        gateway.listen,
        gateway.cert,
        gateway.key,
        gateway.client_ca,
        gateway.server_ca,
        gateway.http,
        gateway.state,
    ):
        if value and not _PLAIN.fullmatch(value):
            raise ConfigError(f"{shown(value)} has characters that this configuration cannot hold")


def _grpc_tls(gateway: Gateway, settings: ServeSettings) -> str:
    if not settings.tls.cert:
        return ""
    return _GRPC_TLS.format(ca=gateway.server_ca, name=certified_name(settings.tls))


_PASS: Final = """\
add_trailer grpc-status $recserve_status always;
            add_trailer grpc-message $upstream_http_grpc_message$upstream_trailer_grpc_message always;
            grpc_pass {scheme}://recserve_grpc;"""
_GRPC_TLS: Final = """\
grpc_ssl_verify on;
        grpc_ssl_trusted_certificate {ca};
        grpc_ssl_name {name};
        grpc_ssl_server_name on;"""
#: A native model checks no key, so the key is checked before; recserve http asks a model that does.
_ASKED: Final = "auth_request /recserve-key;"
#: Triton answers these itself, whatever the key.
_DESCRIPTIONS: Final = """\
location ~ ^/inference\\.GRPCInferenceService/(ServerMetadata|ModelConfig)$ {
            if ($recserve_key = "") { return 401; }
            auth_request /recserve-key;
            PASS
        }
        location = /recserve-key {
            internal;
            proxy_pass http://recserve_http/v1/strategies;
            proxy_method GET;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header Host 127.0.0.1;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }"""
_HTTP: Final = """\
location /v1/ {
            error_page 401 = @http_unauthenticated;
            error_page 413 = @http_too_large;
            error_page 429 = @http_overloaded;
            error_page 500 502 504 = @http_unavailable;
            if ($recserve_key = "") { return 401; }
            limit_req zone=recserve_key burst=BURST nodelay;
            limit_conn recserve_address CONNECTIONS;
            proxy_pass http://recserve_http;
            proxy_request_buffering off;
            proxy_set_header Host 127.0.0.1;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_read_timeout 120s;
        }
        # What this process answers without asking the server.
        location ~ ^/v1/(openapi\\.json|health/live)$ {
            error_page 401 = @http_unauthenticated;
            error_page 500 502 504 = @http_unavailable;
            if ($recserve_key = "") { return 401; }
            auth_request /recserve-key;
            proxy_pass http://recserve_http;
            proxy_set_header Host 127.0.0.1;
        }"""
#: Number of the gRPC status, and status of HTTP, of each refusal by the gateway itself, and its message.
_REFUSALS: Final = {
    "unauthenticated": (16, 401, ErrorKind.UNAUTHENTICATED, "a valid key is needed"),
    "denied": (7, 403, ErrorKind.PERMISSION_DENIED, "the key has no scope for this"),
    "too_large": (8, 413, ErrorKind.TOO_LARGE, "the request is larger than the gateway allows"),
    "compressed": (12, 415, "", "requests must not be compressed"),
    "overloaded": (14, 429, ErrorKind.OVERLOADED, "retry_after_ms=1000; more requests than the key allows"),
    "unavailable": (14, 503, ErrorKind.UNAVAILABLE, "the server cannot be reached; try again later"),
}


def _refusals(*, has_http: bool) -> str:
    found: list[str] = []
    for name, (status, http_status, kind, text) in _REFUSALS.items():
        message = f"{kind}: {text}" if kind else text
        # 204 has no body, so that headers and the end of the stream are one frame, as gRPC wants it.
        found.append(
            f"location @{name} {{ internal; default_type application/grpc; add_header grpc-status {status} always; "
            f'add_header grpc-message "{message}" always; return 204; }}'
        )
        if has_http and kind:
            problem = json.dumps(
                {
                    "type": f"urn:problem-type:recserve:{kind}",
                    "title": kind.replace("_", " ").capitalize(),
                    "status": http_status,
                    "detail": text,
                    "kind": str(kind),
                    "request_id": "$request_id",
                }
            )
            more = {401: 'add_header www-authenticate "Bearer" always; ', 429: 'add_header retry-after "1" always; '}
            found.append(
                f"location @http_{name} {{ internal; default_type application/problem+json; "
                f'add_header x-request-id $request_id always; add_header cache-control "no-store" always; '
                f"{more.get(http_status, '')}return {http_status} '{problem}'; }}"
            )
    return "\n        ".join(found)
