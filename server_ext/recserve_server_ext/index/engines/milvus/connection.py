"""A connection to Milvus: made when it is first needed, every call with a deadline and one kind of error."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from recserve_server_ext.common.errors import ConfigError, MilvusError
from recserve_server_ext.config.milvus import MilvusSettings

#: Before Milvus is asked again after it did not answer: until then callers are refused at once.
_PAUSE_S = 1.0
_CONNECT_S = 10.0
#: Milvus's code of a refusal without a code of its own: it is there.
_ANSWERED = 65_535
_SHOWN = 300

_log = logging.getLogger(__name__)


class MilvusConnection:
    """Calls methods of pymilvus's client; safe to use from several threads.

    pymilvus tries again within the deadline of a call, and its channel connects again by itself when Milvus comes
    back; what is added here is that Milvus need not be there when a server starts, and that only one call a second
    waits for a Milvus that is away.
    """

    def __init__(self, settings: MilvusSettings) -> None:
        """Connect later.

        Args:
            settings: Where Milvus is; without a `uri` every call is refused.
        """
        self.settings = settings
        self._name = _named(settings.uri)
        self._client: Any = None
        self._lock = threading.Lock()
        self._ask_again = 0.0
        self._fault = ""

    def call(self, method: str, *arguments: Any, timeout_s: float, **options: Any) -> Any:
        """Call a method of the client.

        Args:
            method: Its name.
            arguments: Handed over.
            timeout_s: Deadline.
            options: Handed over.

        Raises:
            MilvusError: Milvus is away, refused, or did not answer in time.
            ConfigError: pymilvus is not installed, or nothing says where Milvus is.
        """
        client = self._connected(timeout_s)
        # Here, since the package is an extra, which `_connect` has found by now.
        import grpc
        from pymilvus.exceptions import MilvusException

        try:
            return getattr(client, method)(*arguments, timeout=timeout_s, **options)
        except MilvusException as error:
            fault = MilvusError(f"{self._name}: {method}: {_shown(error.message)}")
            fault.is_away = error.code != _ANSWERED
            raise fault from error
        except grpc.RpcError as error:
            fault = MilvusError(f"{self._name}: {method}: {error.code().name}: {error.details()}")
            fault.is_away = True
            raise fault from error

    def check(self) -> None:
        """See whether Milvus is there.

        Raises:
            MilvusError: It is not.
            ConfigError: As `call`.
        """
        self._connected(_CONNECT_S)

    def ask(self, method: str, *arguments: Any, timeout_s: float, **options: Any) -> Any:
        """`call`, but when Milvus is away everybody is refused at once for a second.

        Raises:
            MilvusError: As `call`.
            ConfigError: As `call`.
        """
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
        # Also what a call spends at most on connecting again.
        return MilvusClient(settings.uri, token=settings.token(), timeout=min(timeout_s / 2, _CONNECT_S))
    except MilvusException as error:
        fault = MilvusError(f"{_named(settings.uri)} cannot be reached: {_shown(error.message)}")
        fault.is_away = True
        raise fault from error


def _named(uri: str) -> str:
    """Milvus with its address, but without what a URI may say about users."""
    return f"Milvus at {urlsplit(uri).netloc.rpartition('@')[2]}"


def _shown(text: str) -> str:
    return " ".join(text.split())[:_SHOWN]
