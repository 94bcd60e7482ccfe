"""TLS of a client: whom it trusts, the certificate that it shows, and the channels that it opens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import grpc

from recserve_client.contract.addresses import channel_options
from recserve_client.options import ClientOptions

_CA: Final = "RECSERVE_TLS_CA"
_CERT: Final = "RECSERVE_TLS_CERT"
_KEY: Final = "RECSERVE_TLS_KEY"
_SERVER_NAME: Final = "RECSERVE_TLS_SERVER_NAME"


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Files of a TLS connection, all PEM.

    Attributes:
        ca: Certificates of the authorities that the client trusts; `None` for those of gRPC.
        cert: Certificate of the client, for a server that asks for one; with `key`.
        key: Its private key.
        server_name: Name that the server's certificate must have; empty for the host of the address.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError(f"cert={self.cert}, key={self.key}: a client certificate needs its key, and the reverse")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """TLS as RECSERVE_TLS_CA, _CERT, _KEY and _SERVER_NAME say; `None` where none of them is set.

        Raises:
            ValueError: Only one of certificate and key is set.
        """
        ca, cert, key, name = (environment.get(variable, "") for variable in (_CA, _CERT, _KEY, _SERVER_NAME))
        if not (ca or cert or key or name):
            return None
        return cls(ca=_path(ca), cert=_path(cert), key=_path(key), server_name=name)

    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a gRPC channel; raises OSError for a file that cannot be read."""
        ca, key, cert = (None if path is None else path.read_bytes() for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)

    def channel_options(self) -> list[tuple[str, str]]:
        """Options of a gRPC channel."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


def open_channel(api: Any, address: str, options: ClientOptions, tls: Tls | None) -> Any:
    """A channel of `grpc` or `grpc.aio`."""
    channel = [*options.channel(), *channel_options(address)]
    if tls is None:
        return api.insecure_channel(address, options=channel)
    return api.secure_channel(address, tls.credentials(), options=[*channel, *tls.channel_options()])


def _path(text: str) -> Path | None:
    return Path(text) if text else None
