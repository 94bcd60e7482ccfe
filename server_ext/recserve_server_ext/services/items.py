"""The service behind the Triton model `items`: durable changes of the catalogue, and reads. Independent of Triton."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
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
from recserve_server_ext.batching.batcher import Answer, Handler, ModelCall
from recserve_server_ext.batching.request_checks import too_large
from recserve_server_ext.catalogue import changes as changes
from recserve_server_ext.catalogue.changes import Put, Request, Take
from recserve_server_ext.catalogue.item_checks import Checked, ItemChecks
from recserve_server_ext.catalogue.own_vectors import OwnSpace
from recserve_server_ext.catalogue.store import CatalogueStore, Head
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import CatalogueError
from recserve_server_ext.config.server import Limits
from recserve_server_ext.encoder.item_vectors import PairCollector, Pairs, made_with, pooled

#: Items encoded at a time: between two such chunks the encoder serves recommendations.
_CHUNK: Final = 64


class ItemsJob(Struct):
    """The state of one accepted request; times are in nanoseconds.

    Attributes:
        request: The request.
        digest: Hash of the packed request.
        encoder: Runtime fingerprint of the encoder of its texts.
        head: State of the catalogue that a change was checked against; `None` where it was not checked.
        checked: Items of a change.
        new_texts: Positions in `checked` of items whose texts are new and not encoded yet.
        pairs: Weighted texts of the first of these items, which are being encoded.
        vector_of: Packed item vectors by position in `checked`.
        waited_ns: Time spent waiting.
        resolve_ns: Time spent by the batch on decoding and look-ups.
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


class ItemService(Handler[ItemsJob]):
    """Changes and reads the catalogue; the item vectors of new texts are stored with the items.

    The steps of a request are `accept` (decode), `look_up` (check against the store), calls of the encoder while there
    are new texts (`pending`, `resume`), and `answer` (write).
    """

    def __init__(
        self,
        store: Callable[[], CatalogueStore],
        served: Callable[[], str],
        own_spaces: Callable[[], Mapping[str, OwnSpace]],
        limits: Limits,
    ) -> None:
        self._open = store
        self._own_spaces = own_spaces  # those of the published index, by name
        self._served = served  # the runtime fingerprint of the served encoder
        self._encoder = ""
        self._limits = limits
        self._checks = ItemChecks(limits)
        self._unpack = Unpacker[ItemsRequest](ItemsRequest)

    def begin(self) -> None:
        """Take the served encoder: all new texts of a batch go to the same one."""
        self._encoder = self._served()

    def accept(self, raw: bytes) -> ItemsJob:
        """Decode a request.

        Raises:
            RequestError: The request is refused.
        """
        if len(raw) > self._limits.items_bytes:
            raise too_large("the request", len(raw), "bytes", "items_bytes", self._limits.items_bytes)
        return ItemsJob(self._unpack(raw), hashlib.sha256(raw).hexdigest(), self._encoder)

    def look_up(self, jobs: Sequence[ItemsJob]) -> None:
        """Check the items of changes, and find those with new texts.

        Errors of the store and of request ids are left to `answer`, which looks again.
        """
        for job in jobs:
            if isinstance(job.request, UpsertItems | DeleteItems):
                try:
                    self._check(job, job.request)
                except (CatalogueError, changes.RequestIdReusedError):
                    job.head = None

    def pending(self, job: ItemsJob) -> ModelCall | None:
        """The texts of the next items without a vector; `None` where all have theirs."""
        if not job.new_texts:
            return None
        if job.pairs is None:
            assert job.head is not None
            collector = PairCollector(job.head.field_weights)
            for place in job.new_texts[:_CHUNK]:
                item = job.checked[place].item
                assert item is not None
                collector.add(item.texts)
            job.pairs = collector.pairs()
        return ModelCall(models.ENCODER, job.encoder, job.pairs.texts)

    def resume(self, jobs: Sequence[ItemsJob], call: ModelCall, results: Vectors, took_ns: int) -> None:
        """Pool the vectors of texts into item vectors."""
        place_of = {text: n for n, text in enumerate(call.inputs)}
        for job in jobs:
            assert job.pairs is not None
            vectors, cancelled = pooled(job.pairs, results[[place_of[text] for text in job.pairs.texts]])
            for place, vector, is_cancelled in zip(job.new_texts, vectors, cancelled.tolist(), strict=False):
                if is_cancelled:
                    item = job.checked[place]
                    why = f"$.items[{place}]: the weighted vectors of its texts cancel out"
                    job.checked[place] = item._replace(item=None, refusal=ItemResult(item.id, "refused", why))
                else:
                    job.vector_of[place] = vector.astype("<f4").tobytes()
            job.new_texts, job.pairs = job.new_texts[_CHUNK:], None

    def answer(self, jobs: Sequence[ItemsJob]) -> list[Answer]:
        """Write or read each request on its own, so that one fails alone."""
        return [self._answer(job) for job in jobs]

    def _check(self, job: ItemsJob, request: UpsertItems | DeleteItems) -> None:
        if changes.answered(self._open(), Request(request.request_id, job.digest)) is not None:
            return
        job.head = self._open().head()
        if isinstance(request, DeleteItems):
            job.checked = self._checks.old(request.items)
            return
        job.checked = self._checks.new(request.items, job.head.field_weights, self._own_spaces)
        stored = self._open().get_many([checked.item.id for checked in job.checked if checked.item is not None])
        job.new_texts = [
            place
            for place, checked in enumerate(job.checked)
            if checked.item is not None
            and ((before := stored.get(checked.item.id)) is None or before.texts != checked.item.texts)
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
        identity = Request(request.request_id, job.digest)
        if job.head is None:
            if (answered := self._answered(identity)) is not None:
                return answered
            raise CatalogueError(
                f"the catalogue store {self._open()} could not be read when the request came; try again"
            )
        item_changes = [_item_change(job, place) for place in range(len(job.checked))]
        encoded_with = made_with(job.encoder, job.head.field_weights)
        try:
            return changes.change(self._open(), item_changes, identity, job.head, encoded_with)
        except changes.RequestIdReusedError:
            raise _reused(identity) from None
        except changes.ChangedMeanwhileError:
            raise RequestError(
                ErrorKind.UNAVAILABLE, "another writer changed these items at the same moment; try again"
            ) from None

    def _answered(self, request: Request) -> ItemsChanged | None:
        """The stored answer to a change that was made before; `None` for a new request id."""
        try:
            return changes.answered(self._open(), request)
        except changes.RequestIdReusedError:
            raise _reused(request) from None

    def _get(self, ids: Sequence[str]) -> ItemsFound:
        revision, items = self._open().get_rows(ids)
        missing = [item_id for item_id in ids if item_id not in items]
        return ItemsFound(revision, [items[item_id] for item_id in dict.fromkeys(ids) if item_id in items], missing)

    def _list(self, after: str, limit: int) -> ItemsFound:
        revision, page = self._open().page(after, limit)
        return ItemsFound(revision, page, next=page[-1].id if len(page) == limit else "")


def _item_change(job: ItemsJob, place: int) -> Put | Take | ItemResult:
    """What a change does with one item: store it, delete it, or refuse it."""
    checked = job.checked[place]
    if checked.refusal is not None:
        return checked.refusal
    if checked.item is None:
        return Take(checked.id, checked.if_revision)
    return Put(checked.item, job.vector_of.get(place), checked.if_revision, checked.own)


def _reused(request: Request) -> RequestError:
    return RequestError(
        ErrorKind.REQUEST_ID_REUSED,
        f"request_id {shown(request.id)} was used for another change; give every change an id of its own",
    )
