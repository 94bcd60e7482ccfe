"""From a catalogue store and an encoder to a published index, and the command that does it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from recserve_export.bulk_encoding.columns import item_vectors, read_catalogue
from recserve_export.cli import index as cli_index
from recserve_export.index import build as index_build
from recserve_export.index import engine_choice
from recserve_export.index.build import Built, build, build_index
from recserve_export.index.engine_choice import Settings
from recserve_export.index.report import read_report
from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import CatalogueError, SnapshotError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.encoder.item_vectors import Pairs, weighted_sums
from recserve_server_ext.encoder.manifest import MANIFEST as ENCODER_MANIFEST
from recserve_server_ext.encoder.manifest import EncoderManifest
from recserve_server_ext.encoder.versions import new_version
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.space import REPORT, VECTORS, space_folder
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.store import InteractionStore
from support.examples import examples

DIM = 12
QUICK = Settings(engine="hnsw", m=(4, 8), ef_construction=40, ef=(16, 64), users=20, threads=1)
WORDS = ["star", "war", "love", "night", "house", "river", "king", "last", "city", "dark", "dream", "road"]


class HashEncoder:
    """A text's vector is drawn with the text as the seed; counts what it was asked for."""

    dim = DIM
    fingerprint = "feedbeef"

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.truncated_texts = 0

    def encode(
        self, texts: Sequence[str], *, role: str = "passage", done: Callable[[int], None] | None = None
    ) -> Vectors:
        self.encoded += texts
        self.truncated_texts += sum(len(text) > 20 for text in texts)
        if done is not None:
            done(len(texts))
        return np.stack([vector_of(text) for text in texts])


def vector_of(text: str) -> Vectors:
    """The unit vector of a text, [dim]; "not X" is opposite to "X"."""
    if text.startswith("not "):
        return -vector_of(text[4:])
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    unit: Vectors = vector / np.linalg.norm(vector)
    return unit


def films(count: int) -> list[StoredItem]:
    """Items with a title, a genre that many share, for some a plot, and attributes."""
    random = np.random.default_rng(1)
    return [
        StoredItem(
            id=f"tt{row}",
            texts={"title": " ".join(random.choice(WORDS, 3)), "genre": WORDS[row % 4]}
            | ({"plot": f"plot {row}"} if row % 3 == 0 else {}),
            attributes={"year": 1900 + row, "genre": [WORDS[row % 4]]},
            available=row % 7 != 0,
        )
        for row in range(count)
    ]


def store_of(path: Path, items: list[StoredItem], weights: dict[str, float]) -> None:
    """Make the store at `path` hold these items."""
    with CatalogueStore(path, create=True) as store:
        store.replace_all(items, field_weights=weights)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A home with 120 films and a stand-in encoder, which an index can be built from."""
    workspace = Workspace(tmp_path)
    store_of(workspace.store, films(120), {"title": 2.0, "genre": 1.0, "plot": 0.5})
    make_encoder(workspace, "feedbeef")
    monkeypatch.setattr(index_build, "TextEncoder", lambda folder, threads: HashEncoder())
    return workspace


def make_encoder(workspace: Workspace, content: str) -> None:
    """An encoder manifest whose fingerprint is `HashEncoder`'s, or another for other content."""
    manifest = EncoderManifest(
        name="hash", precision="fp32", dim=DIM, max_tokens=8, pooling="mean", source_sha256="",
        files={"model.onnx": content, "tokenizer.json": ""}, versions={},
    )  # fmt: skip
    HashEncoder.fingerprint = manifest.runtime_fingerprint
    with new_version(workspace.encoder, "fp32") as folder:
        for name in manifest.files:
            (folder / name).write_bytes(b"")
        (folder / ENCODER_MANIFEST).write_bytes(msgspec.json.encode(manifest))


