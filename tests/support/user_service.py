"""Users by id without Triton: the model `recommend` over a store whose clock stands still."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_client.contract import RequestError, Slate, SlateItem, models
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.config.counts import CountSettings
from recserve_server_ext.config.experiments import Experiment
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.config.server import Limits, ServeSettings
from recserve_server_ext.counts.counter import LogCounter
from recserve_server_ext.encoder.text_cache import TextCaches
from recserve_server_ext.history.user_histories import UserHistories
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.services.recommend import RecommendService
from support.calls import Call
from support.events import NOW, PSEUDONYMS
from support.service import vector_of

LIMITS = Limits(exclude=20, texts=4, history=50)
#: Users besides those of the tests.
OTHERS = [PSEUDONYMS.of(f"other{n}") for n in range(30)]


class Service:
    """The handler over a store whose clock stands still."""

    def __init__(
        self,
        snapshot: Snapshot,
        where: Path | str,
        rules: HistoryRules | None = None,
        counts: CountSettings | None = None,
        experiments: Callable[[], Sequence[Experiment]] = tuple,
        read: Callable[[], Pseudonyms] = lambda: PSEUDONYMS,
        strategies: Mapping[str, dict[str, Any]] | None = None,
        limits: Limits = LIMITS,
        chosen: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.logged: list[tuple[str | None, str]] = []
        keys = UserKeys(read)
        self.store = InteractionStore(where, InteractionLimits(), create=True, clock=lambda: NOW, keys=keys)
        keys.settle(self.store.database)
        self.rules = rules or HistoryRules()
        counting = msgspec.structs.replace(counts or CountSettings(), every_s=1e9, contexts=("device",))
        self.counter = LogCounter(lambda: self.store, self.rules, counting, clock=lambda: NOW)
        view = View(snapshot)
        self.handler = RecommendService(
            lambda: view,
            TextCaches(100),
            ServeSettings(
                limits=limits,
                strategies=dict(strategies or {}),
            ),
            keys=keys,
            histories=UserHistories(lambda: self.store, self.rules),
            counter=self.counter,
            log=self,
            chosen=chosen,
            experiments=experiments,
            clock=lambda: NOW,
        )

    def offer(self, slate: Slate, pseudonym: str | None, keys: str = "") -> bool:
        """Takes what is to be logged."""
        self.logged.append((pseudonym, slate.strategy))
        return True

    def serve(self, experiments: Sequence[Experiment]) -> None:
        """Takes what is to be noted."""

    def encode(self, texts: Sequence[str], encoder: str) -> NDArray[np.float32]:
        return np.stack([vector_of(text) for text in texts])

    def batch(self, *requests: Any) -> list[Any]:
        """The packed answers to requests of one batch, or their errors."""
        calls = [Call(found if isinstance(found, bytes) else json.dumps(found).encode()) for found in requests]
        model = Batcher(self.handler, {models.ENCODER: self.encode}, at_once=2)
        now = model.run(calls)
        model.close()
        return [call.answers[0] if answer is None else answer for call, answer in zip(calls, now, strict=True)]

    def recommend(self, **request: Any) -> Slate:
        """The answer to a request."""
        (answer,) = self.batch(request)
        if isinstance(answer, RequestError):
            raise answer
        return msgspec.json.decode(answer, type=Slate)

    def recommend_for(self, user_id: str = "ann", **request: Any) -> Slate:
        """The answer to a request by user id."""
        return self.recommend(user_id=user_id, **request)


def parts_of(item: SlateItem) -> dict[str, float]:
    """What its score is made of; one part is not told apart from the score."""
    if isinstance(item.parts, msgspec.UnsetType):
        assert item.boosts is msgspec.UNSET
        return {"text": item.score}
    return item.parts
