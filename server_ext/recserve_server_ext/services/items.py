"""Requests to the model `items` -> durable changes of the catalogue. No Triton here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from recserve_client.contract import (
    DeleteItems,
    ErrorKind,
    GetItems,
    ItemResult,
    ItemsChanged,
    ItemsFound,
    ItemsRequest,
    ListItems,
    RequestError,
    Unpacker,
    UpsertItems,
    models,
    pack,
    shown,
)
from recserve_server_ext.batching.batcher import Answer, ModelCall
from recserve_server_ext.batching.request_checks import too_large
from recserve_server_ext.catalogue import changes as changes
from recserve_server_ext.catalogue.changes import Put, Request, Take
from recserve_server_ext.catalogue.item_checks import Checked, ItemChecks
from recserve_server_ext.catalogue.store import CatalogueStore, Head
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import CatalogueError
from recserve_server_ext.config.server import Limits
from recserve_server_ext.encoder.item_vectors import PairCollector, Pairs, made_with, pooled

#: Items encoded at a time: recommendations with texts are answered between two such parts.
_PART: Final = 64


class ItemsJob(Struct):
    """One accepted request on its way to an answer; times are in nanoseconds.

    Attributes:
        request: As it was sent.
        digest: Hash of it.
        encoder: Runtime fingerprint of what encodes its texts.
        head: The state of the catalogue that it was checked against.
        checked: Items of a change.
        new_texts: Places in `checked` of those whose texts are not the stored ones, and that have no vector yet.
        pairs: Weighted texts of the first of these, which are being encoded.
        vector_of: Vector by place, of those.
        waited_ns: Time spent waiting.
        resolve_ns: Time of the batch's decoding and look-ups.
    """

    request: ItemsRequest
    digest: str
    encoder: str
    head: Head | None = None
    checked: list[Checked] = []
    new_texts: list[int] = []
    pairs: Pairs | None = None
    vector_of: dict[int, bytes] = {}
    waited_ns: int = 0
    resolve_ns: int = 0


class ItemService:
    """Changes and reads the catalogue; the vectors of new texts are stored with the items.

    The way of a request: `accept` (decode), `look_up` (check against the store), calls of the encoder while there are
    new texts (`pending`, `resume`), `answer` (write).
    """

    def __init__(self, store: Callable[[], CatalogueStore], served: Callable[[], str], limits: Limits) -> None:
        """
        Args:
            store: Opens the catalogue store.
            served: Runtime fingerprint of the encoder that is served now.
            limits: The largest request.
        """
        self._open = store
        self._served = served
        self._encoder = ""
        self._limits = limits
        self._checks = ItemChecks(limits)
        self._unpack = Unpacker[ItemsRequest](ItemsRequest)

    def begin(self) -> None:
        """Look which encoder is served: the new texts of a batch go to the same one."""
        self._encoder = self._served()

    def accept(self, raw: bytes) -> ItemsJob:
        """Decode a request.

        Raises:
            RequestError: It is refused.
        """
        if len(raw) > self._limits.items_bytes:
            raise too_large("the request", len(raw), "bytes", "items_bytes", self._limits.items_bytes)
        return ItemsJob(self._unpack(raw), hashlib.sha256(raw).hexdigest(), self._encoder)

    def look_up(self, jobs: Sequence[ItemsJob]) -> None:
        """Check the items of changes, and see which have texts that are not stored yet.

        What is wrong with the store or the request id is told by `answer`, which looks again.
        """
        for job in jobs:
            if isinstance(job.request, UpsertItems | DeleteItems):
                try:
                    self._check(job, job.request)
                except (CatalogueError, changes.RequestIdReusedError):
                    job.head = None

    def pending(self, job: ItemsJob) -> ModelCall | None:
        """The texts of the next items that have no vector yet."""
        if not job.new_texts:
            return None
        if job.pairs is None:
            assert job.head is not None
            collector = PairCollector(job.head.field_weights)
            for place in job.new_texts[:_PART]:
                item = job.checked[place].item
                assert item is not None
                collector.add(item.texts)
            job.pairs = collector.pairs()
        return ModelCall(models.ENCODER, job.encoder, job.pairs.texts)

    def resume(self, jobs: Sequence[ItemsJob], call: ModelCall, results: Vectors, took_ns: int) -> None:
        """Make the vectors of these items."""
        place_of = {text: n for n, text in enumerate(call.inputs)}
        for job in jobs:
            assert job.pairs is not None
            vectors, cancelled = pooled(job.pairs, results[[place_of[text] for text in job.pairs.texts]])
            for place, vector, is_cancelled in zip(job.new_texts, vectors, cancelled.tolist(), strict=False):
                if is_cancelled:
                    found = job.checked[place]
                    why = f"$.items[{place}]: the weighted vectors of its texts cancel out"
                    job.checked[place] = found._replace(item=None, refusal=ItemResult(found.id, "refused", why))
                else:
                    job.vector_of[place] = vector.astype("<f4").tobytes()
            job.new_texts, job.pairs = job.new_texts[_PART:], None

    def answer(self, jobs: Sequence[ItemsJob]) -> list[Answer]:
        """Write, or read, each request on its own: an error is its own too."""
        return [self._answer(job) for job in jobs]

    def _check(self, job: ItemsJob, request: UpsertItems | DeleteItems) -> None:
        if changes.answered(self._open(), Request(request.request_id, job.digest)) is not None:
            return
        job.head = self._open().head()
        if isinstance(request, DeleteItems):
            job.checked = self._checks.old(request.items)
            return
        job.checked = self._checks.new(request.items, job.head.field_weights)
        stored = self._open().get_many([found.item.id for found in job.checked if found.item is not None])
        job.new_texts = [
            place
            for place, found in enumerate(job.checked)
            if found.item is not None
            and ((before := stored.get(found.item.id)) is None or before.texts != found.item.texts)
        ]

    def _answer(self, job: ItemsJob) -> Answer:
        try:
            match job.request:
                case UpsertItems() | DeleteItems():
                    return pack(self._change(job, job.request))
                case GetItems(ids):
                    return pack(self._get(ids))
                case ListItems(after, limit):
                    return pack(self._list(after, limit))
        except CatalogueError as error:
            return RequestError(ErrorKind.UNAVAILABLE, str(error))
        except RequestError as error:
            return error

    def _change(self, job: ItemsJob, request: UpsertItems | DeleteItems) -> ItemsChanged:
        known = Request(request.request_id, job.digest)
        if job.head is None:
            if (before := self._answered(known)) is not None:
                return before
            raise CatalogueError(
                f"the catalogue store {self._open()} could not be read when the request came; try again"
            )
        wanted = [self._wanted(job, place) for place in range(len(job.checked))]
        with_ = made_with(job.encoder, job.head.field_weights)
        try:
            return changes.change(self._open(), wanted, known, job.head, with_)
        except changes.RequestIdReusedError:
            raise _reused(known) from None
        except changes.ChangedMeanwhileError:
            raise RequestError(
                ErrorKind.UNAVAILABLE, "another writer changed these items at the same moment; try again"
            ) from None

    def _answered(self, request: Request) -> ItemsChanged | None:
        try:
            return changes.answered(self._open(), request)
        except changes.RequestIdReusedError:
            raise _reused(request) from None

    @staticmethod
    def _wanted(job: ItemsJob, place: int) -> Put | Take | ItemResult:
        found = job.checked[place]
        if found.refusal is not None:
            return found.refusal
        if found.item is None:
            return Take(found.id, found.if_revision)
        return Put(found.item, job.vector_of.get(place), found.if_revision)

    def _get(self, ids: Sequence[str]) -> ItemsFound:
        revision, found = self._open().get_rows(ids)
        missing = [name for name in ids if name not in found]
        return ItemsFound(revision, [found[name] for name in dict.fromkeys(ids) if name in found], missing)

    def _list(self, after: str, limit: int) -> ItemsFound:
        revision, page = self._open().page(after, limit)
        return ItemsFound(revision, page, next=page[-1].id if len(page) == limit else "")


def _reused(request: Request) -> RequestError:
    return RequestError(
        ErrorKind.REQUEST_ID_REUSED,
        f"request_id {shown(request.id)} was used for another change; give every change an id of its own",
    )
