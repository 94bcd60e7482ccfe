"""Versions of encoders on disk: what an export adds, how one is named, which is served, what removing leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from recserve_server_ext.common.errors import EncoderError, SnapshotError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.encoder.manifest import MANIFEST, MODEL, EncoderManifest, read_manifest
from recserve_server_ext.encoder.selection import choose_encoder
from recserve_server_ext.encoder.versions import (
    VERSIONS,
    Version,
    active,
    discard,
    find,
    link_to,
    made_by,
    new_version,
    versions,
)
from recserve_server_ext.index.manifest import write_manifest
from recserve_server_ext.index.pointers import publish
from recserve_server_ext.supervisor.served_pair import first_pair, published_pair
from support.small_snapshot import small_snapshot
from support.versions import export, fill


def names(found: list[Version]) -> list[tuple[int, str]]:
    return [(one.number, one.usable().name) for one in found]


def serve(workspace: Workspace, manifest: EncoderManifest) -> None:
    """Publish a snapshot of this encoder."""
    made = small_snapshot(workspace.snapshots).manifest
    folder = workspace.snapshots / made.id
    write_manifest(folder, msgspec.structs.replace(made, encoder=manifest.runtime_fingerprint))
    publish(workspace.snapshots, made.id, manifest.runtime_fingerprint)


def test_an_export_adds_a_version_and_disturbs_none(tmp_path: Path) -> None:
    first = export(tmp_path, "one")
    second = export(tmp_path, "two")
    third = export(tmp_path, "three", "int8")
    assert names(versions(tmp_path)) == [(1, "one"), (2, "two"), (3, "three")]
    assert versions(tmp_path)[0].name == f"0001-fp32-{first.fingerprint}"
    assert read_manifest(tmp_path / "fp32").fingerprint == second.fingerprint
    assert read_manifest(tmp_path / "int8").fingerprint == third.fingerprint
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_same_encoder_again_stays_one_version(tmp_path: Path) -> None:
    export(tmp_path, "one")
    export(tmp_path, "two")
    export(tmp_path, "one")
    assert names(versions(tmp_path)) == [(1, "one"), (2, "two")]
    assert read_manifest(tmp_path / "fp32").name == "one"


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    export(tmp_path, "one")
    with pytest.raises(FileNotFoundError), new_version(tmp_path, "fp32") as aside:
        fill(aside / "nowhere", "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fp32", VERSIONS]
    assert names(versions(tmp_path)) == [(1, "one")]


def test_a_folder_in_the_place_of_the_link_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "home")
    export(workspace.encoder, "one")
    copied = Workspace(shutil.copytree(workspace.home, tmp_path / "copied"))  # follows the link
    said = "fp32 is a folder and no link .* remove it, then run: recserve export encoder --precision fp32"
    with pytest.raises(EncoderError, match=said):
        choose_encoder(copied)
    with pytest.raises(EncoderError, match=said):
        export(copied.encoder, "two")
    (one,) = versions(copied.encoder)
    with pytest.raises(EncoderError, match=said):
        link_to(copied.encoder, one)
    shutil.rmtree(copied.encoder / "fp32")
    link_to(copied.encoder, one)
    assert choose_encoder(copied).resolve() == one.folder.resolve()


def test_a_version_goes_by_number_name_and_fingerprint(tmp_path: Path) -> None:
    first, _ = export(tmp_path, "one"), export(tmp_path, "two")
    for name in ("1", f"0001-fp32-{first.fingerprint}", first.fingerprint, first.fingerprint[:6]):
        assert find(tmp_path, name).number == 1
    for name in ("3", first.fingerprint[:5], "one"):
        with pytest.raises(EncoderError, match=r"no version .*0001-fp32-.*0002-fp32-.*recserve encoder list"):
            find(tmp_path, name)
    second = find(tmp_path, "2").folder
    second.rename(second.with_name(second.name.replace("0002", "0001")))
    with pytest.raises(EncoderError, match="several versions '1'"):
        find(tmp_path, "1")


def test_a_damaged_version_is_listed_with_its_fault(tmp_path: Path) -> None:
    first = export(tmp_path, "one")
    (tmp_path / VERSIONS / f"0001-fp32-{first.fingerprint}" / MANIFEST).write_text("{")
    (found,) = versions(tmp_path)
    assert found.manifest is None
    assert MANIFEST in found.fault
    assert find(tmp_path, first.fingerprint) == found
    with pytest.raises(EncoderError, match="cannot be read"):
        found.usable()
    export(tmp_path, "one")
    assert names(versions(tmp_path)) == [(1, "one")]


def test_what_made_the_published_snapshot_is_served_whatever_is_exported(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = export(workspace.encoder, "one")
    assert active(workspace) is None
    serve(workspace, first)
    export(workspace.encoder, "two")
    export(workspace.encoder, "three", "int8")
    served = active(workspace)
    assert served is not None
    assert served.number == 1
    assert choose_encoder(workspace) == choose_encoder(workspace, "fp32") == served.folder
    assert choose_encoder(workspace, "int8").resolve().name.startswith("0003-int8-")
    pair = first_pair(workspace, ServeSettings())
    assert (pair.encoder.fingerprint, pair.encoder.folder) == (first.fingerprint, str(served.folder.resolve()))
    with pytest.raises(SnapshotError, match=rf"by encoder {first.fingerprint}, but .*index build --precision int8"):
        published_pair(workspace, ServeSettings(precision="int8"))


def test_a_snapshot_whose_encoder_is_gone_or_damaged_is_passed_over(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first, second = export(workspace.encoder, "one"), export(workspace.encoder, "two")
    serve(workspace, first)
    serve(workspace, second)
    assert first_pair(workspace, ServeSettings()).encoder.fingerprint == second.fingerprint
    found = made_by(workspace.encoder, second.fingerprint)
    assert found is not None
    (found.folder / MODEL).write_text("damaged")
    with pytest.raises(SnapshotError, match="cannot be served"):
        published_pair(workspace, ServeSettings())
    assert first_pair(workspace, ServeSettings()).encoder.fingerprint == first.fingerprint
    discard(workspace.encoder, found)
    with pytest.raises(SnapshotError, match=f"by encoder {second.fingerprint}, but .*recserve index build"):
        published_pair(workspace, ServeSettings())
    assert first_pair(workspace, ServeSettings()).encoder.fingerprint == first.fingerprint


def test_the_link_goes_to_the_newest_that_is_left(tmp_path: Path) -> None:
    export(tmp_path, "one")
    export(tmp_path, "two")
    export(tmp_path, "three", "int8")
    discard(tmp_path, find(tmp_path, "2"))
    assert read_manifest(tmp_path / "fp32").name == "one"
    discard(tmp_path, find(tmp_path, "3"))
    assert not (tmp_path / "int8").is_symlink()
    assert names(versions(tmp_path)) == [(1, "one")]
    export(tmp_path, "four")
    assert names(versions(tmp_path)) == [(1, "one"), (2, "four")]
