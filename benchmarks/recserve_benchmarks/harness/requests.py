"""Packed requests of the benchmarks, and how they travel to Triton and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from tritonclient.grpc import service_pb2

from recserve_client.calls import packed_answer, packed_call
from recserve_client.contract import Behaviour, EmbedRequest, RecommendRequest, pack
from recserve_server_ext.common.arrays import Rows

#: Texts in the history of a user who is known by texts alone.
TEXTS_PER_USER: Final = 5


def known_requests(histories: Rows) -> list[bytes]:
    """A request for each history of known items [users, behaviours]: ten items wanted, contributions on."""
    return [_packed([Behaviour(item=f"t{row}") for row in line]) for line in histories.tolist()]


def text_requests(histories: Sequence[Sequence[str]]) -> list[bytes]:
    """A request for each history of texts."""
    return [_packed([Behaviour(text=text) for text in history]) for history in histories]


def _packed(history: list[Behaviour]) -> bytes:
    """A request with a history, as the client sends it."""
    return pack(RecommendRequest(history, accept="msgpack"))


def embed_requests(texts: Sequence[str], size: int) -> list[bytes]:
    """Requests for `embed`, each for so many texts; the last one for what is left."""
    return [pack(EmbedRequest(list(texts[start : start + size]))) for start in range(0, len(texts), size)]


def unseen_texts(titles: Sequence[str], users: int, seed: int) -> list[list[str]]:
    """Histories of five titles that no film has and no other user gets, so that no cache helps.

    A title is the first words of one film's title with the last words of another's, and a number where that is needed
    to make it new.
    """
    random = np.random.default_rng([seed, 77])
    seen = set(titles)
    histories = []
    for _ in range(users):
        history: list[str] = []
        while len(history) < TEXTS_PER_USER:
            first, second = (titles[row].split() for row in random.integers(len(titles), size=2))
            title = " ".join(first[: max(1, len(first) // 2)] + second[len(second) // 2 :])
            while title in seen:
                title = f"{title} {len(seen)}"
            seen.add(title)
            history.append(title)
        histories.append(history)
    return histories


def infer_requests(model: str, packed: Iterable[bytes]) -> Iterator[bytes]:
    """Serialised ModelInferRequests of packed requests."""
    for raw in packed:
        yield packed_call(model, raw, packed_answer, None).request.SerializeToString()


def payload(answer: bytes) -> bytes:
    """The packed response in a serialised ModelInferResponse."""
    return packed_answer(service_pb2.ModelInferResponse.FromString(answer))
