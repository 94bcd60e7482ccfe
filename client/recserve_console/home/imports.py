"""Files dropped on the console: kept in the home, looked at, and the commands that import them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from recserve_export.catalogue.suggestion import suggested_import as catalogue_import
from recserve_export.interactions.suggestion import suggested_import as interactions_import
from recserve_export.tabular.opening import Opened
from recserve_export.tabular.preview import Preview, Suggest, preview

#: What a dropped file is imported into.
Store = Literal["catalogue", "interactions"]
#: Largest file that can be dropped; larger ones are imported by the command.
MOST_BYTES: Final = 1 << 30
_FOLDER: Final = Path("console") / "uploads"
_NAME_CHARACTERS: Final = 100
_SUGGESTED: Final[Mapping[Store, Suggest]] = {
    "catalogue": catalogue_import,
    "interactions": interactions_import,
}


def place_for(home: Path, name: str) -> Path:
    """Where a dropped file goes; the one before it is removed, so that one is kept at most.

    Args:
        home: Home of the console.
        name: Name that the browser gave; only plain characters of its last part are kept.
    """
    folder = home / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plain = re.sub(r"[^\w.-]+", "_", re.split(r"[/\\]", name)[-1], flags=re.ASCII).lstrip(".-")
    return folder / (plain[-_NAME_CHARACTERS:].lstrip(".-") or "file")


def preview_of(path: Path, store: Store) -> Preview:
    """Look at the first rows of a file. Raises ExportError where it cannot be read."""
    return preview(Opened(path), _SUGGESTED[store])
