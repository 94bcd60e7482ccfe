"""A catalogue that is changed in a test: store, snapshot and a made-up encoder, without Triton."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_client.contract import ItemsChanged, ItemsFound, RequestError
from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.config.server import Limits, ModelSettings, ServeSettings
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.snapshot import Content, write
from recserve_server_ext.index.space import TEXT, SpaceContent
from recserve_server_ext.services.items import ItemService
from recserve_server_ext.services.own_spaces import own_spaces

DIM = 16
ENCODER = "test"
#: A space of the caller's own.
IMAGES = "images"
WEIGHTS = {"title": 2.0, "genre": 1.0}


def vector_of(text: str, encoder: str = ENCODER) -> NDArray[np.float32]:
    """The unit vector of a text, seeded by it and the encoder; "not X" is opposite to "X"."""
    if text.startswith("not "):
        return -vector_of(text[4:], encoder)
    seed = text if encoder == ENCODER else f"{encoder} {text}"
    vector = np.random.default_rng(list(seed.encode())).normal(size=DIM)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def item_vector(texts: dict[str, str], encoder: str = ENCODER) -> NDArray[np.float32]:
    """v = normalise(sum_f a_f G(y_f))."""
    total = sum(WEIGHTS[name] * vector_of(text, encoder).astype(np.float64) for name, text in texts.items())
    return np.asarray(total / np.linalg.norm(total), np.float32)


def _graph(vectors: Vectors) -> Engine:
    return HnswEngine.build(vectors, m=16, ef_construction=100, ef=200, threads=1)


class Edited:
    """A store with films, their snapshot, and the editor of the model `items`."""

    def __init__(self, folder: Path, where: Path | str, *, items: int = 30, limits: Limits | None = None) -> None:
        self._open(folder, where, limits or Limits())
        films = [StoredItem(f"i{row}", {"title": f"film {row}"}, {"year": 1900 + row}) for row in range(items)]
        self.store.replace_all(films, field_weights=WEIGHTS)
        self.publish()

    @classmethod
    def reopened(cls, folder: Path, where: Path | str) -> Edited:
        """The one that another process made."""
        edited = cls.__new__(cls)
        edited._open(folder, where, Limits())
        return edited

    def _open(self, folder: Path, where: Path | str, limits: Limits) -> None:
        self.snapshots = folder / "snapshots"
        self.store = CatalogueStore(where, create=True)
        self.asked: list[str] = []
        serve = ServeSettings(strategies={IMAGES: {"kind": "vectors"}})
        spaces = own_spaces(ModelSettings(str(folder), str(self.snapshots), "", serve, "", "", ""))
        self.editor = ItemService(lambda: self.store, lambda: self.encoder, spaces, limits)
        self.encoder = ENCODER

    def publish(self, encoder: str = ENCODER, build: Callable[[Vectors], Engine] = _graph) -> Path:
        """A snapshot of all items, as `index build` would make it."""
        head, found = self.store.head(), list(self.store.items())
        vectors = np.stack([item_vector(item.texts, encoder) for item in found])
        content = Content(
            spaces={TEXT: SpaceContent(vectors=vectors, engine=build(vectors))},
            ids=[item.id for item in found],
            encoder=encoder,
            revision=head.revision,
            source=head.identity,
            available=np.array([item.available for item in found]),
            fields=[item.fields for item in found],
            field_weights=head.field_weights,
        )
        return write(self.snapshots, content)

    def encode(self, texts: Sequence[str], encoder: str) -> NDArray[np.float32]:
        """What the model of this encoder would answer."""
        self.asked += texts
        return np.stack([vector_of(text, encoder) for text in texts])

    def send(self, **request: Any) -> bytes:
        """The packed answer to a request, all steps of it."""
        self.editor.begin()
        job = self.editor.accept(json.dumps(request).encode())
        self.editor.look_up([job])
        while (call := self.editor.pending(job)) is not None:
            self.editor.resume([job], call, self.encode(call.inputs, call.version), 0)
        (answer,) = self.editor.answer([job])
        if isinstance(answer, RequestError):
            raise answer
        return answer

    def change(self, op: str, items: Sequence[dict[str, Any]], request_id: str = "") -> ItemsChanged:
        """Make a change."""
        answer = self.send(op=op, items=list(items), request_id=request_id)
        return msgspec.json.decode(answer, type=ItemsChanged)

    def statuses(self, op: str, *items: dict[str, Any]) -> list[str]:
        """What became of each item of a change."""
        return [result.status for result in self.change(op, items).results]

    def find(self, **request: Any) -> ItemsFound:
        """Ask for items."""
        return msgspec.json.decode(self.send(**request), type=ItemsFound)
