"""`recserve train vectors`: a space from vectors of your own, from pictures, from recordings, or from a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from recserve_client.cli.console import fail, note
from recserve_export.cli.common import say, stage_bar
from recserve_export.training.modalities.own_vectors import read_vectors
from recserve_server_ext.common.files import sha256_of
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.trained import Origin, publish_space

if TYPE_CHECKING:
    from recserve_export.training.modalities.media_encoder import Kind
    from recserve_server_ext.common.arrays import Vectors

#: Name of the training, and of the space where no other is given.
NAME: Final = "vectors"
#: Unreadable files that are named.
_NAMED: Final = 3


@dataclass(frozen=True, kw_only=True)
class VectorSource:
    """Where the vectors come from: exactly one of `file`, `image`, `audio` and `graph`.

    Attributes:
        file: Parquet with vectors of the caller's own.
        id_field: Its column of ids.
        vector_field: Its column of vectors.
        image: Field with the path of a picture.
        audio: Field with the path of a recording.
        files: Folder that these paths are relative to.
        model: Folder of the model that reads them.
        graph: Triples of a knowledge graph.
        links: Which entity of the graph is which item.
        weight: How much neighbours in the graph count.
    """

    file: Path | None
    id_field: str
    vector_field: str
    image: str | None
    audio: str | None
    files: Path
    model: str | None
    graph: Path | None
    links: Path | None
    weight: float

    def check(self) -> None:
        """End the command unless exactly one source is given, with what it needs."""
        given = [one for one in (self.file, self.image, self.audio, self.graph) if one is not None]
        if len(given) != 1:
            fail(f"`recserve train {NAME}` takes one of --from, --image, --audio and --graph", code=2)
        if (self.image or self.audio) and self.model is None:
            fail("--model is needed: the folder of an exported model of pictures or sounds", code=2)
        if self.graph is not None and self.links is None:
            fail("--links is needed: the file that links items to entities of the graph", code=2)


def train_vectors(workspace: Workspace, store: str, source: VectorSource, space: str) -> None:
    """Publish the space and serve it; exit code 1 where nothing can be made."""
    from recserve_export.index.space_change import serve_versions

    source.check()
    if source.file is not None:
        ids, found = read_vectors(source.file, source.id_field, source.vector_field)
        made_from: Mapping[str, Any] = {"file": source.file.name, "sha256": sha256_of(source.file)}
    elif source.graph is not None:
        ids, found, made_from = _of_graph(workspace, source)
    else:
        ids, found, made_from = _of_files(workspace.store_at(store), source)
    origin = Origin(made_from={**made_from, "vectors": len(ids)})
    folder = publish_space(workspace.spaces, space, ids, found, origin=origin)
    serve_versions(workspace, {space: folder}, store=store, stage=stage_bar)
    say(f"{space}: {len(ids):,} vectors of {found.shape[1]} numbers in {folder}")
    if space != NAME:
        note(f'its strategy in the settings: [strategies.{space}] kind = "{NAME}"')


def _of_files(store: Path | str, source: VectorSource) -> tuple[list[str], Vectors, dict[str, Any]]:
    from recserve_export.training.modalities.item_files import encode_items
    from recserve_export.training.modalities.media_encoder import MediaEncoder
    from recserve_server_ext.catalogue.store import CatalogueStore

    kind: Kind = "image" if source.image is not None else "audio"
    field = source.image or source.audio or ""
    encoder = MediaEncoder(kind, Path(source.model or ""))
    with CatalogueStore(store) as catalogue:
        done = encode_items(catalogue, field, source.files, encoder, stage=stage_bar)
    for item, why in list(done.unreadable.items())[:_NAMED]:
        note(f"{item}: {why}")
    note(f"{len(done.unreadable):,} files cannot be read, {done.without:,} items have no {field}")
    return done.ids, done.vectors, {kind: field, "model": encoder.model.name, "sha256": sha256_of(encoder.model)}


def _of_graph(workspace: Workspace, source: VectorSource) -> tuple[list[str], Vectors, dict[str, Any]]:
    from recserve_export.index.spaces import Index
    from recserve_export.training.modalities.graph import read_graph, smoothed
    from recserve_server_ext.index.manifest import read_manifest
    from recserve_server_ext.index.pointers import current

    assert source.graph is not None
    assert source.links is not None
    base = current(workspace.snapshots)
    ids, text, *_ = Index.of_snapshot(base, read_manifest(base, verify=False))
    entities = read_graph(source.graph, source.links, ids)
    note(f"{int((entities.sum(axis=1) > 0).sum()):,} of {len(ids):,} items are in the graph")
    found = smoothed(text, entities, source.weight)
    kept = found.any(axis=1)
    names = [item for item, is_kept in zip(ids, kept.tolist(), strict=True) if is_kept]
    return names, found[kept], {"graph": source.graph.name, "sha256": sha256_of(source.graph), "weight": source.weight}
