"""A connection to Milvus: made at the first call, every call with a deadline and one kind of error."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from recserve_client.contract.addresses import channel_options
from recserve_server_ext.common.errors import ConfigError, MilvusError
from recserve_server_ext.config.milvus import MilvusSettings

#: Pause before Milvus is asked again after it did not answer; callers are refused meanwhile.
_PAUSE_S = 1.0
_CONNECT_S = 10.0
#: Milvus's code of a refusal without a code of its own: it is there.
_ANSWERED = 65_535
_SHOWN = 300

_log = logging.getLogger(__name__)


class MilvusConnection:
    """Calls methods of pymilvus's client; several threads may use it.

    pymilvus tries again within the deadline of a call, and reconnects when Milvus comes back. This class adds that a
    server can start without Milvus, and that only one call a second waits for a Milvus that is away.
    """

    def __init__(self, settings: MilvusSettings) -> None:
        """Connect later; without a `uri` in the settings every call is refused."""
        self.settings = settings
        self._client: Any = None
        self._lock = threading.Lock()
        self._ask_again = 0.0
        self._fault = ""

    def call(self, method: str, *arguments: Any, timeout_s: float | None = None, **options: Any) -> Any:
        """Call a method of the client.

        Args:
            timeout_s: Deadline; by default that of loading.

        Raises:
            MilvusError: Milvus is away, refused, or did not answer in time.
            ConfigError: pymilvus is not installed, or the settings have no uri.
        """
        timeout_s = self.settings.load_s if timeout_s is None else timeout_s
        client = self._connected(timeout_s)
        # Imported here: the package is an extra, which `_connect` has found by now.
        import grpc
        from pymilvus.exceptions import MilvusException

        what = f"{_named(self.settings.uri)}: {method}"
        try:
            return getattr(client, method)(*arguments, timeout=timeout_s, **options)
        except MilvusException as error:
            raise MilvusError(f"{what}: {_shown(error.message)}", is_away=error.code != _ANSWERED) from error
        except grpc.RpcError as error:
            raise MilvusError(f"{what}: {error.code().name}: {error.details()}", is_away=True) from error

    def check(self) -> None:
        """Check that Milvus is there; for the errors see `call`."""
        self._connected(_CONNECT_S)

    def ask(self, method: str, *arguments: Any, timeout_s: float, **options: Any) -> Any:
        """As `call`, but after Milvus was away every caller is refused at once for a second."""
        if time.monotonic() < self._ask_again:
            raise MilvusError(self._fault)
        try:
            return self.call(method, *arguments, timeout_s=timeout_s, **options)
        except MilvusError as error:
            _log.error("%s", error)
            if error.is_away:
                self._fault = str(error)
                self._ask_again = time.monotonic() + _PAUSE_S
            raise

    def _connected(self, timeout_s: float) -> Any:
        # Held while connecting, so that callers wait for one attempt together.
        with self._lock:
            if self._client is None:
                self._client = _connect(self.settings, timeout_s)
            return self._client


def _connect(settings: MilvusSettings, timeout_s: float) -> Any:
    if not settings.uri:
        raise ConfigError(
            "the index is in Milvus, but nothing says where: set uri in the table [milvus] of the settings, "
            "or give --milvus-uri"
        )
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise ConfigError(f"Milvus needs pymilvus ({error}); install recserve[milvus]") from error
    # It logs every refusal with a traceback, and the caller gets it as an error anyway.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    try:
        # This timeout also limits what a call spends on reconnecting.
        return MilvusClient(
            settings.uri,
            token=settings.token(),
            timeout=min(timeout_s / 2, _CONNECT_S),
            grpc_options=dict(channel_options(urlsplit(settings.uri).netloc.rpartition("@")[2])),
        )
    except MilvusException as error:
        text = f"{_named(settings.uri)} cannot be reached: {_shown(error.message)}"
        raise MilvusError(text, is_away=True) from error


def _named(uri: str) -> str:
    """Milvus with its address, without credentials in the URI."""
    return f"Milvus at {urlsplit(uri).netloc.rpartition('@')[2]}"


def _shown(text: str) -> str:
    return " ".join(text.split())[:_SHOWN]
