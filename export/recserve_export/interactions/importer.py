"""Import: the rows of a source into the interaction store; every row that cannot is refused, named and counted."""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, cast

import msgspec

from recserve_export.interactions.guesses import with_times
from recserve_export.interactions.mapping import ROW, InteractionMapping
from recserve_export.interactions.rows import InteractionConverter, one_item_each
from recserve_export.interactions.scale import Scale, find_scale
from recserve_export.tabular.preview import columns_of, read_as, sample_of
from recserve_export.tabular.rows import Row as SourceRow
from recserve_export.tabular.rows import RowError, Source
from recserve_export.tabular.values import TRIMMED, currencies_of, guess_decimal, shortened_id
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.history import BASE_WEIGHTS
from recserve_server_ext.interactions.interaction import Refused
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.writes import BulkRow

#: Rows of a transaction, and characters of their items. Bounded, so that a serving process gets its turn; large, since
#: every transaction writes most pages of the indexes anew (decision 019).
_BATCH: Final = 200_000
_BATCH_CHARACTERS: Final = 8 << 20
#: Rows that are converted at a time.
_CHUNK: Final = 1000
_EXAMPLES: Final = 5
#: Rows that the scale of ratings is found in.
_SAMPLE: Final = 50_000
#: Rows that the kinds of columns are found in.
_ROWS: Final = 200
#: What guessed units of times are called.
_UNITS: Final = {"excel": "days as spreadsheets count them", "digits": "dates of digits, such as 20240301"}


class InteractionRefusal(msgspec.Struct, frozen=True):
    """A row that was refused.

    Attributes:
        row: From 1: the line of a JSON Lines file, the record after the header of a table as text, the row of another.
        reason: `recserve_export.tabular.rows.Reason` of reading, or
            `recserve_server_ext.interactions.interaction.Refused` of the store.
        detail: Names the field and the value; never the user.
    """

    row: int
    reason: str
    detail: str


class InteractionReport(msgspec.Struct, frozen=True):
    """What an import did.

    Attributes:
        recorded: Interactions that are new.
        duplicates: Rows whose interaction was there already.
        refused: Rows that were refused.
        refusals: Refused rows by reason, most frequent first.
        examples: The first few refusals.
        revision: Revision of the store afterwards.
        said: What was decided while reading, a line each.
        read_as: How the source was read, in a line.
    """

    recorded: int
    duplicates: int
    refused: int
    refusals: dict[str, int]
    examples: list[InteractionRefusal]
    revision: int
    said: list[str]
    read_as: str


