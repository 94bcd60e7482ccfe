"""TLS of the server: what tritonserver is told, and how the supervisor reaches its own server through it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import write_file
from recserve_server_ext.config.server import TlsSettings

#: In the folder that the server runs from: the authorities whose clients are let in, and the supervisor's own.
_CLIENT_CA: Final = "client_ca.pem"


@dataclass(frozen=True)
class ServerTls:
    """TLS of a server.

    Attributes:
        options: Options of tritonserver.
        credentials: Credentials of the supervisor's channels. They trust the server's certificate alone.
        server_name: A name of that certificate.
        connection_age_s: Age at which connections are closed.
    """

    options: tuple[str, ...]
    credentials: grpc.ChannelCredentials
    server_name: str
    connection_age_s: float


def server_tls(settings: TlsSettings, folder: Path) -> ServerTls | None:
    """TLS as set; `None` without a certificate.

    With `client_ca` every client needs a certificate. The supervisor makes one for its probes, whose key stays in its
    memory; only the certificate is written, into `folder`.

    Raises:
        ConfigError: A file is missing or no PEM, the key is another certificate's, or the certificate has expired.
    """
    if not settings.cert:
        if settings.key or settings.client_ca:
            raise ConfigError("[tls] has no cert: name the server's certificate, or leave the table out")
        return None
    # Here, since few servers have TLS of their own, and its libraries take 10 MB.
    from recserve_server_ext.triton import certificates

    cert = _read(settings.cert, "cert")
    name = certificates.checked(cert, _read(settings.key, "key"), settings)
    age_s = settings.connection_age_s
    options = [
        f"--grpc-server-cert={settings.cert}",
        f"--grpc-server-key={settings.key}",
        f"--grpc-max-connection-age={round(1000 * age_s)}",
        # For the server that takes over with a renewed certificate.
        "--reuse-grpc-port=true",
    ]
    if not settings.client_ca:
        trusting = grpc.ssl_channel_credentials(cert)
        return ServerTls(("--grpc-use-ssl=true", *options), trusting, name, age_s)
    authorities = _read(settings.client_ca, "client_ca")
    certificates.parse(authorities, settings.client_ca)
    own_cert, own_key = certificates.make_own()
    bundle = folder / _CLIENT_CA
    write_file(bundle, authorities.rstrip() + b"\n" + own_cert)
    options.append(f"--grpc-root-cert={bundle}")
    shown = grpc.ssl_channel_credentials(cert, own_key, own_cert)
    return ServerTls(("--grpc-use-ssl-mutual=true", *options), shown, name, age_s)


def _read(path: str, name: str) -> bytes:
    if not path:
        raise ConfigError(f"[tls] has no {name}: name its PEM file")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} of [tls], {path}, cannot be read: {error.strerror}") from None


def certified_name(settings: TlsSettings) -> str:
    """A name that the server's certificate has; raises ConfigError where it cannot be read or has none."""
    from recserve_server_ext.triton import certificates

    return certificates.name_of(certificates.parse(_read(settings.cert, "cert"), settings.cert)[0], settings)
