"""Snapshots: what is written comes back, what is damaged is refused, what fails publishes nothing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index import pointers
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import GRAPH, HnswEngine
from recserve_server_ext.index.engines.scan import CODES, LEAST_ITEMS, ScanEngine
from recserve_server_ext.index.engines.scan_fit import FITTED, Fit
from recserve_server_ext.index.fields import ItemFields, write_fields
from recserve_server_ext.index.item_ids import ROW_TABLE
from recserve_server_ext.index.manifest import MANIFEST, SnapshotManifest, write_manifest
from recserve_server_ext.index.plane import PLANE
from recserve_server_ext.index.pointers import CURRENT, current
from recserve_server_ext.index.snapshot import FIELDS, IDS, Content, Snapshot, write
from recserve_server_ext.index.space import REPORT, TEXT, VECTORS
from support.examples import examples
from support.small_snapshot import text_space

ITEMS = 300
ENCODER = "0123456789abcdef"
OF_TEXT = f"spaces/{TEXT}"
VECTORS_FILE, GRAPH_FILE, REPORT_FILE = (f"{OF_TEXT}/{name}" for name in (VECTORS, GRAPH, REPORT))
FILES = [VECTORS_FILE, GRAPH_FILE, REPORT_FILE, IDS, ROW_TABLE, FIELDS, PLANE, MANIFEST]


def vectors_of(items: int = ITEMS) -> Vectors:
    """The same every time."""
    vectors = np.random.default_rng(3).normal(size=(items, 8)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def content(**changes: Any) -> Content:
    """A small snapshot's content, the same every time; a space's own parts can be changed like the others."""
    vectors = changes.pop("vectors", vectors_of())
    engine = changes.pop("engine", None) or HnswEngine.build(vectors_of(), m=8, ef_construction=50, ef=40, threads=1)
    report = changes.pop("report", b'{"made": "up"}')
    return Content(
        **{
            "spaces": text_space(vectors, engine, recall_target=0.98, report=report),
            "ids": [f"tt{row}" for row in range(ITEMS)],
            "encoder": ENCODER,
            "revision": 7,
            "source": "films",
            "available": np.arange(ITEMS) % 5 != 0,
            "fields": [{"title": f"Film {row}", "year": 1900 + row} for row in range(ITEMS)],
            "field_weights": {"title": 2.0},
            **changes,
        }
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one published snapshot; copy it before changing it."""
    snapshots = tmp_path_factory.mktemp("snapshots")
    write(snapshots, content())
    return snapshots


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """The published snapshot's folder, in a copy that a test may damage."""
    shutil.copytree(published, tmp_path / "snapshots")
    return current(tmp_path / "snapshots")


def test_what_is_written_comes_back(published: Path) -> None:
    expected = content()
    assert expected.available is not None
    loaded = Snapshot.load(current(published), encoder=ENCODER, threads=1)
    np.testing.assert_array_equal(loaded.text.vectors, vectors_of())
    np.testing.assert_array_equal(loaded.available, expected.available)
    assert list(loaded.ids) == expected.ids
    assert [loaded.row_of[item] for item in loaded.ids] == list(range(ITEMS))
    assert loaded.fields.names == ("title", "year")
    assert loaded.fields.take(["year", "title", "none"], np.array([5, 0])) == [
        {"year": 1905, "title": "Film 5", "none": None},
        {"year": 1900, "title": "Film 0", "none": None},
    ]
    manifest = loaded.manifest
    assert (manifest.id, manifest.format, manifest.encoder) == (current(published).name, 6, ENCODER)
    assert (manifest.revision, manifest.items, manifest.text.dim) == (7, ITEMS, 8)
    assert (manifest.source, manifest.field_weights, manifest.text.recall_target) == ("films", {"title": 2.0}, 0.98)
    assert manifest.text.engine.name == loaded.text.engine.name == "hnsw"
    assert manifest.text.engine.parameters == {"M": 8, "ef_construction": 50, "ef": 40}
    assert sorted(manifest.files) == sorted(set(FILES) - {MANIFEST})


