"""Import: the rows of a source become the catalogue; every row that cannot is refused, named and counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from recserve_export.catalogue.mapping import FieldMapping
from recserve_export.catalogue.readers import Source
from recserve_export.catalogue.rows import Reason, Refusal, RowConverter, RowError
from recserve_server_ext.catalogue.store import CatalogueStore, ImportRecord, StoredItem

_EXAMPLES = 5
_ROWS_PER_REPORT = 500


class ImportReport(msgspec.Struct, frozen=True):
    """What an import did.

    Attributes:
        revision: Revision of the catalogue afterwards.
        is_changed: Whether the catalogue was replaced: false when it was up to date, or when nothing was accepted.
        record: The source and the counts.
        examples: The first few refusals.
    """

    revision: int
    is_changed: bool
    record: ImportRecord
    examples: list[Refusal]


class _NothingAcceptedError(Exception):
    """Ends the transaction of an import without a single item."""


def import_catalogue(
    store: CatalogueStore,
    source: Source,
    mapping: FieldMapping,
    *,
    name: str,
    sha256: str,
    on_refusal: Callable[[Refusal], None] = lambda _: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> ImportReport:
    """Replace the catalogue by the items of a source, in one transaction.

    Ids are held in memory (about 140 bytes each) to find those that occur twice; the first of them is accepted.

    Args:
        store: Where the items go.
        source: Where the rows come from.
        mapping: A validated mapping, the one the source was opened with.
        name: What the source is called.
        sha256: Checksum of the source file.
        on_refusal: Called for every refused row.
        on_progress: Called now and then with the source's `done`.

    Raises:
        ExportError: The source cannot be read, or lacks a column of the mapping; the old catalogue stays.
        CatalogueError: The store cannot be written; the old catalogue stays.
    """
    run = _Run(source, mapping, on_refusal, on_progress)

    def record() -> ImportRecord:
        if not run.accepted:
            raise _NothingAcceptedError
        return run.record(name, sha256)

    try:
        revision = store.replace_all(run.items(), field_weights=mapping.field_weights, source=record)
    except _NothingAcceptedError:
        return ImportReport(store.revision, False, run.record(name, sha256), run.examples)
    return ImportReport(revision, True, run.record(name, sha256), run.examples)


def up_to_date(store: CatalogueStore, source_format: str, mapping: FieldMapping, sha256: str) -> ImportRecord | None:
    """The record of the import that made the catalogue, if importing this source again would change nothing."""
    record = store.source()
    if record is None or record.sha256 != sha256 or record.mapping_sha256 != mapping_hash(source_format, mapping):
        return None
    return record


def mapping_hash(source_format: str, mapping: FieldMapping) -> str:
    """Hash of what decides how the rows of a file become items: its format and the mapping."""
    return hashlib.sha256(f"{source_format}\n{mapping.sha256}".encode()).hexdigest()


class _Run:
    """The items of one import, and the count of what was refused."""

    def __init__(
        self,
        source: Source,
        mapping: FieldMapping,
        on_refusal: Callable[[Refusal], None],
        on_progress: Callable[[int], None],
    ) -> None:
        self.accepted = 0
        self.examples: list[Refusal] = []
        self._source = source
        self._mapping = mapping
        self._on_refusal = on_refusal
        self._on_progress = on_progress
        self._counts: Counter[Reason] = Counter()
        self._row_of_id: dict[str, int] = {}

    def items(self) -> Iterator[StoredItem]:
        """The accepted items, in order."""
        convert = RowConverter(self._mapping, is_textual=self._source.is_textual)
        for number, values in self._source.rows():
            if number % _ROWS_PER_REPORT == 0:
                self._on_progress(self._source.done)
            try:
                if isinstance(values, RowError):
                    raise values
                item = convert(values)
                self._claim(item.id, number)
            except RowError as error:
                self._refuse(Refusal(number, error.item_id, error.reason, error.detail))
            else:
                self.accepted += 1
                yield item
        self._on_progress(self._source.done)

    def record(self, name: str, sha256: str) -> ImportRecord:
        """What is remembered of this import."""
        return ImportRecord(
            name=name,
            sha256=sha256,
            mapping_sha256=mapping_hash(self._source.format, self._mapping),
            accepted=self.accepted,
            refused=self._counts.total(),
            refusals={reason.value: count for reason, count in self._counts.most_common()},
        )

    def _claim(self, item_id: str, number: int) -> None:
        first = self._row_of_id.setdefault(item_id, number)
        if first != number:
            raise RowError(Reason.DUPLICATE_ID, f"row {first} has this id already", item_id)

    def _refuse(self, refusal: Refusal) -> None:
        self._counts[refusal.reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(refusal)
        self._on_refusal(refusal)
