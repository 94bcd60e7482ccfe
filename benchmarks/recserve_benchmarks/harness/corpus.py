"""The items that the benchmarks serve and search: one for every text of the catalogue, in homes of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

from recserve_benchmarks.harness.run import Run
from recserve_export.index.build import build_index
from recserve_export.index.engine_choice import Settings
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.encoder.tokenizer import TextTokenizer
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot


@dataclass(frozen=True, eq=False)
class Corpus:
    """A home with an index of texts, ready for `recserve serve`.

    Attributes:
        home: The home.
        snapshot: The index, with an item for every text.
        titles: Titles of the films.
    """

    home: Workspace
    snapshot: Snapshot
    titles: list[str]

    @property
    def vectors(self) -> Vectors:
        """[items, dim] unit float32, mapped."""
        return self.snapshot.text.vectors

    @property
    def engine(self) -> dict[str, str | int]:
        """Name and parameters of the engine."""
        engine = self.snapshot.manifest.text.engine
        return {"name": engine.name, **engine.parameters}


def item_ids(count: int) -> list[str]:
    """Ids of the items, by row."""
    return [f"t{row}" for row in range(count)]


def prepare(run: Run, count: int) -> Corpus:
    """Index the first distinct texts of the catalogue as `recserve index build` does, unless that was done before.

    Args:
        run: Of the benchmark.
        count: Texts, at most.

    Raises:
        ServerError: The catalogue or the encoder cannot be read.
    """
    texts, titles = _texts_of(run.workspace, count)

    def vectors() -> Vectors:
        with run.stage("encode texts", len(texts)) as advance:
            return TextEncoder(run.encoder).encode(texts, done=advance)

    source = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    return _indexed(run, "bench-chosen", Settings(), source, vectors, titles)


def with_graph(run: Run, corpus: Corpus) -> Corpus:
    """The same items in another home with an index of hnswlib, which raw search is measured on."""
    source = corpus.snapshot.manifest.source
    return _indexed(run, "bench", Settings(engine="hnsw"), source, lambda: corpus.vectors, corpus.titles)


def token_counts(run: Run, texts: list[str]) -> dict[str, float]:
    """How many texts there are, and how many tokens they have."""
    lengths = TextTokenizer(run.encoder, run.manifest.max_tokens)(texts).lengths
    return {"count": len(lengths), "tokens_mean": float(lengths.mean()), "tokens_most": int(lengths.max())}


def _indexed(
    run: Run, name: str, settings: Settings, source: str, vectors: Callable[[], Vectors], titles: list[str]
) -> Corpus:
    """The index in a home of this name, if it is of this source and encoder, or a new one."""
    home, encoder = Workspace(run.workspace.home / name), run.manifest.runtime_fingerprint
    home.home.mkdir(parents=True, exist_ok=True)
    if not home.encoder.exists():
        home.encoder.symlink_to(run.workspace.encoder.resolve(), target_is_directory=True)
    try:
        found = Snapshot.load(current(home.snapshots), encoder=encoder)
    except SnapshotError:
        found = None
    if found is None or found.manifest.source != source:
        made = vectors()
        ids = item_ids(len(made))
        build_index(home.snapshots, made, ids, encoder=encoder, settings=settings, source=source, stage=run.stage)
        found = Snapshot.load(current(home.snapshots), encoder=encoder)
    return Corpus(home, found, titles)


def _texts_of(workspace: Workspace, count: int) -> tuple[list[str], list[str]]:
    """The first distinct texts of the catalogue, text fields before names in lists; and all titles."""
    fields: dict[str, None] = {}
    names: dict[str, None] = {}
    titles: dict[str, None] = {}
    with CatalogueStore(workspace.store) as store:
        for item in store.items():
            fields.update(dict.fromkeys(item.texts.values()))
            titles[item.texts["title"]] = None
            for value in item.attributes.values():
                if isinstance(value, list):
                    names.update(dict.fromkeys(name for name in value if isinstance(name, str) and name))
    return list({**fields, **names})[:count], list(titles)