def test_loaded_engines_search(published: Path) -> None:
    loaded = Snapshot.load(current(published), threads=1)
    queries = loaded.text.vectors[:20]
    for engine in (loaded.text.engine, loaded.text.exact):
        rows, scores = engine.search(queries, 3)
        assert rows[:, 0].tolist() == list(range(20))
        np.testing.assert_allclose(scores[:, 0], 1, atol=1e-6)
    assert loaded.text.exact.name == "exact"


def test_vectors_are_mapped_and_read_only(published: Path) -> None:
    vectors = Snapshot.load(current(published)).text.vectors
    assert type(vectors) is np.ndarray
    assert isinstance(vectors.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        vectors[0, 0] = 1


def test_an_exact_snapshot_has_no_graph(tmp_path: Path) -> None:
    folder = write(tmp_path, content(engine=ExactEngine(vectors_of()), report=None, fields=None, available=None))
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert files == {VECTORS_FILE, IDS, ROW_TABLE, FIELDS, PLANE, MANIFEST}
    loaded = Snapshot.load(folder)
    assert loaded.text.engine.name == "exact"
    assert loaded.available.all()
    assert loaded.fields.names == ()
    assert loaded.fields.take([], np.array([1, 2])) == [{}, {}]
    assert loaded.fields.take(["title"], np.array([1])) == [{"title": None}]


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_refused(copy: Path, name: str) -> None:
    content_bytes = bytearray((copy / name).read_bytes())
    # In the manifest the middle is inside a checksum or a version: still JSON, but another value.
    at = len(content_bytes) // 2
    content_bytes[at] ^= 1
    (copy / name).write_bytes(content_bytes)
    with pytest.raises(SnapshotError, match=re.escape(str(copy / name)) + r".* (damaged|cannot be read)") as refused:
        Snapshot.load(copy)
    assert "recserve index build" in str(refused.value)


@pytest.mark.parametrize("name", ["hnsw", "scan"])
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path, name: str) -> None:
    """The first bit, the last one and 30 others of every file that an engine has."""
    random = np.random.default_rng(9)
    changes: dict[str, Any] = {}
    if name == "scan":
        vectors = random.normal(size=(LEAST_ITEMS, 8)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        fit = Fit.to(vectors[:100], vectors, rank=8)
        engine = ScanEngine.build(vectors, fit, lists=2, codes=4, nprobe=2, rescored=60, threads=1)
        ids = [f"s{row}" for row in range(len(vectors))]
        changes = {"vectors": vectors, "ids": ids, "engine": engine, "available": None, "fields": None}
    folder = write(tmp_path, content(**changes))
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path.name for path in files} >= ({CODES, FITTED} if name == "scan" else {GRAPH})
    for path, good in files.items():
        bits = len(good) * 8
        for bit in (0, bits - 1, *random.integers(bits, size=30).tolist()):
            damaged = bytearray(good)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(SnapshotError, match=re.escape(str(path))):
                Snapshot.load(folder)
        path.write_bytes(good)
    assert Snapshot.load(folder).text.engine.name == name


def test_any_flipped_bit_of_the_manifest_is_refused(copy: Path) -> None:
    path = copy / MANIFEST
    good = path.read_bytes()
    for at in range(len(good)):
        flipped = bytearray(good)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        with pytest.raises(SnapshotError):
            Snapshot.load(copy, verify=False)


def test_damage_names_both_checksums(copy: Path) -> None:
    (copy / VECTORS_FILE).write_bytes(b"something else")
    expected = msgspec.json.decode((copy / MANIFEST).read_bytes())["files"][VECTORS_FILE][:12]
    with pytest.raises(
        SnapshotError, match=f"{VECTORS_FILE} is damaged: SHA-256 [0-9a-f]{{12}}, manifest says {expected}"
    ):
        Snapshot.load(copy)


