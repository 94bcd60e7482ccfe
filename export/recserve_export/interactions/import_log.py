"""The last imports into the interaction store of a home: `HOME/imports.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from recserve_export.errors import ExportError
from recserve_export.interactions.importer import InteractionReport
from recserve_server_ext.common.files import change_json, reading

_KEPT: Final = 20


class ImportedLog(msgspec.Struct, frozen=True):
    """An import of interactions.

    Attributes:
        name: What the source is called.
        time: End of the import, in seconds since 1970.
        recorded: Interactions that were new.
        duplicates: Rows whose interaction was there already.
        refused: Refused rows by reason, most frequent first.
    """

    name: str
    time: float
    recorded: int
    duplicates: int
    refused: dict[str, int]


def read_imports(path: Path) -> list[ImportedLog]:
    """The last imports, the newest first; none without a file. Raises ExportError for a damaged file."""
    if not path.is_file():
        return []
    with reading(path, ExportError, "remove it: it only tells of earlier imports"):
        return msgspec.json.decode(path.read_bytes(), type=list[ImportedLog])


def note_import(path: Path, name: str, report: InteractionReport, now_s: float) -> None:
    """Put an import before the others, and forget the oldest.

    Raises:
        ExportError: The file is damaged, or cannot be written.
    """
    made = ImportedLog(name, now_s, report.recorded, report.duplicates, report.refusals)
    change_json(path, lambda: [made, *read_imports(path)][:_KEPT], ExportError)
