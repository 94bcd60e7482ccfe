"""The model `interactions` without Triton: a store, and the desk that answers packed requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from recserve_client.contract import RequestError
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.config.server import Limits
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.services.interactions import InteractionService
from support.calls import Call
from support.events import NOW, PSEUDONYMS


class Desk:
    """A desk over a store whose clock stands still."""

    def __init__(
        self,
        where: Path | str,
        limits: Limits | None = None,
        read: Callable[[], Pseudonyms] = lambda: PSEUDONYMS,
        **kept: Any,
    ) -> None:
        keys = UserKeys(read)
        self.store = InteractionStore(where, InteractionLimits(**kept), create=True, clock=lambda: NOW, keys=keys)
        keys.settle(self.store.database)
        self.desk = InteractionService(lambda: self.store, keys, HistoryRules(), limits or Limits())
        self._model = Batcher(self.desk, {})

    def batch(self, *requests: Any) -> list[Any]:
        """The answers to requests of one batch, decoded; errors as they are."""
        calls = [Call(found if isinstance(found, bytes) else json.dumps(found).encode()) for found in requests]
        return [
            found if isinstance(found, RequestError) else msgspec.json.decode(found or b"null")
            for found in self._model.run(calls)
        ]

    def ask(self, **request: Any) -> Any:
        """The answer to one request."""
        (answer,) = self.batch(request)
        if isinstance(answer, RequestError):
            raise answer
        return answer

    def close(self) -> None:
        self._model.close()
        self.store.close()


def act(user_id: str = "ann", item: str | None = "i1", **fields: Any) -> dict[str, Any]:
    """A click of Ann on `i1` a minute ago, unless told otherwise, as it comes over the wire."""
    return {"user_id": user_id, "type": "click", "timestamp": NOW - 60, "item": item, **fields}