def test_item_vector_is_the_normalised_weighted_sum(workspace: Workspace) -> None:
    with CatalogueStore(workspace.store) as store:
        catalogue = read_catalogue(store)
    encoder = HashEncoder()
    done: list[int] = []
    vectors = item_vectors(catalogue, encoder, done=done.append)
    for row, item in enumerate(films(120)):
        expected = sum(
            weight * vector_of(item.texts[name])
            for name, weight in {"title": 2.0, "genre": 1.0, "plot": 0.5}.items()
            if name in item.texts
        )
        np.testing.assert_allclose(vectors[row], expected / np.linalg.norm(expected), atol=1e-6)
    assert vectors.dtype == np.float32
    assert len(encoder.encoded) == len(set(encoder.encoded)) == sum(done)
    assert set(encoder.encoded) == {text for item in films(120) for text in item.texts.values()}


@examples(50)
@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.floats(-2, 2, width=32)), min_size=1, max_size=4), min_size=1))
def test_weighted_sums_are_those_of_a_loop(items: list[list[tuple[int, float]]]) -> None:
    of_texts = np.random.default_rng(0).normal(size=(5, DIM)).astype(np.float32)
    first = np.cumsum([0] + [len(item) for item in items[:-1]])
    texts = np.array([text for item in items for text, _ in item], np.int64)
    weights = np.array([weight for item in items for _, weight in item], np.float32)
    expected = [sum(weight * of_texts[text] for text, weight in item) for item in items]
    np.testing.assert_allclose(weighted_sums(of_texts, Pairs([], first, texts, weights)), expected, atol=1e-5)


def test_weighted_sums_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    of_texts, sizes = random.normal(size=(50, DIM)).astype(np.float32), random.integers(1, 9, size=100)
    first = np.cumsum(sizes) - sizes
    texts = random.integers(50, size=sizes.sum())
    weights = random.normal(size=sizes.sum()).astype(np.float32)
    whole = weighted_sums(of_texts, Pairs([], first, texts, weights))
    for pairs in (1, 7, 20):  # 1: less than an item
        monkeypatch.setattr("recserve_server_ext.encoder.item_vectors._BLOCK_PAIRS", pairs)
        np.testing.assert_allclose(weighted_sums(of_texts, Pairs([], first, texts, weights)), whole, atol=1e-5)


def test_a_field_without_weight_is_not_encoded(tmp_path: Path) -> None:
    store_of(tmp_path / "c.db", films(10), {"title": 1.0, "genre": 0.0, "plot": 0.0})
    encoder = HashEncoder()
    with CatalogueStore(tmp_path / "c.db") as store:
        catalogue = read_catalogue(store)
        vectors = item_vectors(catalogue, encoder)
    np.testing.assert_allclose(vectors, [vector_of(item.texts["title"]) for item in films(10)], atol=1e-6)
    assert set(encoder.encoded) == {item.texts["title"] for item in films(10)}
    assert catalogue.fields[0] == {**films(10)[0].texts, **films(10)[0].attributes}


def test_items_whose_vectors_cancel_out_are_named(tmp_path: Path) -> None:
    cancelling = StoredItem("tt9", {"title": "war", "genre": "not war"}, {})
    store_of(tmp_path / "c.db", [*films(5), cancelling], {"title": 1.0, "genre": 1.0})
    with CatalogueStore(tmp_path / "c.db") as store, pytest.raises(CatalogueError, match=r"cancel out in item 'tt9'"):
        item_vectors(read_catalogue(store), HashEncoder())


def test_items_without_text_are_named_and_counted(tmp_path: Path) -> None:
    silent = [StoredItem(f"s{row}", {"genre": "war"}, {}) for row in range(8)]
    store_of(tmp_path / "c.db", [*films(5), *silent], {"title": 1.0, "genre": 0.0})
    named = r"no text with a weight in item 's0', 's1', 's2', 's3', 's4' and 3 more"
    with CatalogueStore(tmp_path / "c.db") as store, pytest.raises(CatalogueError, match=named):
        read_catalogue(store)


def test_an_empty_catalogue_is_refused(tmp_path: Path) -> None:
    store_of(tmp_path / "c.db", [], {})
    with CatalogueStore(tmp_path / "c.db") as store, pytest.raises(CatalogueError, match="has no items; import"):
        read_catalogue(store)


