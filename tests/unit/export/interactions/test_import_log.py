"""The last imports of a home: what is kept of them, how many, and a damaged file."""

from __future__ import annotations

from pathlib import Path

import pytest

from recserve_export.errors import ExportError
from recserve_export.interactions.import_log import ImportedLog, note_import, read_imports
from recserve_export.interactions.importer import InteractionReport

REPORT = InteractionReport(3, 2, 4, {"bad_timestamp": 3, "no_item": 1}, [], 7, [], "read as")


def test_the_newest_imports_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "imports.json"
    assert read_imports(path) == []
    for number in range(25):
        note_import(path, f"log {number}", REPORT, float(number))
    found = read_imports(path)
    assert len(found) == 20
    assert found[0] == ImportedLog("log 24", 24.0, 3, 2, {"bad_timestamp": 3, "no_item": 1})
    assert found[-1].name == "log 5"


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "imports.json"
    path.write_text("[")
    with pytest.raises(ExportError, match="only tells of earlier imports"):
        read_imports(path)
    with pytest.raises(ExportError, match="cannot be written"):
        note_import(path / "imports.json", "log", REPORT, 0.0)
    note_import(tmp_path / "new" / "imports.json", "log", REPORT, 0.0)
    assert len(read_imports(tmp_path / "new" / "imports.json")) == 1
