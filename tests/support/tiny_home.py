"""A complete small home: the tiny encoder, a few hundred films and their snapshot, by the real functions."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from recserve_export.catalogue.films import MAPPING, FilmsSource, films_path
from recserve_export.catalogue.rows import RowConverter
from recserve_export.index.build import build
from recserve_export.index.engine_choice import Settings
from recserve_export.tabular.rows import RowError
from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.manifest import Precision

ITEMS = 300


def make_tiny_home(home: Path, encoders: Path, precision: Precision = "fp32") -> Path:
    """Take over the encoders of another home, store the first films, build their index.

    Args:
        home: Where to make it.
        encoders: A home with the encoder.
        precision: Of the encoder that the index is built with.

    Returns:
        `home`.
    """
    workspace = Workspace(home)
    shutil.copytree(Workspace(encoders).encoder, workspace.encoder, symlinks=True)
    with CatalogueStore(workspace.store, create=True) as store:
        store.replace_all(_films(), field_weights={name: field.weight for name, field in MAPPING.texts.items()})
    build(workspace, workspace.encoder / precision, Settings(engine="hnsw", m=(16,), ef=(64, 128, 256), users=50))
    return home


def copy_home(home: Path, copy: Path) -> Path:
    """Copy a home to change it, without what servers left in it.

    Returns:
        `copy`.
    """
    left = shutil.ignore_patterns("run", "interactions.db*", "pseudonym.key", "erasures.jsonl")
    return shutil.copytree(home, copy, symlinks=True, ignore=left)


def _films() -> list[StoredItem]:
    convert = RowConverter(MAPPING)
    rows = itertools.islice(FilmsSource(films_path()).rows(), ITEMS)
    return [convert(values) for _, values in rows if not isinstance(values, RowError)]
