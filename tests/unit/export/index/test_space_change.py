"""Versions of trained spaces: served and rolled back by new snapshots; what does not fit is refused alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from recserve_client.cli.console import out
from recserve_export.cli.spaces import app
from recserve_export.index.build import build_index
from recserve_export.index.engine_choice import Settings
from recserve_export.index.space_change import activate_space, roll_back_space, serve_versions
from recserve_server_ext.common.errors import SnapshotError, SpaceError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.manifest import MANIFEST
from recserve_server_ext.index.matrix import ItemMatrix
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot, write_over
from recserve_server_ext.index.snapshot_versions import rollback
from recserve_server_ext.index.space import VECTORS, space_folder
from recserve_server_ext.index.trained import Origin, publish_matrix, publish_space
from recserve_server_ext.index.trained_versions import collect_versions, current_spaces, kept_versions, make_current
from recserve_server_ext.networks.network import Network
from support.sequence import DIM as NETWORK_DIM
from support.sequence import bit_flipped, tiny_network, with_weight

ENCODER, SOURCE = "abc", "catalogue one"
ITEMS, DIM, OWN_DIM = 40, 8, 4
IDS = [f"i{n}" for n in range(ITEMS)]


def vectors(seed: int, dim: int = OWN_DIM) -> np.ndarray:  # type: ignore[type-arg]
    drawn = np.random.default_rng(seed).normal(size=(ITEMS, dim)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def version(workspace: Workspace, name: str = "als", seed: int = 1, origin: Origin | None = None) -> Path:
    mapped = np.ones((DIM + 1, OWN_DIM), np.float32)
    origin = origin or Origin(SOURCE, ENCODER)
    return publish_space(workspace.spaces, name, IDS, vectors(seed), text_map=mapped, origin=origin)


def neighbours(workspace: Workspace) -> Path:
    offsets = np.arange(ITEMS + 1)
    columns, weights = np.roll(np.arange(ITEMS), 1).astype(np.int32), np.ones(ITEMS, np.float32)
    return publish_matrix(workspace.spaces, "item_knn", IDS, ItemMatrix(offsets, columns, weights))


def served(workspace: Workspace) -> Snapshot:
    return Snapshot.load(current(workspace.snapshots), encoder=ENCODER)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A home with an index, without a trained space."""
    workspace = Workspace(tmp_path)
    settings = Settings(engine="exact", users=10)
    build_index(workspace.snapshots, vectors(0, DIM), IDS, encoder=ENCODER, source=SOURCE, settings=settings)
    return workspace


def test_versions_are_served_and_rolled_back_without_a_build(workspace: Workspace) -> None:
    before = served(workspace)
    first, knn = version(workspace, seed=1), neighbours(workspace)
    serve_versions(workspace, {"als": first, "item_knn": knn})
    assert served(workspace).manifest.trained == {"als": first.name, "item_knn": knn.name}
    second = version(workspace, seed=2)
    activate_space(workspace, "als", second.name)
    now = served(workspace)
    np.testing.assert_array_equal(now.spaces["als"].vectors, vectors(2))
    assert now.manifest.trained == {"als": second.name, "item_knn": knn.name}
    assert now.matrices["item_knn"].of_rows(np.array([1])).column.tolist() == [0]
    np.testing.assert_array_equal(now.text.vectors, before.text.vectors)
    assert (list(now.ids), now.manifest.revision) == (list(before.ids), before.manifest.revision)
    roll_back_space(workspace, "als")
    np.testing.assert_array_equal(served(workspace).spaces["als"].vectors, vectors(1))
    assert current_spaces(workspace.spaces) == {"als": first, "item_knn": knn}
    # A rollback of the index goes back to the spaces that it had.
    rollback(workspace.snapshots, ENCODER)
    np.testing.assert_array_equal(served(workspace).spaces["als"].vectors, vectors(2))


def test_what_is_served_already_makes_no_snapshot(workspace: Workspace) -> None:
    first = version(workspace)
    name = serve_versions(workspace, {"als": first})
    assert activate_space(workspace, "als", first.name) == name == current(workspace.snapshots).name


def test_other_files_are_shared_with_the_snapshot_before(workspace: Workspace) -> None:
    before = current(workspace.snapshots)
    serve_versions(workspace, {"als": version(workspace)})
    after = current(workspace.snapshots)
    assert (space_folder(after) / VECTORS).samefile(space_folder(before) / VECTORS)


def flipped(workspace: Workspace, folder: Path) -> None:
    raw = bytearray((folder / VECTORS).read_bytes())
    raw[-3] ^= 4
    (folder / VECTORS).write_bytes(raw)


def edited(workspace: Workspace, folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace(f'"items": {ITEMS}', f'"items": {ITEMS - 1}'))


