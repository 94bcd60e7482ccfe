"""Certificates: those of the settings are checked, and the supervisor makes its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.server import TlsSettings

#: Validity of the supervisor's certificate, which ends with it.
_VALID: Final = timedelta(days=3650)


def parse(pem: bytes, path: str) -> list[x509.Certificate]:
    """The certificates of a PEM file.

    Raises:
        ConfigError: It holds none.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{path} holds no PEM certificate") from None


def checked(cert: bytes, key: bytes, settings: TlsSettings) -> str:
    """A name of the certificate, which must be valid and have this key.

    Raises:
        ConfigError: The key is another one's, or the certificate has expired or names no host.
    """
    certificate = parse(cert, settings.cert)[0]
    try:
        public = serialization.load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError):
        raise ConfigError(f"{settings.key} holds no PEM private key without a password") from None
    if public != certificate.public_key():
        raise ConfigError(f"the key {settings.key} is not that of the certificate {settings.cert}")
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        raise ConfigError(f"{settings.cert} expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    return name_of(certificate, settings)


def name_of(certificate: x509.Certificate, settings: TlsSettings) -> str:
    """A name of the server's certificate; raises ConfigError where it has none."""
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


def make_own() -> tuple[bytes, bytes]:
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