def run_build(workspace: Workspace, settings: Settings = QUICK, *, force: bool = False) -> Built:
    return build(workspace, workspace.encoder / "fp32", settings, force=force)


def test_build_publishes_the_catalogue(workspace: Workspace) -> None:
    built = run_build(workspace)
    assert built.is_new
    assert current(workspace.snapshots) == built.folder
    loaded = Snapshot.load(built.folder, encoder=HashEncoder.fingerprint)
    assert list(loaded.ids) == [item.id for item in films(120)]
    assert loaded.available.tolist() == [item.available for item in films(120)]
    assert loaded.fields.take(["title", "genre", "year", "plot"], np.array([4])) == [
        {"title": films(5)[4].texts["title"], "genre": ["star"], "year": 1904, "plot": None}
    ]
    assert loaded.manifest.revision == 1
    assert loaded.manifest.field_weights == {"title": 2.0, "genre": 1.0, "plot": 0.5}
    chosen = built.report.points[built.report.choice.point]
    assert loaded.manifest.text.engine.parameters == chosen.parameters
    assert read_report(built.folder) == built.report
    np.testing.assert_allclose(np.linalg.norm(loaded.text.vectors, axis=1), 1, atol=1e-5)


def test_build_is_up_to_date_until_something_changes(workspace: Workspace) -> None:
    first = run_build(workspace)
    again = run_build(workspace)
    assert not again.is_new
    assert (again.folder, again.manifest, again.report) == (first.folder, first.manifest, first.report)
    assert run_build(workspace, force=True).is_new
    assert run_build(workspace, Settings(**{**vars(QUICK), "recall": 0.9})).is_new
    assert run_build(workspace, Settings(**{**vars(QUICK), "engine": "exact"})).is_new
    assert run_build(workspace).is_new
    store_of(workspace.store, films(121), {"title": 2.0, "genre": 1.0, "plot": 0.5})
    assert run_build(workspace).manifest.items == 121
    make_encoder(workspace, "another")
    assert run_build(workspace).is_new
    assert not run_build(workspace).is_new


def test_a_damaged_index_is_built_again(workspace: Workspace) -> None:
    folder = run_build(workspace).folder
    (space_folder(folder) / VECTORS).write_bytes(b"damaged")
    assert run_build(workspace).is_new
    Snapshot.load(current(workspace.snapshots))


