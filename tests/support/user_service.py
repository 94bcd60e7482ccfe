"""Users by id without Triton: a recommender over a store whose clock stands still."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_client.contract import RequestError, Slate, UserSlate
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.config.blend import BlendRules
from recserve_server_ext.config.experiments import Experiment
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.config.server import Limits
from recserve_server_ext.counts.counter import LogCounter
from recserve_server_ext.encoder.text_cache import TextCaches
from recserve_server_ext.history.user_histories import UserHistories
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.recommend.pipeline import Recommender
from recserve_server_ext.services.logged_recommender import LoggedRecommender
from recserve_server_ext.services.recommend import UserRecommender
from support.calls import Call
from support.events import NOW, PSEUDONYMS
from support.small_snapshot import DIM

LIMITS = Limits(exclude=20, texts=4, history=50)


def vector_of(text: str) -> NDArray[np.float32]:
    """A made-up encoder: a unit vector seeded by the text."""
    vector = np.random.default_rng(list(text.encode())).normal(size=DIM)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


class Service:
    """A recommender of users over a store whose clock stands still."""

    def __init__(
        self,
        snapshot: Snapshot,
        where: Path | str,
        rules: HistoryRules | None = None,
        blend: BlendRules | None = None,
        experiments: Sequence[Experiment] = (),
        read: Callable[[], Pseudonyms] = lambda: PSEUDONYMS,
    ) -> None:
        self.logged: list[tuple[str | None, str]] = []
        keys = UserKeys(read)
        self.store = InteractionStore(where, InteractionLimits(), create=True, clock=lambda: NOW, keys=keys)
        keys.settle(self.store.database)
        self.rules = rules or HistoryRules()
        blend = blend or BlendRules()
        self.counter = LogCounter(
            lambda: self.store, self.rules, blend,
            every_s=1e9, contexts=("device",), clock=lambda: NOW,
        )  # fmt: skip
        self.handler = UserRecommender(
            lambda: View(snapshot),
            lambda newest, limits: Recommender(newest, TextCaches(100), limits),
            LIMITS,
            keys=keys,
            histories=UserHistories(lambda: self.store, self.rules, blend),
            counter=self.counter,
            blend=blend,
            experiments=experiments,
            clock=lambda: NOW,
        )

    def offer(self, answer: bytes, pseudonym: str | None, strategy: str = "text", keys: str = "") -> None:
        """Takes what is to be logged."""
        self.logged.append((pseudonym, strategy))

    def encode(self, texts: Sequence[str], encoder: str) -> NDArray[np.float32]:
        return np.stack([vector_of(text) for text in texts])

    def batch(self, *requests: Any) -> list[Any]:
        """The packed answers to requests of one batch, or their errors."""
        calls = [Call(found if isinstance(found, bytes) else json.dumps(found).encode()) for found in requests]
        model = Batcher(LoggedRecommender(self.handler, self), self.encode, encoding=2)
        now = model.run(calls)
        model.close()
        return [call.answers[0] if answer is None else answer for call, answer in zip(calls, now, strict=True)]

    def ask(self, type_: Any, **request: Any) -> Any:
        (answer,) = self.batch(request)
        if isinstance(answer, RequestError):
            raise answer
        return msgspec.json.decode(answer, type=type_)

    def recommend(self, **request: Any) -> Slate:
        found: Slate = self.ask(Slate, **request)
        return found

    def recommend_for(self, user_id: str = "ann", **request: Any) -> UserSlate:
        found: UserSlate = self.ask(UserSlate, user_id=user_id, **request)
        return found
