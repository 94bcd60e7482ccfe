"""What may be served, and what may go: activate, go back, remove, on encoders that only have a manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recserve_export.errors import ExportError, FidelityError
from recserve_export.index import activate as encoder_activate
from recserve_export.index.activate import activate, remove, roll_back
from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.common.errors import EncoderError, SnapshotError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.encoder.loaded import write_table
from recserve_server_ext.encoder.manifest import EncoderManifest, read_manifest
from recserve_server_ext.encoder.versions import active, versions
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.pointers import CURRENT, current
from recserve_server_ext.index.snapshot import Content, write
from recserve_server_ext.supervisor.run_folder import take_run_folder
from recserve_server_ext.supervisor.served_pair import described
from support.edited import item_vector
from support.small_snapshot import text_space
from support.versions import export

ITEMS = [StoredItem(f"i{n}", {"title": f"film {n}"}, {}) for n in range(20)]


class Home:
    """Two encoders over a catalogue, of which the first has an index."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workspace = Workspace(folder)
        self.tried: list[str] = []
        self.broken: set[str] = set()
        monkeypatch.setattr(encoder_activate, "verify_stored", self._verify)
        self.first = export(self.workspace.encoder, "one")
        self.second = export(self.workspace.encoder, "two")
        self.import_items()
        self.index(self.first)

    def import_items(self) -> None:
        with CatalogueStore(self.workspace.store, create=True) as store:
            store.replace_all(ITEMS, field_weights={"title": 1.0})

    def index(self, encoder: EncoderManifest) -> Path:
        """Publish a snapshot of the catalogue, as `index build` would."""
        with CatalogueStore(self.workspace.store) as store:
            head = store.head()
        vectors = np.stack([item_vector(item.texts, encoder.name) for item in ITEMS])
        content = Content(
            ids=[item.id for item in ITEMS],
            spaces=text_space(vectors, HnswEngine.build(vectors, m=8, ef_construction=20, ef=20, threads=1)),
            encoder=encoder.runtime_fingerprint,
            revision=head.revision,
            source=head.identity,
            field_weights=head.field_weights,
        )
        return write(self.workspace.snapshots, content)

    @property
    def served(self) -> int:
        found = active(self.workspace)
        assert found is not None
        return found.number

    def _verify(self, folder: Path) -> None:
        self.tried.append(read_manifest(folder).name)
        if self.tried[-1] in self.broken:
            raise FidelityError("it gives other vectors")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path, monkeypatch)


def test_an_encoder_without_an_index_is_refused_with_the_command(home: Home) -> None:
    with pytest.raises(
        ExportError,
        match=rf"by encoder {home.first.fingerprint}, .* by {home.second.fingerprint} .*encoder activate 2 --reindex$",
    ):
        activate(home.workspace, "2")
    assert home.served == 1
    (home.workspace.snapshots / CURRENT).unlink()
    with pytest.raises(ExportError, match=r"there is no index.*activate 2 --reindex"):
        activate(home.workspace, "2")


def test_forth_and_back_with_the_index_of_each(home: Home) -> None:
    first = current(home.workspace.snapshots).name
    second = home.index(home.second).name
    assert home.served == 2
    assert activate(home.workspace, "2").is_new is False
    done = roll_back(home.workspace)
    assert (done.is_new, done.version.number, done.snapshot.id, home.served) == (True, 1, first, 1)
    done = activate(home.workspace, home.second.fingerprint)
    assert (done.is_new, done.version.number, done.snapshot.id, home.served) == (True, 2, second, 2)
    assert roll_back(home.workspace).version.number == 1
    assert roll_back(home.workspace).version.number == 2
    assert set(home.tried) == {"one", "two"}


def test_a_version_that_gives_other_vectors_is_not_served(home: Home) -> None:
    home.index(home.second)
    home.broken.add("one")
    with pytest.raises(FidelityError):
        activate(home.workspace, "1")
    with pytest.raises(FidelityError):
        roll_back(home.workspace)
    assert home.served == 2


def test_an_index_of_an_older_import_is_not_served(home: Home) -> None:
    home.index(home.second)
    home.import_items()
    with pytest.raises(ExportError, match=r"none of today's catalogue .*activate 1 --reindex"):
        activate(home.workspace, "1")
    with pytest.raises(ExportError, match=r"older import; .*activate 1 --reindex"):
        roll_back(home.workspace)
    assert home.served == 2


def test_there_is_nothing_to_go_back_to(home: Home) -> None:
    with pytest.raises(SnapshotError, match="no other encoder was served before"):
        roll_back(home.workspace)
    home.index(home.second)
    remove(home.workspace, "1")
    with pytest.raises(ExportError, match=f"made by encoder {home.first.fingerprint}, and that is not in .* any more"):
        roll_back(home.workspace)


def test_what_is_served_or_loaded_stays(home: Home) -> None:
    with pytest.raises(ExportError, match=r"version 0001-fp32-.* is served; activate another one first"):
        remove(home.workspace, "1")
    with pytest.raises(EncoderError, match="no version '9'"):
        remove(home.workspace, "9")
    folder = take_run_folder(home.workspace.run, "8001")
    second = versions(home.workspace.encoder)[1]
    write_table(folder.path, [described(second.folder, second.usable(), ServeSettings())])
    with pytest.raises(ExportError, match=r"8001 still has version 0002-fp32-.* loaded"):
        remove(home.workspace, "2")
    folder.release()
    assert remove(home.workspace, "2").number == 2
    assert [one.number for one in versions(home.workspace.encoder)] == [1]