def import_interactions(
    store: InteractionStore,
    source: Source,
    mapping: InteractionMapping,
    pseudonyms: Pseudonyms | None,
    *,
    on_refusal: Callable[[InteractionRefusal], None] = lambda _: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> InteractionReport:
    """Record the rows of a source, thousands a transaction; memory does not grow with the file.

    What was recorded before an error stays, and importing the file again adds only the rest.

    Args:
        store: Where the interactions go.
        source: Where the rows come from.
        mapping: A validated mapping.
        pseudonyms: Turns user ids into pseudonyms; `None` where the column holds pseudonyms.
        on_refusal: Called for every refused row.
        on_progress: Called now and then with the source's `done`.

    Raises:
        ExportError: The source cannot be read, or lacks a column of the mapping.
        InteractionError: The store cannot be written.
    """
    run = _Run(store, source, mapping, pseudonyms, on_refusal)
    was_enabled = gc.isenabled()
    gc.disable()  # rows make no cycles, and looking for some takes a tenth of the time
    try:
        for numbers, rows in run.batches():
            run.record(numbers, rows)
            on_progress(source.done)
    finally:
        if was_enabled:
            gc.enable()
    on_progress(source.done)
    reasons = run.reasons
    return InteractionReport(
        run.recorded,
        run.duplicates,
        reasons.total(),
        dict(reasons.most_common()),
        run.examples,
        store.revision,
        run.said(),
        read_as(source, run.columns, run.rows),
    )


class _Run:
    """One import: what was recorded and refused so far."""

    def __init__(
        self,
        store: InteractionStore,
        source: Source,
        mapping: InteractionMapping,
        pseudonyms: Pseudonyms | None,
        on_refusal: Callable[[InteractionRefusal], None],
    ) -> None:
        self.recorded = self.duplicates = self.rows = 0
        self.reasons: Counter[str] = Counter()
        self.examples: list[InteractionRefusal] = []
        self._types: Counter[str] = Counter()
        self._span_us = math.inf, -math.inf
        self._store = store
        self._source = source
        self._on_refusal = on_refusal
        rows = sample_of(source, _ROWS)
        self.columns = columns_of(rows)
        self._given_unit = mapping.time_unit
        self._mapping = mapping = with_times(mapping, rows, self._readable)
        self._ids = [row.get(column) for row in rows for column in (mapping.user, mapping.item or "")]
        self._currencies = {name: currencies_of(row.get(name) for row in rows) for name in mapping.numbers}
        self._commas = [name for name in mapping.numbers if guess_decimal(row.get(name) for row in rows)]
        self._scale = Scale()
        if "value" in mapping.fields:
            sample = islice(self._readable(), _SAMPLE)
            self._scale = find_scale(mapping, sample, "," if mapping.fields["value"] in self._commas else "")
        self._convert = InteractionConverter(
            mapping,
            pseudonyms,
            scale=self._scale,
            latest_s=store.latest_s,
            trims=source.format in TRIMMED,
            commas=self._commas,
        )

    def _readable(self) -> Iterator[dict[str, Any]]:
        return (values for _, values in self._source.rows() if not isinstance(values, RowError))

    def batches(self) -> Iterator[tuple[list[int], list[BulkRow]]]:
        """The rows that can be stored, with their numbers, in batches."""
        numbers: list[int] = []
        rows: list[BulkRow] = []
        characters = 0
        source = one_item_each(self._source.rows(), self._mapping)
        last = 0
        while chunk := list(islice(source, _CHUNK)):
            self.rows += len({number for number, _ in chunk}) - (chunk[0][0] == last)
            last = chunk[-1][0]
            of_chunk, made = self._converted(chunk)
            numbers += of_chunk
            rows += made
            characters += sum([len(row.item or row.text or "") for row in made])
            if len(rows) >= _BATCH or characters > _BATCH_CHARACTERS:
                yield numbers, rows
                numbers, rows, characters = [], [], 0
        if rows:
            yield numbers, rows

    def _converted(self, chunk: Sequence[SourceRow]) -> tuple[list[int], list[BulkRow]]:
        """The rows that can be stored, with their numbers; the others are refused."""
        read = [(number, values) for number, values in chunk if not isinstance(values, RowError)]
        made = self._convert.rows([number for number, _ in read], [values for _, values in read])
        if len(made) == len(chunk) and set(map(type, made)) == {BulkRow}:
            return [number for number, _ in read], cast("list[BulkRow]", made)
        rest = iter(made)
        numbers, rows = [], []
        for number, values in chunk:
            row = values if isinstance(values, RowError) else next(rest)
            if isinstance(row, BulkRow):
                numbers.append(number)
                rows.append(row)
            else:
                self._refuse(number, row.reason.value, row.detail)
        return numbers, rows

    def record(self, numbers: Sequence[int], rows: Sequence[BulkRow]) -> None:
        """Record rows with these numbers in one transaction."""
        outcome = self._store.record_bulk(rows)
        for place in outcome.erased:
            self._refuse(numbers[place], Refused.ERASED.value, "the user was erased after this timestamp")
        self.recorded += outcome.recorded
        self.duplicates += len(rows) - outcome.recorded - len(outcome.erased)
        self._types.update([row.type for row in rows])
        times_us = [row.time_us for row in rows]
        oldest, newest = self._span_us
        self._span_us = min(oldest, min(times_us)), max(newest, max(times_us))

    def said(self) -> list[str]:
        """What was decided while reading, a line each."""
        lines = [f"numbers of {name} have a decimal comma" for name in self._commas]
        lines += [
            f"{name} has amounts of money, whose currency is left out: {', '.join(found)}"
            for name, found in self._currencies.items()
            if found
        ]
        lines += [self._scale.said] if self._scale.said else []
        if self._mapping.time_unit != self._given_unit:
            lines.append(f"times are {_UNITS[self._mapping.time_unit]}; other units: --time-unit")
        if self._mapping.time == ROW:
            lines.append("there are no times: the order of the rows stands for them, and recency does not count")
        elif self._mapping.time is not None:
            lines.append(f"there are no times: every interaction has the time {self._mapping.time}")
        elif self._types:
            oldest, newest = (datetime.fromtimestamp(time_us / MICROSECONDS, UTC) for time_us in self._span_us)
            lines.append(f"times are from {oldest:%Y-%m-%d %H:%M} to {newest:%Y-%m-%d %H:%M} UTC")
        interactions = self.recorded + self.duplicates + self.reasons.total()
        if interactions > self.rows:
            lines.append(f"rows with several items are an interaction for each: {interactions:,} of {self.rows:,} rows")
        if any(isinstance(value, float) for value in self._ids):
            lines.append("ids that are numbers such as 1.0 are taken as 1")
        if (short := shortened_id(self._ids)) is not None:
            lines.append(f"ids such as {short} were shortened by a spreadsheet: several may have become one")
        renamed = [f"{old!r} is {new}" for old, new in self._convert.types.items() if old != new]
        if renamed:
            lines.append(f"types: {', '.join(renamed[:10])}")
        weightless = {name: count for name, count in self._types.most_common() if name not in BASE_WEIGHTS}
        if weightless:
            shown = ", ".join(f"{name} {count:,}" for name, count in list(weightless.items())[:10])
            lines.append(
                f"types without a weight, which no recommendation uses: {shown}; "
                "rename them with --map-type NAME=TYPE, or give them a weight in the rules"
            )
        return lines

    def _refuse(self, row: int, reason: str, detail: str) -> None:
        refusal = InteractionRefusal(row, reason, detail)
        self.reasons[reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(refusal)
        self._on_refusal(refusal)
