"""What the benchmark serves: an item for every text of the films, and callers' requests over them, all seeded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tritonclient.grpc import service_pb2

from recserve_client.contract import Behaviour, RecommendRequest, bytes_element, models, pack
from recserve_export.index.build import build_index
from recserve_export.index.engine_choice import Settings
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.arrays import Rows, Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.manifest import SnapshotManifest
from recserve_server_ext.index.snapshot import Content, Snapshot, current, write
from recserve_server_ext.index.space import TEXT, SpaceContent

TEXTS_PER_USER = 5


@dataclass(frozen=True)
class Corpus:
    """A home of the benchmark's own, and what lies in it.

    Attributes:
        home: Served by `recserve serve --home`; its index is hnswlib's, as in the raw search.
        chosen_home: The same items with the engine that `recserve index build` chooses by itself.
        encoder_folder: What encoded the items and is served.
        snapshot: One item for every distinct text, from `home`.
        chosen: The manifest of the snapshot in `chosen_home`.
        titles: Titles of the films, for texts that were never seen.
    """

    home: Path
    chosen_home: Path
    encoder_folder: Path
    snapshot: Snapshot
    chosen: SnapshotManifest
    titles: list[str]


@dataclass(frozen=True, eq=False)
class TextVectors:
    """The texts of the catalogue as vectors, kept for the next benchmark.

    Attributes:
        vectors: [texts, dim] unit float32, mapped; one for every distinct text.
        source: Names the texts.
        encoders: Folder of the encoders.
        encoder: Runtime fingerprint of the one that encoded them.
        titles: Titles of the films.
    """

    vectors: Vectors
    source: str
    encoders: Path
    encoder: str
    titles: list[str]


def encoded_texts(
    workspace: Workspace, encoder_folder: Path, items: int, done: Callable[[str, int, int], None]
) -> TextVectors:
    """Encode the texts of the catalogue, unless that was done before.

    Args:
        workspace: With an encoder and a catalogue.
        encoder_folder: What encodes them.
        items: Number of texts.
        done: Called with what is going on, how much is done and of how much.
    """
    texts, titles = _texts_of(workspace, items)
    encoder = TextEncoder(encoder_folder)
    source = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    home = _home(workspace, "bench-texts")
    found = _published(home, encoder.fingerprint, source)
    if found is None:
        counted = 0

        def count(more: int) -> None:
            nonlocal counted
            counted += more
            done("encode texts", counted, len(texts))

        vectors = encoder.encode(texts, done=count)
        content = Content(
            spaces={TEXT: SpaceContent(vectors=vectors, engine=ExactEngine(vectors))},
            ids=_ids(len(vectors)),
            encoder=encoder.fingerprint,
            revision=1,
            source=source,
        )
        found = Snapshot.load(write(home.snapshots, content))
    return TextVectors(found.text.vectors, source, workspace.encoder, encoder.fingerprint, titles)


def prepare(workspace: Workspace, encoder_folder: Path, items: int, done: Callable[[str, int, int], None]) -> Corpus:
    """Encode the texts of the catalogue and index them, unless that was done before; see `encoded_texts`."""
    texts = encoded_texts(workspace, encoder_folder, items, done)
    home, chosen_home = (_home(workspace, name) for name in ("bench", "bench-chosen"))
    # The engine that raw search is compared with.
    snapshot = _snapshot(home, texts, Settings(engine="hnsw"))
    chosen = _snapshot(chosen_home, texts, Settings())
    return Corpus(home.home, chosen_home.home, encoder_folder, snapshot, chosen.manifest, texts.titles)


def _home(workspace: Workspace, name: str) -> Workspace:
    """A home beside the user's own with the same encoders."""
    home = Workspace(workspace.home / name)
    home.home.mkdir(parents=True, exist_ok=True)
    if not home.encoder.exists():
        home.encoder.symlink_to(workspace.encoder.resolve(), target_is_directory=True)
    return home


def _snapshot(home: Workspace, texts: TextVectors, settings: Settings) -> Snapshot:
    """What was published there before, or a new index."""
    found = _published(home, texts.encoder, texts.source)
    if found is not None:
        return found
    ids = _ids(len(texts.vectors))
    build_index(home.snapshots, texts.vectors, ids, encoder=texts.encoder, settings=settings, source=texts.source)
    return Snapshot.load(current(home.snapshots), encoder=texts.encoder)


def _published(home: Workspace, fingerprint: str, source: str) -> Snapshot | None:
    """What was published before, when it is whole and was made from these texts by this encoder."""
    try:
        snapshot = Snapshot.load(current(home.snapshots), encoder=fingerprint)
    except SnapshotError:
        return None
    return snapshot if snapshot.manifest.source == source else None


def _texts_of(workspace: Workspace, items: int) -> tuple[list[str], list[str]]:
    """The first distinct texts of the catalogue, text fields before single names, and all titles."""
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
    return list({**fields, **names})[:items], list(titles)


def _ids(count: int) -> list[str]:
    return [f"t{row}" for row in range(count)]


def known_requests(rows: Rows) -> list[bytes]:
    """One packed request a row: a history of known items, ten wanted, contributions on."""
    return [pack(RecommendRequest(history=[Behaviour(item=f"t{row}") for row in line])) for line in rows.tolist()]


def unseen_texts(titles: Sequence[str], users: int, seed: int) -> list[list[str]]:
    """Five titles a user that no film has and no other user gets: the first words of one film's title, the last of
    another's, and its number where that is needed to make it new."""
    random = np.random.default_rng([seed, 77])
    seen = set(titles)
    histories = []
    for _ in range(users):
        history: list[str] = []
        while len(history) < TEXTS_PER_USER:
            first, second = (titles[row].split() for row in random.integers(len(titles), size=2))
            title = " ".join(first[: max(1, len(first) // 2)] + second[len(second) // 2 :])
            while title in seen:
                title = f"{title} {len(seen)}"
            seen.add(title)
            history.append(title)
        histories.append(history)
    return histories


def text_requests(histories: Sequence[Sequence[str]]) -> list[bytes]:
    """One packed request for each history of texts."""
    return [pack(RecommendRequest(history=[Behaviour(text=text) for text in history])) for history in histories]


def infer_requests(model: str, packed: Sequence[bytes]) -> Iterator[bytes]:
    """Serialised ModelInferRequests, ready to be sent as they are."""
    for raw in packed:
        request = service_pb2.ModelInferRequest(model_name=model)
        request.inputs.add(name=models.REQUEST.name, datatype=models.REQUEST.datatype, shape=(1, 1))
        request.raw_input_contents.append(bytes_element(raw))
        yield request.SerializeToString()