@pytest.mark.parametrize(
    ("name", "verify"),
    # Without checksums the report and the plane are not looked at: loading does not read them.
    [(name, True) for name in FILES] + [(name, False) for name in FILES if name not in (REPORT_FILE, PLANE)],
)
def test_a_truncated_file_is_refused(copy: Path, name: str, verify: bool) -> None:
    os.truncate(copy / name, (copy / name).stat().st_size // 2)
    with pytest.raises(SnapshotError, match=re.escape(name)):
        Snapshot.load(copy, verify=verify)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(SnapshotError, match=rf"{re.escape(name)}.*recserve index build"):
        Snapshot.load(copy, verify=False)


def test_another_encoder_is_refused_with_both_named(published: Path) -> None:
    with pytest.raises(SnapshotError, match=rf"{ENCODER}, not with fedcba\+vnni; rebuild it with: recserve index"):
        Snapshot.load(current(published), encoder="fedcba+vnni")


def test_another_format_is_refused(copy: Path) -> None:
    document = msgspec.json.decode((copy / MANIFEST).read_bytes())
    (copy / MANIFEST).write_bytes(msgspec.json.encode({**document, "format": 7, "new": 1}))
    with pytest.raises(SnapshotError, match=r"format 7, this version reads 6"):
        Snapshot.load(copy)


def test_an_unknown_engine_and_a_wrong_shape_are_refused(copy: Path) -> None:
    manifest = msgspec.json.decode((copy / MANIFEST).read_bytes(), type=SnapshotManifest)
    other = msgspec.structs.replace(manifest.text, engine=msgspec.structs.replace(manifest.text.engine, name="tree"))
    write_manifest(copy, msgspec.structs.replace(manifest, spaces={TEXT: other}))
    with pytest.raises(SnapshotError, match="'tree'"):
        Snapshot.load(copy)
    write_manifest(copy, msgspec.structs.replace(manifest, items=ITEMS + 1))
    with pytest.raises(SnapshotError, match="has 300 vectors for 301 rows of 301 items"):
        Snapshot.load(copy)
    more = msgspec.structs.replace(manifest.text, vectors=ITEMS + 1)
    write_manifest(copy, msgspec.structs.replace(manifest, spaces={TEXT: more}))
    with pytest.raises(SnapshotError, match=r"vectors.* holds float32 \(300, 8\), manifest says float32 \(301, 8\)"):
        Snapshot.load(copy)


def test_nothing_published(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="build one with: recserve index build"):
        current(tmp_path)
    with pytest.raises(SnapshotError, match="build one with: recserve index build"):
        current(tmp_path / "not there")
    with pytest.raises(SnapshotError, match=f"no {MANIFEST}"):
        Snapshot.load(tmp_path)


@pytest.mark.parametrize("name", ["20260101T000000-00000000", "", "..", "../elsewhere", "/"])
def test_current_that_points_nowhere_is_refused(copy: Path, name: str) -> None:
    (copy.parent / CURRENT).write_text(f"{name}\n")
    with pytest.raises(SnapshotError, match=re.escape(f"names {name!r}, which is not there")):
        current(copy.parent)


def test_a_new_one_replaces_the_current_and_the_previous_is_kept(tmp_path: Path) -> None:
    written = [write(tmp_path, content(revision=revision)) for revision in range(4)]
    assert current(tmp_path) == written[-1]
    assert sorted(folder for folder in tmp_path.iterdir() if folder.is_dir()) == sorted(written[2:])
    assert [Snapshot.load(folder).manifest.revision for folder in written[2:]] == [2, 3]


class Broken(HnswEngine):
    """Fails when the snapshot is half written."""

    def save(self, folder: Path) -> None:
        super().save(folder)
        raise OSError("disk full")


def test_a_writer_that_fails_publishes_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots, good = copy.parent, content()
    broken = Broken.build(vectors_of(), m=8, ef_construction=50, ef=40, threads=1)
    before = sorted(snapshots.iterdir())
    with pytest.raises(OSError, match="disk full"):
        write(snapshots, content(engine=broken))
    assert [path for path in sorted(snapshots.iterdir()) if path.name != ".lock"] == [
        path for path in before if path.name != ".lock"
    ]
    assert current(snapshots) == copy

    def fail(path: Path, content: bytes) -> None:
        raise OSError("no rename")

    monkeypatch.setattr(pointers, "write_file", fail)
    with pytest.raises(OSError, match="no rename"):
        write(snapshots, good)
    assert current(snapshots) == copy
    Snapshot.load(copy, encoder=ENCODER)


def test_a_killed_writer_publishes_nothing_and_the_next_cleans_up(copy: Path) -> None:
    snapshots, good = copy.parent, content()

    class Killed(HnswEngine):
        def save(self, folder: Path) -> None:
            (folder / GRAPH).write_bytes(b"half")
            os._exit(9)

    child = os.fork()
    if child == 0:
        write(snapshots, content(engine=Killed.build(vectors_of(), m=8, ef_construction=50, ef=40, threads=1)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = [folder for folder in snapshots.iterdir() if folder.is_dir() and folder != copy]
    assert len(left) == 1
    assert current(snapshots) == copy
    new = write(snapshots, good)
    assert {folder for folder in snapshots.iterdir() if folder.is_dir()} == {copy, new}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ["a", "b"]}, "space text has 300 vectors for 2 rows of 2 items"),
        ({"ids": ["same"] * ITEMS}, "distinct ids, got 300 of which 1 distinct"),
        ({"vectors": np.ones((ITEMS, 8))}, "float64"),
        ({"vectors": np.ones((0, 8), np.float32)}, r"\(0, 8\)"),
        ({"available": np.ones(3, np.bool_)}, r"must be \[300\], got \[3\]"),
        ({"fields": [{}] * 3}, "300 vectors needs the fields of as many items, got 3"),
    ],
)
def test_content_that_does_not_fit_together_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SnapshotError, match=message):
        write(tmp_path, content(**changes))
    with pytest.raises(SnapshotError, match="no snapshot"):
        current(tmp_path)


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_VALUE = st.one_of(
    _TEXT, st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.lists(_TEXT, max_size=3), st.none(), st.dictionaries(_TEXT, st.integers(-5, 5), max_size=2),
)  # fmt: skip


