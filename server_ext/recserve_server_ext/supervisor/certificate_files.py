"""The files of TLS: read at the start, and again when they were replaced."""

from __future__ import annotations

from pathlib import Path

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.server import TlsSettings
from recserve_server_ext.supervisor.event_log import EventLog
from recserve_server_ext.triton.tls import ServerTls, server_tls

#: Identity, time and size of each file; `None` for one that is missing.
_Stamp = tuple[tuple[int, int, int] | None, ...]


class CertificateFiles:
    """Certificate, key and authorities of a server, which others renew."""

    def __init__(self, settings: TlsSettings, folder: Path, log: EventLog) -> None:
        """
        Args:
            settings: Names the files.
            folder: The folder that the server runs from.
            log: Where events go.
        """
        self._settings = settings
        self._folder = folder
        self._log = log
        self._read = self._last = self._stamp()

    def read(self) -> ServerTls | None:
        """TLS of the files as they are; `None` without a certificate. Raises ConfigError as `server_tls`."""
        self._read = self._last = self._stamp()
        return server_tls(self._settings, self._folder)

    def renewed(self) -> ServerTls | None:
        """TLS of files that were replaced, and are the same as at the last look; `None` where there is nothing new.

        Files that cannot be used are logged, and looked at again when they change.
        """
        before, self._last = self._last, self._stamp()
        # Certificate and key are replaced one after the other.
        if self._last == self._read or self._last != before:
            return None
        return self.usable(None)

    def usable(self, otherwise: ServerTls | None) -> ServerTls | None:
        """TLS of the files as they are, or else what it was; files that cannot be used are logged."""
        try:
            return self.read()
        except ConfigError as error:
            self._log("certificate_refused", fault=str(error))
            return otherwise

    def _stamp(self) -> _Stamp:
        settings = self._settings
        return tuple(_stat(path) for path in (settings.cert, settings.key, settings.client_ca) if path)


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
