"""A complete small home in seconds: the tiny encoder, a few hundred films, their snapshot, by the real functions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

from recserve_export.catalogue.films import MAPPING, FilmsSource, films_path
from recserve_export.catalogue.rows import RowConverter
from recserve_export.index.build import build
from recserve_export.index.engine_choice import Settings
from recserve_export.tabular.rows import RowError
from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.common.workspace import Workspace
from support.tiny_encoder import make_tiny_encoder

ITEMS = 300


def make_tiny_home(home: Path, precision: Literal["fp32", "int8"] = "fp32") -> Path:
    """Export the tiny encoder, store the first films, build their index.

    Returns:
        `home`.
    """
    workspace = Workspace(home)
    encoder = make_tiny_encoder(home, precision)
    with CatalogueStore(workspace.store, create=True) as store:
        store.replace_all(_films(), field_weights={name: field.weight for name, field in MAPPING.texts.items()})
    build(workspace, encoder, Settings(engine="hnsw", m=(16,), ef=(64, 128, 256), users=50))
    return home


def _films() -> list[StoredItem]:
    convert = RowConverter(MAPPING)
    rows = itertools.islice(FilmsSource(films_path()).rows(), ITEMS)
    return [convert(values) for _, values in rows if not isinstance(values, RowError)]