def of_another_layout(workspace: Workspace, folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"format": 1', '"format": 2'))


@pytest.mark.parametrize(
    ("spoil", "origin", "named"),
    [
        (flipped, Origin(SOURCE, ENCODER), r"vectors\.npy is damaged: SHA-256"),
        (edited, Origin(SOURCE, ENCODER), r"manifest\.json is damaged: SHA-256"),
        (of_another_layout, Origin(SOURCE, ENCODER), "has format 2, this version reads 1"),
        (None, Origin("catalogue two", ENCODER), "is of catalogue catalogue two, the index of catalogue one"),
        (None, Origin(SOURCE, "xyz"), "is of encoder xyz, the index of abc; .*: recserve train als"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_others_are_served(
    workspace: Workspace, spoil: object, origin: Origin, named: str
) -> None:
    good = version(workspace, seed=1)
    serve_versions(workspace, {"als": good})
    bad = version(workspace, seed=2, origin=origin)
    if callable(spoil):
        spoil(workspace, bad)
    with pytest.raises(SpaceError, match=named):
        activate_space(workspace, "als", bad.name)
    assert current_spaces(workspace.spaces) == {"als": good}
    assert served(workspace).manifest.trained == {"als": good.name}
    # A build leaves it out and takes the others.
    make_current(bad)
    make_current(neighbours(workspace))
    built = build_index(
        workspace.snapshots, vectors(0, DIM), IDS, encoder=ENCODER, source=SOURCE,
        settings=Settings(engine="exact", users=10), spaces=workspace.spaces,
    )  # fmt: skip
    assert list(built.refused) == ["als"]
    assert list(served(workspace).manifest.trained) == ["item_knn"]


def test_a_network_that_gives_other_vectors_is_refused_and_the_one_before_stays(workspace: Workspace) -> None:
    def trained(network: Network) -> Path:
        return publish_space(workspace.spaces, "sequence", IDS, vectors(1, NETWORK_DIM), network=network)

    good = trained(tiny_network())
    serve_versions(workspace, {"sequence": good})
    another = tiny_network(1)._replace(canonical=tiny_network().canonical)
    for wrong in (with_weight(tiny_network(), bit_flipped), another):
        bad = trained(wrong)
        why = r"vector of history \d+ in canonical\.npz is off by .* of its length, over .*: recserve train sequence"
        with pytest.raises(SpaceError, match=rf"{bad}/network\.onnx .* {why}"):
            activate_space(workspace, "sequence", bad.name)
        assert current_spaces(workspace.spaces) == {"sequence": good}
        assert served(workspace).manifest.trained == {"sequence": good.name}
        assert served(workspace).spaces["sequence"].network == tiny_network()


def test_a_space_without_an_item_of_the_catalogue_is_refused(workspace: Workspace) -> None:
    folder = publish_space(workspace.spaces, "als", ["other"], vectors(1)[:1])
    with pytest.raises(SpaceError, match="no item of the catalogue"):
        activate_space(workspace, "als", folder.name)


def test_nothing_is_published_over_another_snapshot(workspace: Workspace) -> None:
    base = current(workspace.snapshots).name
    serve_versions(workspace, {"als": version(workspace)})
    with pytest.raises(SnapshotError, match=f"was published meanwhile over {base}"):
        write_over(workspace.snapshots, base, {}, {}, {})


def test_what_is_not_there_is_named(workspace: Workspace) -> None:
    first = version(workspace)
    with pytest.raises(SpaceError, match=f"no version 'none'; there are: {first.name}"):
        activate_space(workspace, "als", "none")
    with pytest.raises(SpaceError, match=r"no trained space 'ease'.*there are: als"):
        activate_space(workspace, "ease", first.name)
    with pytest.raises(SpaceError, match=r"no version '\.\.'"):
        activate_space(workspace, "als", "..")
    with pytest.raises(SpaceError, match="nothing to go back to"):
        roll_back_space(workspace, "als")


def test_without_an_index_a_version_becomes_current(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = version(workspace)
    assert serve_versions(workspace, {"als": folder}) == ""
    assert current_spaces(workspace.spaces) == {"als": folder}


def test_old_versions_go(workspace: Workspace) -> None:
    folders = []
    for seed in range(4):
        folders.append(version(workspace, seed=seed))
        make_current(folders[-1])
    waiting = version(workspace, seed=9)
    (workspace.spaces / "als" / ".killed.tmp").mkdir()
    assert [one.folder for one in kept_versions(workspace.spaces)] == [waiting, folders[3], folders[2]]
    assert collect_versions(workspace.spaces) == ["als/.killed.tmp", f"als/{folders[2].name}", f"als/{waiting.name}"]
    assert [one.folder for one in kept_versions(workspace.spaces, verify=True)] == [folders[3]]


def test_the_commands(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run, home = CliRunner(), ["--home", str(workspace.home)]
    assert "recserve train all" in run.invoke(app, ["list", *home]).output
    first, second = version(workspace, seed=1), version(workspace, seed=2)
    for folder in (first, second):
        done = run.invoke(app, ["activate", "als", folder.name, *home])
        assert done.exit_code == 0, done.output
    assert served(workspace).manifest.trained == {"als": second.name}
    assert run.invoke(app, ["rollback", "als", *home]).exit_code == 0
    assert served(workspace).manifest.trained == {"als": first.name}
    monkeypatch.setattr(out, "width", 200)
    listed = run.invoke(app, ["list", "--verify", *home])
    assert listed.exit_code == 0, listed.output
    assert [line.split()[0] for line in listed.output.splitlines() if "als" in line] == ["als", "*"]
    flipped(workspace, second)
    listed = run.invoke(app, ["list", "--verify", *home])
    assert listed.exit_code == 1
    assert "damaged" in listed.output
    assert run.invoke(app, ["gc", *home]).exit_code == 0
    assert [one.folder for one in kept_versions(workspace.spaces)] == [first]
    refused = run.invoke(app, ["activate", "als", second.name, *home])
    assert refused.exit_code == 1
    assert isinstance(refused.exception, SystemExit | typer.Exit)
