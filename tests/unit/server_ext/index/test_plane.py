"""The plane of a snapshot: principal components, kept with it, and damaged ones refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.plane import Plane, principal_axes
from recserve_server_ext.index.pointers import current
from support.small_snapshot import small_snapshot


def test_principal_axes_are_those_of_a_singular_value_decomposition() -> None:
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(200, 6)) * [5, 3, 1, 0.5, 0.2, 0.1] + 7).astype(np.float32)
    mean, axes, kept = principal_axes(vectors)
    _, singular, right = np.linalg.svd(vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64))
    assert np.abs((axes * right[:2].T).sum(axis=0)) == pytest.approx([1, 1], abs=1e-6)
    assert kept == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum(), rel=1e-5)
    assert mean == pytest.approx(vectors.mean(axis=0), rel=1e-5)


def test_one_item_has_a_place() -> None:
    mean, axes, kept = principal_axes(np.ones((1, 4), np.float32))
    assert ((np.ones((1, 4)) - mean) @ axes).tolist() == [[0.0, 0.0]]
    assert kept == 1.0


def test_a_snapshot_keeps_its_plane(tmp_path: Path) -> None:
    snapshot = small_snapshot(tmp_path)
    folder = current(tmp_path)
    plane = Plane.load(folder)
    assert plane.places.shape == (len(snapshot.ids), 2)
    assert plane.places == pytest.approx(plane.project(snapshot.text.vectors.astype(np.float64)), abs=1e-5)
    assert "plane.npz" in read_manifest(folder).files


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_plane_is_refused(tmp_path: Path, damage: str) -> None:
    Plane.fit(np.eye(4, dtype=np.float32)).write(tmp_path)
    path = tmp_path / "plane.npz"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        np.savez(path, mean=np.zeros(4))
    with pytest.raises(SnapshotError, match=r"plane\.npz"):
        Plane.load(tmp_path)
