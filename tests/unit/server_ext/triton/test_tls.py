"""Settings of TLS that cannot work are refused in a line before a server starts."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.server import TlsSettings
from recserve_server_ext.triton.process import Endpoint
from recserve_server_ext.triton.tls import ServerTls, server_tls
from support.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def opened(folder: Path, **files: Path) -> ServerTls:
    settings = msgspec.convert({name: str(path) for name, path in files.items()}, TlsSettings)
    found = server_tls(settings, folder)
    assert found is not None
    return found


def test_without_a_certificate_there_is_none(tmp_path: Path) -> None:
    assert server_tls(TlsSettings(), tmp_path) is None
    assert not any("ssl" in option for option in Endpoint("127.0.0.1", 1, 2).options)


@pytest.mark.parametrize(("host", "name"), [("a.test", "a.test"), ("*.b.test", "recserve.b.test"), ("::1", "::1")])
def test_tls_and_the_name_that_probes_expect(authority: Authority, tmp_path: Path, host: str, name: str) -> None:
    files = authority.issue("server", host)
    tls = opened(tmp_path, cert=files.cert, key=files.key)
    assert tls.server_name == name
    assert Endpoint("127.0.0.1", 1, 2, tls).options[-5:] == [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={files.cert}",
        f"--grpc-server-key={files.key}",
        "--grpc-max-connection-age=60000",
        "--reuse-grpc-port=true",
    ]


def test_mutual_tls_lets_the_supervisor_in_and_writes_no_key(authority: Authority, tmp_path: Path) -> None:
    files, run = authority.issue("server", "a.test"), tmp_path / "run"
    run.mkdir()
    tls = opened(run, cert=files.cert, key=files.key, client_ca=authority.cert)
    assert tls.options[0] == "--grpc-use-ssl-mutual=true"
    (bundle,) = run.iterdir()
    assert tls.options[-1] == f"--grpc-root-cert={bundle}"
    assert len(x509.load_pem_x509_certificates(bundle.read_bytes())) == 2
    assert b"PRIVATE" not in bundle.read_bytes()


def test_what_cannot_work_is_refused(authority: Authority, tmp_path: Path) -> None:
    server, other = authority.issue("server", "a.test"), authority.issue("other", "b.test")
    old = authority.issue("old", "a.test", valid=timedelta(seconds=-1))
    nameless = authority.issue("nameless")
    text = tmp_path / "text"
    text.write_text("no PEM")
    for files, told in (
        ({"key": server.key}, "no cert"),
        ({"client_ca": authority.cert}, "no cert"),
        ({"cert": server.cert}, "no key"),
        ({"cert": tmp_path / "none", "key": server.key}, "none, cannot be read: No such file"),
        ({"cert": text, "key": server.key}, "holds no PEM certificate"),
        ({"cert": server.cert, "key": text}, "holds no PEM private key"),
        ({"cert": server.cert, "key": other.key}, "is not that of the certificate"),
        ({"cert": old.cert, "key": old.key}, "expired at"),
        ({"cert": nameless.cert, "key": nameless.key}, "subjectAltName"),
        ({"cert": server.cert, "key": server.key, "client_ca": text}, "holds no PEM certificate"),
    ):
        with pytest.raises(ConfigError, match=told):
            opened(tmp_path, **files)
