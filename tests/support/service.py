"""The model `recommend` without Triton and without users: calls, batches, a made-up encoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_client.contract import RequestError, Slate, models
from recserve_server_ext.batching.batcher import Answer, Batcher
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.config.server import Limits, ServeSettings
from recserve_server_ext.counts.counts import Counts, no_counts
from recserve_server_ext.encoder.text_cache import TextCaches
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.services.recommend import RecommendService
from recserve_server_ext.services.traces import Traces
from support.calls import Call
from support.small_snapshot import DIM


def vector_of(text: str) -> NDArray[np.float32]:
    """A made-up encoder: a unit vector seeded by the text."""
    vector = np.random.default_rng(list(text.encode())).normal(size=DIM)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


class Nobody:
    """Takes the places of keys, histories, counter and log where no user is known."""

    erasures = (0, 0)
    last: Counts = no_counts()

    def follow(self, keys: object) -> None:
        """No key changes."""

    def forget_erased(self, erasures: object = None) -> None:
        """Nobody was."""

    def counts(self, *, full: bool = False) -> Counts:
        """Nothing was counted."""
        return self.last

    def offer(self, slate: Slate, pseudonym: str | None, keys: str = "") -> bool:
        """Nothing is logged."""
        return False

    def serve(self, experiments: object) -> None:
        """Nothing is noted."""


def without_users(
    newest: Callable[[], View], limits: Limits, places: int = 100, traces: Traces | None = None, **settings: Any
) -> RecommendService:
    """The handler over a catalogue."""
    nobody: Any = Nobody()
    return RecommendService(
        newest,
        TextCaches(places),
        ServeSettings(limits=limits, **settings),
        keys=nobody,
        histories=nobody,
        counter=nobody,
        log=nobody,
        traces=traces,
    )


class Service:
    """The handler behind a batcher, and what its encoder was asked."""

    def __init__(
        self,
        snapshot: Snapshot,
        limits: Limits,
        newest: Callable[[], View] | None = None,
        traces: Traces | None = None,
        **settings: Any,
    ) -> None:
        self.asked: list[list[str]] = []
        self.snapshot = snapshot
        view = View(snapshot)
        self.recommender = without_users(newest or (lambda: view), limits, traces=traces, **settings)

    def encode(self, texts: Sequence[str], encoder: str) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        return np.stack([vector_of(text) for text in texts])

    def send(self, *raws: bytes | RequestError | Call) -> list[Answer]:
        calls = [raw if isinstance(raw, Call) else Call(raw) for raw in raws]
        model = Batcher(self.recommender, {models.ENCODER: self.encode}, at_once=2)
        now = model.run(calls)
        model.close()
        answers = [call.answers if answer is None else [answer] for call, answer in zip(calls, now, strict=True)]
        assert [len(answer) for answer in answers] == [1] * len(calls)
        return [answer[0] for answer in answers]

    def ask(self, **options: Any) -> Slate:
        (answer,) = self.send(json.dumps(options).encode())
        if isinstance(answer, RequestError):
            raise answer
        return msgspec.json.decode(answer, type=Slate)
