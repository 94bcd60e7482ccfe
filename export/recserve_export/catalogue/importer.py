"""Import: the rows of a source become the catalogue; every row that cannot is refused, named and counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from recserve_export.catalogue.mapping import FieldMapping, with_marks
from recserve_export.catalogue.rows import Refusal, RowConverter
from recserve_export.tabular.preview import Column, columns_of, sample_of
from recserve_export.tabular.rows import Reason, RowError, Source
from recserve_export.tabular.values import TRIMMED, currencies_of, shortened_id
from recserve_server_ext.catalogue.store import CatalogueStore, ImportRecord, StoredItem

_EXAMPLES = 5
_ROWS_PER_REPORT = 500
#: Rows that separators of lists are guessed from.
_SAMPLE = 1000


class ImportReport(msgspec.Struct, frozen=True):
    """What an import did.

    Attributes:
        revision: Revision of the catalogue afterwards.
        is_changed: Whether the catalogue was replaced: false when it was up to date, or when nothing was accepted.
        record: The source and the counts.
        examples: The first few refusals.
        said: What was decided or left out while reading, a line each.
        columns: The columns of the source.
    """

    revision: int
    is_changed: bool
    record: ImportRecord
    examples: list[Refusal]
    said: list[str]
    columns: list[Column]


class _NothingAcceptedError(Exception):
    """Ends the transaction of an import without a single item."""


def import_catalogue(
    store: CatalogueStore,
    source: Source,
    mapping: FieldMapping,
    *,
    name: str,
    sha256: str,
    identity: str,
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
        sha256: Checksum of the source.
        identity: How the source is read; part of what tells two imports apart.
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
        return run.record(name, sha256, identity)

    try:
        revision = store.replace_all(run.items(), field_weights=mapping.field_weights, source=record)
    except _NothingAcceptedError:
        return ImportReport(
            store.revision, False, run.record(name, sha256, identity), run.examples, run.said(), run.columns
        )
    return ImportReport(revision, True, run.record(name, sha256, identity), run.examples, run.said(), run.columns)


def up_to_date(store: CatalogueStore, identity: str, mapping: FieldMapping, sha256: str) -> ImportRecord | None:
    """The record of the import that made the catalogue, if importing this source again would change nothing.

    `None` as well where the catalogue was changed since, or the source has no checksum.
    """
    record, head = store.source(), store.head()
    if record is None or not sha256 or head.revision != head.imported_at:
        return None
    is_same = record.sha256 == sha256 and record.mapping_sha256 == mapping_hash(identity, mapping)
    return record if is_same else None


def mapping_hash(identity: str, mapping: FieldMapping) -> str:
    """Hash of what decides how the rows of a file become items: its format and the mapping."""
    return hashlib.sha256(f"{identity}\n{mapping.sha256}".encode()).hexdigest()


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
        sample = sample_of(source, _SAMPLE)
        self.columns = columns_of(sample)
        self._shortened = shortened_id(row.get(mapping.id) for row in sample)
        self._guessed = with_marks(mapping, sample)
        self._currencies = {
            name: currencies_of(row.get(field.column) for row in sample)
            for name, field in mapping.attributes.items()
            if field.type in ("int", "float")
        }
        self._convert = RowConverter(self._guessed, trims=source.format in TRIMMED)

    def items(self) -> Iterator[StoredItem]:
        """The accepted items, in order."""
        for number, values in self._source.rows():
            if number % _ROWS_PER_REPORT == 0:
                self._on_progress(self._source.done)
            try:
                if isinstance(values, RowError):
                    raise values
                item = self._convert(values)
                self._claim(item.id, number)
            except RowError as error:
                self._refuse(Refusal(number, error.item_id, error.reason, error.detail))
            else:
                self.accepted += 1
                yield item
        self._on_progress(self._source.done)

    def record(self, name: str, sha256: str, identity: str) -> ImportRecord:
        """What is remembered of this import."""
        return ImportRecord(
            name=name,
            sha256=sha256,
            mapping_sha256=mapping_hash(identity, self._mapping),
            accepted=self.accepted,
            refused=self._counts.total(),
            refusals={reason.value: count for reason, count in self._counts.most_common()},
            left_out=dict(self._convert.left_out.most_common()),
        )

    def said(self) -> list[str]:
        """What was decided or left out while reading, a line each."""
        lines = []
        for name, field in self._guessed.attributes.items():
            if field.separator is not None and self._mapping.attributes[name].separator is None:
                lines.append(f"lists of {name} are split at {field.separator!r}; another separator: --separator")
            if field.decimal is not None and self._mapping.attributes[name].decimal is None:
                lines.append(f"numbers of {name} have a decimal comma")
        for name, found in self._currencies.items():
            if found:
                lines.append(f"{name} has amounts of money, whose currency is left out: {', '.join(found)}")
        if self._shortened is not None:
            lines.append(f"ids such as {self._shortened} were shortened by a spreadsheet: several may have become one")
        if self._convert.whole_ids:
            lines.append(f"{self._convert.whole_ids:,} ids were numbers such as 1.0 and are taken as 1")
        if self._convert.missing:
            shown = ", ".join(f"{text} {count:,}" for text, count in self._convert.missing.most_common(8))
            lines.append(f"read as missing: {shown}; others: --null")
        for name, count in self._convert.left_out.most_common():
            lines.append(f"left out {count:,} values of {name}, the first: {self._convert.first[name]}")
        return lines

    def _claim(self, item_id: str, number: int) -> None:
        first = self._row_of_id.setdefault(item_id, number)
        if first != number:
            raise RowError(Reason.DUPLICATE_ID, f"row {first} has this id already", item_id)

    def _refuse(self, refusal: Refusal) -> None:
        self._counts[refusal.reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(refusal)
        self._on_refusal(refusal)
