"""Certificate files that others renew: when they are taken, and what is said of those that cannot be."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.server import TlsSettings
from recserve_server_ext.supervisor.certificate_files import CertificateFiles
from recserve_server_ext.supervisor.event_log import EventLog
from support.certificates import Authority


class Renewed:
    """Files of a server, and what was logged of them."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "ours")
        self.files = self.authority.issue("server", "a.test")
        self._stream = io.StringIO()
        settings = TlsSettings(cert=str(self.files.cert), key=str(self.files.key))
        self.watched = CertificateFiles(settings, folder, EventLog(as_json=True, stream=self._stream))

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self._stream.getvalue().splitlines()]


@pytest.fixture
def renewed(tmp_path: Path) -> Renewed:
    return Renewed(tmp_path)


def test_without_a_certificate_there_is_nothing_to_watch(tmp_path: Path) -> None:
    watched = CertificateFiles(TlsSettings(), tmp_path, EventLog(as_json=True))
    assert watched.read() is None
    assert watched.renewed() is None


def test_files_are_taken_once_when_they_no_longer_change(renewed: Renewed) -> None:
    assert renewed.watched.read() is not None
    assert [renewed.watched.renewed() for _ in range(3)] == [None] * 3
    renewed.authority.issue("server", "b.test")
    assert renewed.watched.renewed() is None  # the key may come after the certificate
    taken = renewed.watched.renewed()
    assert taken is not None
    assert taken.server_name == "b.test"
    assert [renewed.watched.renewed() for _ in range(3)] == [None] * 3
    assert renewed.events() == []


def test_files_that_cannot_be_used_are_said_once_and_tried_again_when_they_change(renewed: Renewed) -> None:
    before = renewed.watched.read()
    key = renewed.files.key.read_bytes()
    renewed.files.key.unlink()
    assert [renewed.watched.renewed() for _ in range(4)] == [None] * 4
    assert renewed.events() == ["certificate_refused"]
    assert renewed.watched.usable(before) is before
    renewed.files.key.write_bytes(key)
    renewed.watched.renewed()
    assert renewed.watched.renewed() is not None


def test_a_link_that_points_elsewhere_is_a_change(renewed: Renewed, tmp_path: Path) -> None:
    """As Kubernetes replaces the files of a Secret."""
    renewed.watched.read()
    other = renewed.authority.issue("other", "c.test")
    for ours, theirs in ((renewed.files.cert, other.cert), (renewed.files.key, other.key)):
        link = tmp_path / "link"
        link.symlink_to(theirs)
        os.replace(link, ours)
    renewed.watched.renewed()
    taken = renewed.watched.renewed()
    assert taken is not None
    assert taken.server_name == "c.test"


def test_at_the_start_they_must_be_right(renewed: Renewed) -> None:
    renewed.files.cert.write_text("none")
    with pytest.raises(ConfigError):
        renewed.watched.read()
