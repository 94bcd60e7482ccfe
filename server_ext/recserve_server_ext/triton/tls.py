"""TLS of the server: what tritonserver is told, and how the supervisor reaches its own server through it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import write_file
from recserve_server_ext.config.server import TlsSettings

#: In the folder that the server runs from: the authorities whose clients are let in, and the supervisor's own.
_CLIENT_CA: Final = "client_ca.pem"
#: Validity of the supervisor's certificate, which ends with it.
_VALID: Final = timedelta(days=3650)


@dataclass(frozen=True)
class ServerTls:
    """TLS of a server.

    Attributes:
        options: Options of tritonserver.
        credentials: Credentials of the supervisor's channels. They trust the server's certificate alone.
        server_name: A name of that certificate.
    """

    options: tuple[str, ...]
    credentials: grpc.ChannelCredentials
    server_name: str


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
    cert = _read(settings.cert, "cert")
    name = _checked(cert, _read(settings.key, "key"), settings)
    options = [f"--grpc-server-cert={settings.cert}", f"--grpc-server-key={settings.key}"]
    if not settings.client_ca:
        trusting = grpc.ssl_channel_credentials(cert)
        return ServerTls(("--grpc-use-ssl=true", *options), trusting, name)
    authorities = _read(settings.client_ca, "client_ca")
    _certificates(authorities, settings.client_ca)
    own_cert, own_key = _own_certificate()
    bundle = folder / _CLIENT_CA
    write_file(bundle, authorities.rstrip() + b"\n" + own_cert)
    options.append(f"--grpc-root-cert={bundle}")
    return ServerTls(
        ("--grpc-use-ssl-mutual=true", *options), grpc.ssl_channel_credentials(cert, own_key, own_cert), name
    )


def _read(path: str, name: str) -> bytes:
    if not path:
        raise ConfigError(f"[tls] has no {name}: name its PEM file")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} of [tls], {path}, cannot be read: {error.strerror}") from None


def _certificates(pem: bytes, path: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{path} holds no PEM certificate") from None


def _checked(cert: bytes, key: bytes, settings: TlsSettings) -> str:
    """A name of the certificate, which must be valid and have this key."""
    certificate = _certificates(cert, settings.cert)[0]
    try:
        public = serialization.load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError):
        raise ConfigError(f"{settings.key} holds no PEM private key without a password") from None
    if public != certificate.public_key():
        raise ConfigError(f"the key {settings.key} is not that of the certificate {settings.cert}")
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        raise ConfigError(f"{settings.cert} expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = None
    found: list[str] = [
        *(names.get_values_for_type(x509.DNSName) if names else ()),
        *(map(str, names.get_values_for_type(x509.IPAddress)) if names else ()),
    ]
    if not found:
        raise ConfigError(f"{settings.cert} names no host: it needs a subjectAltName")
    return found[0].replace("*", "recserve", 1)


def _own_certificate() -> tuple[bytes, bytes]:
    """A self-signed client certificate and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "recserve supervisor")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
