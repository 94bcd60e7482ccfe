"""TLS of the client, as the environment sets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from recserve_client import Client, Tls


def test_the_environment_sets_it() -> None:
    assert Tls.from_environment({}) is None
    assert Tls.from_environment({"RECSERVE_TLS_CA": "/ca"}) == Tls(ca=Path("/ca"))
    every = {name: f"/{name}" for name in ("RECSERVE_TLS_CERT", "RECSERVE_TLS_KEY")}
    found = Tls.from_environment({**every, "RECSERVE_TLS_SERVER_NAME": "recs.test"})
    assert found == Tls(cert=Path("/RECSERVE_TLS_CERT"), key=Path("/RECSERVE_TLS_KEY"), server_name="recs.test")
    assert found is not None
    assert found.channel_options() == [("grpc.ssl_target_name_override", "recs.test")]


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(ValueError, match="needs its key"):
        Tls(cert=Path("/cert"))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pem"):
        Client("127.0.0.1:1", tls=Tls(ca=tmp_path / "none.pem"))
