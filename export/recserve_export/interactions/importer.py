"""Import: the rows of a source into the interaction store; every row that cannot is refused, named and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import msgspec

from recserve_export.catalogue.readers import Source
from recserve_export.catalogue.rows import RowError
from recserve_export.interactions.rows import InteractionConverter
from recserve_server_ext.interactions.interaction import Interaction, RefusedError
from recserve_server_ext.interactions.store import InteractionStore

_BATCH: Final = 1000
_EXAMPLES: Final = 5


class InteractionRefusal(msgspec.Struct, frozen=True):
    """A row that was refused.

    Attributes:
        row: From 1: the line of a JSON Lines file, the record after the header of a table as text, the row of another.
        reason: `recserve_export.catalogue.rows.Reason` of reading, or
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
    """

    recorded: int
    duplicates: int
    refused: int
    refusals: dict[str, int]
    examples: list[InteractionRefusal]
    revision: int


def import_interactions(
    store: InteractionStore,
    source: Source,
    convert: InteractionConverter,
    *,
    on_refusal: Callable[[InteractionRefusal], None] = lambda _: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> InteractionReport:
    """Record the rows of a source, a thousand a transaction; memory does not grow with the file.

    What was recorded before an error stays, and importing the file again adds only the rest.

    Raises:
        ExportError: The source cannot be read, or lacks a column of the mapping.
        InteractionError: The store cannot be written.
    """
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    examples: list[InteractionRefusal] = []

    def refuse(row: int, reason: str, detail: str) -> None:
        refusal = InteractionRefusal(row, reason, detail)
        reasons[reason] += 1
        if len(examples) < _EXAMPLES:
            examples.append(refusal)
        on_refusal(refusal)

    rows = _converted(source, convert, refuse)
    while batch := list(islice(rows, _BATCH)):
        answers = store.record([interaction for _, interaction in batch])
        for (number, _), answer in zip(batch, answers, strict=True):
            if answer.reason is None:
                counts[answer.status] += 1
            else:
                refuse(number, answer.reason.value, answer.detail)
        on_progress(source.done)
    on_progress(source.done)
    by_reason = dict(reasons.most_common())
    return InteractionReport(
        counts["recorded"], counts["duplicate"], reasons.total(), by_reason, examples, store.revision
    )


def _converted(
    source: Source, convert: InteractionConverter, refuse: Callable[[int, str, str], None]
) -> Iterator[tuple[int, Interaction]]:
    for number, values in source.rows():
        try:
            if isinstance(values, RowError):
                raise values
            interaction = convert(values)
        except (RowError, RefusedError) as error:
            refuse(number, error.reason.value, error.detail)
        else:
            yield number, interaction
