"""TLS of the HTTP API: the files of its certificate, a renewed one, and a request over it."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import urllib.request
from pathlib import Path

import pytest
import typer
import uvicorn
from typer.testing import CliRunner

from recserve_client.cli import http
from recserve_client.http.listening import Certificate, _Server
from support.certificates import Authority, Files
from support.http_api import http_api


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def files(authority: Authority) -> Files:
    return authority.issue("api", "127.0.0.1")


def test_files_that_are_no_certificate_are_refused(files: Files, authority: Authority, tmp_path: Path) -> None:
    assert Certificate.of(None, None) is None
    assert Certificate.of(files.cert, files.key) == Certificate(files.cert, files.key)
    other = authority.issue("other", "127.0.0.1")
    (tmp_path / "text").write_text("no certificate")
    for cert, key in ((files.cert, None), (None, files.key), (files.cert, other.key), (tmp_path / "text", files.key)):
        with pytest.raises(ValueError, match="certificate"):
            Certificate.of(cert, key)
    with pytest.raises(OSError, match="No such file"):
        Certificate.of(tmp_path / "gone", files.key)


def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(
    files: Files, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(files.cert, files.key)
    config = uvicorn.Config(lambda: None, ssl_certfile=files.cert, ssl_keyfile=files.key)
    config.load()
    server = _Server(config, lambda: None, lambda: None, certificate)

    def replace(cert: str, key: str) -> None:
        for path, content in ((files.cert, cert), (files.key, key)):
            path.write_text(content)
            os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
        server._renew(certificate)

    async def served() -> list[str]:
        found = []
        listening = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=config.ssl)
        async with listening:
            address = listening.sockets[0].getsockname()
            new = authority.issue("new", "127.0.0.1")
            for cert, key in ((new.cert.read_text(), new.key.read_text()), ("broken", "broken")):
                found.append(await asyncio.to_thread(ssl.get_server_certificate, address))
                replace(cert, key)
            found.append(await asyncio.to_thread(ssl.get_server_certificate, address))
            assert found[1].split() == new.cert.read_text().split()
        return found

    first, second, third = asyncio.run(served())
    assert first != second
    assert second == third
    assert "the certificate stays as it was" in caplog.text


def test_the_api_answers_over_tls(files: Files, authority: Authority) -> None:
    with http_api("127.0.0.1:1", "--tls-cert", str(files.cert), "--tls-key", str(files.key)) as address:
        trusting = ssl.create_default_context(cafile=authority.cert)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting)
        )
        with opener.open(f"https://{address}/v1/health/live", timeout=30) as answer:
            assert answer.status == 200
        with pytest.raises(OSError, match=r"\w"):
            opener.open(f"http://{address}/v1/health/live", timeout=30)


def test_the_command_names_what_an_open_address_needs(files: Files, tmp_path: Path) -> None:
    program = typer.Typer()
    program.command()(http.http)
    refused = CliRunner().invoke(program, ["--host", "0.0.0.0", "--port", "0"])
    assert refused.exit_code == 1
    assert "--tls-cert" in refused.stderr
    shutil.copy(files.cert, tmp_path / "alone.crt")
    refused = CliRunner().invoke(program, ["--port", "0", "--tls-cert", str(tmp_path / "alone.crt")])
    assert refused.exit_code == 2
    assert "a certificate needs its key" in refused.stderr