def test_raw_vectors_need_no_store(tmp_path: Path) -> None:
    vectors = np.stack([vector_of(str(row)) for row in range(200)])
    stages: list[tuple[str, int | None]] = []
    counted: list[int] = []

    @contextmanager
    def stage(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        stages.append((what, total))
        yield counted.append

    ids = [str(row) for row in range(200)]
    built = build_index(tmp_path, vectors, ids, encoder="raw", settings=QUICK, stage=stage)
    loaded = Snapshot.load(built.folder, encoder="raw")
    np.testing.assert_array_equal(loaded.text.vectors, vectors)
    assert ("build graph, M 4", 200) in stages
    assert sum(counted) == sum(total or 0 for _, total in stages)


def test_a_third_graph_is_built_where_two_miss_the_target(tmp_path: Path) -> None:
    vectors = np.stack([vector_of(str(row)) for row in range(3000)])
    ids = [str(row) for row in range(len(vectors))]
    poor = Settings(
        engine="hnsw", m=(2, 3), m_if_missed=4, ef_construction=4, ef=(10, 12), recall=1.0, users=30, threads=1
    )
    built = build_index(tmp_path, vectors, ids, encoder="raw", settings=poor)
    assert [point.engine for point in built.report.points[-2:]] == ["hnsw", "exact"]
    assert {point.parameters["M"] for point in built.report.points[:-1]} == {2, 3, 4}
    assert not built.report.choice.reached
    assert built.manifest.text.engine.parameters["M"] == 4


def test_a_report_that_is_missing_or_damaged(workspace: Workspace) -> None:
    folder = run_build(workspace).folder
    (space_folder(folder) / REPORT).write_bytes(b"{}")
    with pytest.raises(SnapshotError, match=rf"{REPORT} is damaged"):
        read_report(folder)


def invoke(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of `recserve index ...`; fails on a traceback."""
    result = CliRunner().invoke(cli_index.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def test_command_builds_and_reports(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine_choice, "Settings", lambda **asked: Settings(**{**vars(QUICK), **asked}))
    code, out, err = invoke("build", "--home", workspace.home)
    assert code == 0, err
    assert "120 items of revision 1" in out
    assert "up to date" not in err
    code, out, err = invoke("build", "--home", workspace.home, "--precision", "fp32")
    assert code == 0
    assert "up to date" in err

    code, out, _ = invoke("report", "--home", workspace.home)
    assert code == 0
    assert "chosen" in out
    assert "exact" in out
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = invoke("report", "--home", workspace.home, "--json", "--plot", tmp_path / "curve.png")
    assert code == 0
    assert msgspec.json.decode(out)["items"] == 120
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_command_measures_with_the_log_and_counts_what_was_cut(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "Settings", lambda **asked: Settings(**{**vars(QUICK), **asked}))
    with InteractionStore(workspace.interactions, InteractionLimits(), create=True) as store:
        now = time.time()
        acts = [
            Interaction(user=f"{n:064x}", item=f"tt{(n + m) % 120}", type="click", timestamp=now - m)
            for n in range(250)
            for m in range(3)
        ]
        store.record([*acts, Interaction(user="0" * 64, item=None, text="dark", type="search", timestamp=now)])
    long = [StoredItem(f"long{n}", {"title": f"a title that is too long {n}", "plot": "x"}, {}) for n in range(3)]
    store_of(workspace.store, [*films(120), *long], {"title": 2.0, "plot": 0.5})
    code, out, err = invoke("build", "--home", workspace.home)
    assert code == 0, err
    assert "measured with logged histories (20 users)" in " ".join(out.split())
    assert "100.0% of 750 interactions name an item of the catalogue" in out
    distinct = {text for item in [*films(120), *long] for text in item.texts.values()}
    cut = sum(len(text) > 20 for text in distinct)
    said = f"{cut} of {len(distinct)} texts that were encoded are longer than the encoder takes and were cut off"
    assert said in " ".join(err.split())
    code, out, _ = invoke("report", "--home", workspace.home)
    assert "logged histories (20 users): 20 users of each kind" in out
    assert said in " ".join(out.split())


def test_command_measures_all_engines_where_that_is_asked(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "Settings", lambda **asked: Settings(**{**vars(QUICK), **asked}))
    assert invoke("build", "--home", workspace.home)[0] == 0
    code, out, err = invoke("build", "--home", workspace.home, "--thorough")
    assert (code, "up to date" in err) == (0, False)
    assert "engine: every engine was measured over all items" in out
    for options in (["--thorough"], []):
        assert "up to date" in invoke("build", "--home", workspace.home, *options)[2]


def test_command_says_what_is_missing(tmp_path: Path, workspace: Workspace) -> None:
    code, _, err = invoke("build", "--home", tmp_path / "none")
    assert (code, "recserve export encoder" in err) == (1, True)
    code, _, err = invoke("report", "--home", tmp_path / "none")
    assert (code, "recserve index build" in err) == (1, True)
    workspace.store.unlink()
    code, _, err = invoke("build", "--home", workspace.home)
    assert (code, "recserve catalogue import" in err) == (1, True)


@pytest.mark.parametrize("recall", ["0", "1.5", "nan"])
def test_command_refuses_a_recall_out_of_range(workspace: Workspace, recall: str) -> None:
    code, _, err = invoke("build", "--home", workspace.home, "--recall", recall)
    assert code == 2
    assert f"got {recall}" in err


def test_command_refuses_an_unknown_precision_and_helps() -> None:
    code, _, err = invoke("build", "--precision", "fp64")
    assert code == 2
    assert "fp64" in err
    for command in ("build", "report"):
        code, out, _ = invoke(command, "--help")
        assert (code, "--home" in out) == (0, True)