@examples(100)
@given(items=st.lists(st.dictionaries(st.sampled_from(["title", "year", "cast"]), _VALUE), max_size=6), data=st.data())
def test_fields_come_back_as_they_were(
    items: list[dict[str, Any]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fields") / FIELDS
    write_fields(path, items)
    fields = ItemFields.load(path)
    assert set(fields.names) == {name for item in items for name in item}
    rows = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=8)) if items else []
    taken: list[Mapping[str, Any]] = list(fields.take(["cast", "year", "title"], np.array(rows, np.int64)))
    assert taken == [{name: items[row].get(name) for name in ("cast", "year", "title")} for row in rows]
    for found, row in zip(taken, rows, strict=True):
        assert all(type(value) is type(items[row].get(name)) for name, value in found.items())


def test_fields_of_a_type_are_columns_of_it(tmp_path: Path) -> None:
    rows: NDArray[np.int64] = np.array([1, 1, 0])
    write_fields(tmp_path / FIELDS, [{"cast": ["a", "b"], "mixed": 1}, {"cast": [], "mixed": "one"}])
    fields = ItemFields.load(tmp_path / FIELDS)
    assert [item["cast"] for item in fields.take(["cast"], rows)] == [[], [], ["a", "b"]]
    assert [item["mixed"] for item in fields.take(["mixed"], rows)] == ["one", "one", 1]
