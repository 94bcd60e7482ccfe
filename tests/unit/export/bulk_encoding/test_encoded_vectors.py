"""Vectors that `recserve catalogue encode` wrote, by what they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recserve_export.bulk_encoding import columns as catalogue_columns
from recserve_export.bulk_encoding import job as encode_job
from recserve_export.bulk_encoding.columns import Known, item_vectors, read_catalogue
from recserve_export.bulk_encoding.job import JOB, SCHEMA, Job, Outcome, Piece, PieceEncoder
from recserve_export.bulk_encoding.output import EncodedVectors
from recserve_export.catalogue.mapping import FieldMapping, TextField
from recserve_export.errors import ExportError
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import CatalogueError
from recserve_server_ext.encoder.item_vectors import made_from, made_with
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import SnapshotVectors
from support.edited import DIM, ENCODER, WEIGHTS, Edited, item_vector, vector_of

#: What a vector was made from, or none, and the values.
Row = tuple[bytes | None, Any]
GROUP = 10


def write_job(folder: Path, **changed: object) -> None:
    folder.mkdir(exist_ok=True)
    mapping = FieldMapping({name: TextField(name, weight) for name, weight in WEIGHTS.items()})
    job = msgspec.to_builtins(Job(ENCODER, mapping, DIM)) | changed
    (folder / JOB).write_bytes(msgspec.json.encode(job))


def write_file(file: Path, rows: Sequence[Row], group: int = GROUP) -> None:
    """As the command writes it, in small row groups."""
    table = pa.table(
        {
            "id": [str(number) for number in range(len(rows))],
            "vector": [None if vector is None else list(vector) for _, vector in rows],
            "error": [None if digest else "refused" for digest, _ in rows],
            "made_from": [digest for digest, _ in rows],
        },
        SCHEMA,
    )
    pq.write_table(table, file, row_group_size=group, write_page_checksum=True)


def opened(folder: Path, encoder: str = ENCODER, weights: Mapping[str, float] = WEIGHTS) -> EncodedVectors:
    return EncodedVectors(folder, encoder, weights)


def unit_vectors(count: int, seed: int = 3) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def digests(count: int, seed: int = 4) -> list[bytes]:
    """Distinct ones, of which some end with zeros, which numpy takes for the end of shorter strings."""
    drawn = np.random.default_rng(seed).bytes(16 * count)
    found = [drawn[16 * n : 16 * n + 16] for n in range(count)]
    return [one[:14] + bytes([0, n % 3]) if n % 5 == 0 else one for n, one in enumerate(found)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_job(tmp_path / "vectors")
    return tmp_path / "vectors"


@pytest.mark.parametrize("group", [1, 4, 1000])
def test_every_vector_is_found_by_its_digest(folder: Path, group: int) -> None:
    names, values = digests(90), unit_vectors(90)
    rows: list[Row] = [*zip(names, values, strict=True)]
    rows[7:7] = [(None, None)] * 12  # more than a row group
    rows += [(None, None), rows[0]]  # and a vector that is there twice
    for name, part in (("a", rows[:31]), ("b", rows[31:32]), ("c", rows[32:])):
        write_file(folder / f"{name}.parquet", part, group)
    (folder / ".a.parquet.0.tmp").write_text("cut off")
    encoded = opened(folder)
    order = np.random.default_rng(5).permutation(90)
    places = encoded.find([names[n] for n in order])
    assert len(set(places.tolist())) == 90
    assert min(places) >= 0
    into = np.full((100, DIM), 7, np.float32)
    into_rows = np.random.default_rng(6).permutation(100)[:90]
    encoded.fill(into, into_rows, places)
    np.testing.assert_array_equal(into[into_rows], values[order])
    assert (np.delete(into, into_rows, axis=0) == 7).all()


def test_what_is_not_there_is_not_found(folder: Path) -> None:
    assert opened(folder).find(digests(3)).tolist() == [-1, -1, -1]  # a job that was stopped before its first file
    write_file(folder / "a.parquet", [(None, None)])
    assert opened(folder).find(digests(3)).tolist() == [-1, -1, -1]
    names = sorted(digests(9))
    write_file(folder / "b.parquet", [*zip(names[1::2], unit_vectors(4), strict=True)])
    assert (opened(folder).find(names) >= 0).tolist() == [False, True] * 4 + [False]
    assert opened(folder).find([]).tolist() == []


def test_another_encoder_or_other_weights_are_named(folder: Path) -> None:
    with pytest.raises(ExportError, match="made with encoder test, the index is built with other; encode with"):
        opened(folder, "other")
    with pytest.raises(ExportError, match=r'weights {"genre":1.0,"title":2.0}, the catalogue has {"title":2.0}; enc'):
        opened(folder, weights={"title": 2.0})


def test_a_folder_that_is_no_output_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ExportError, match=r"nowhere has no job\.json: name an output of recserve catalogue encode"):
        opened(tmp_path / "nowhere")
    for changed in ({"format": 1}, {"mapping": 3}):
        write_job(folder, **changed)
        with pytest.raises(ExportError, match=r"job\.json cannot be read: .* encode anew into an empty folder"):
            opened(folder)
    write_job(folder)
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0]]}), folder / "mine.parquet")
    with pytest.raises(ExportError, match=r"mine\.parquet was not written by recserve catalogue encode"):
        opened(folder).find(digests(1))


HUGE = [3e38] * DIM


@pytest.mark.parametrize(
    "vector",
    [None, [], [1.0], [0.0] * DIM, [0.5] * DIM, [float("nan")] * DIM, [float("inf")] * DIM, HUGE, [None] * DIM],
    ids=["none", "empty", "short", "zero", "long", "nan", "inf", "overflow", "nulls"],
)
def test_what_is_no_unit_vector_is_refused(folder: Path, vector: Any) -> None:
    names = digests(30)
    rows: list[Row] = [*zip(names, unit_vectors(30), strict=True)]
    rows[17] = (names[17], vector)
    write_file(folder / "a.parquet", rows)
    encoded, into = opened(folder), np.zeros((30, DIM), np.float32)
    places = encoded.find(names)
    with pytest.raises(ExportError, match=rf"a\.parquet is damaged: not every vector is {DIM} numbers of length 1"):
        encoded.fill(into, np.arange(30), places)
    encoded.fill(into, np.arange(20, 30), places[20:])  # the others are as good as they were
    np.testing.assert_array_equal(into[20:], [value for _, value in rows[20:]])


def test_a_damaged_file_is_named_or_gives_what_it_gave(folder: Path) -> None:
    names, values = digests(40), unit_vectors(40)
    file = folder / "a.parquet"
    write_file(file, [*zip(names, values, strict=True)])
    whole, random = file.read_bytes(), np.random.default_rng(8)
    places, bits = random.choice(len(whole), 150, replace=False), random.integers(8, size=150)
    flipped = [
        whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :]
        for place, bit in zip(places.tolist(), bits.tolist(), strict=True)
    ]
    damaged = [whole[: len(whole) // 2], whole[:-3], b"", b"text", *flipped]
    said = [taken_or_refused(folder, file, content, names, values) for content in damaged]
    refused = [message for message in said if message is not None]
    assert len(refused) > 100
    assert all(str(file) in message and "\n" not in message for message in refused)
    assert None not in said[:4]


def taken_or_refused(folder: Path, file: Path, content: bytes, names: Sequence[bytes], values: Vectors) -> str | None:
    """Why a file is refused; none = its vectors are these, as far as they are found."""
    file.write_bytes(content)
    into = np.zeros_like(values)
    try:
        encoded = opened(folder)
        places = encoded.find(names)
        found = places >= 0
        encoded.fill(into, np.flatnonzero(found), places[found])
    except ExportError as error:
        return str(error)
    np.testing.assert_array_equal(into[found], values[found])
    return None


def test_a_file_that_went_or_shrank_meanwhile_is_named(folder: Path) -> None:
    names = digests(30)
    file = folder / "a.parquet"
    rows: list[Row] = [*zip(names, unit_vectors(30), strict=True)]
    write_file(file, rows)
    encoded, into = opened(folder), np.zeros((30, DIM), np.float32)
    places = encoded.find(names)
    write_file(file, rows[:15])
    with pytest.raises(ExportError, match=r"a\.parquet has fewer rows than before"):
        encoded.fill(into, np.arange(30), places)
    file.unlink()
    with pytest.raises(ExportError, match=r"a\.parquet cannot be read"):
        encoded.fill(into, np.arange(30), places)


def test_the_digest_is_of_the_texts_that_count() -> None:
    weights = {"title": 2.0, "genre": 1.0, "note": 0.0}
    of = {"title": "Alien", "genre": "Horror"}
    # It is kept on disk: where it changes, raise FORMAT in encode_job.
    assert made_from(of, weights).hex() == "21800241ee0fc0ec0dc180642d3b8d1c"
    same: list[dict[str, str]] = [dict(reversed(of.items())), of | {"note": "any"}]
    assert {made_from(texts, weights) for texts in same} == {made_from(of, weights)}
    others: list[dict[str, str]] = [
        {"title": "Alien"},
        {"title": "Horror", "genre": "Alien"},
        {"title": "Alien", "genre": "Horror "},
        {"title": "AlienHorror"},
        of | {"unnamed": "weighs 1"},
    ]
    assert len({made_from(texts, weights) for texts in [of, *others]}) == 6
    assert made_from(of, weights) != made_from(of, {"title": 2.5, "genre": 1.0})


def test_what_the_command_writes_is_found(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        def __init__(self, folder: Path, **_: Any) -> None:
            pass

        def encode(self, texts: Sequence[str]) -> Vectors:
            return np.stack([vector_of(text) for text in texts])

    monkeypatch.setattr(encode_job, "TextEncoder", Encoder)
    texts = [{"title": "war"}, {"title": "war", "genre": "love"}, {"title": "war", "genre": "not war"}, {}]
    rows = [{"id": str(n), "title": of.get("title"), "genre": of.get("genre")} for n, of in enumerate(texts)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    even = FieldMapping({"title": TextField("title"), "genre": TextField("genre")})
    write_job(folder, mapping=even)
    piece = Piece(str(tmp_path / "in.parquet"), 0, 4, str(folder / "out.parquet"))
    assert PieceEncoder(Path("encoder"), Job(ENCODER, even, DIM))(piece) == Outcome(4, 2)
    encoded = opened(folder, weights=even.field_weights)
    places = encoded.find([made_from(of, even.field_weights) for of in texts])
    assert places.tolist() == [0, 1, -1, -1]  # those that cancel out and those without text have no vector
    into = np.zeros((2, DIM), np.float32)
    encoded.fill(into, np.arange(2), places[:2])
    both = vector_of("war") + vector_of("love")
    np.testing.assert_allclose(into, [vector_of("war"), both / np.linalg.norm(both)], atol=1e-6)


class Asked:
    """An encoder that tells what it was asked for."""

    dim = DIM

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: list[str], *, done: Any = None) -> Vectors:
        self.texts += texts
        return np.stack([vector_of(text) for text in texts])


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edited]:
    edited = Edited(tmp_path, tmp_path / "catalogue.db")
    yield edited
    edited.store.close()


def vectors_of(edited: Edited, older: SnapshotVectors | None, encoded: EncodedVectors) -> tuple[Vectors, list[str]]:
    """The item vectors, and the texts that were encoded for them."""
    head, asked = edited.store.head(), Asked()
    known = Known(older, head.imported_at, encoded)
    return item_vectors(read_catalogue(edited.store, made_with(ENCODER, WEIGHTS), DIM, known), asked), asked.texts


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_only_what_is_known_nowhere_is_encoded(
    edited: Edited, folder: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(catalogue_columns, "_CHUNK", chunk)
    older = SnapshotVectors.load(current(edited.snapshots), encoder=ENCODER)
    changes = [{"id": f"n{n}", "texts": {"title": f"new {n}", "genre": "war"}} for n in range(5)]
    edited.change("upsert", changes)
    texts = [item.texts for item in edited.store.items()]
    assert len(texts) == 35
    decoys = unit_vectors(35)
    rows: list[Row] = [(made_from(one, WEIGHTS), decoy) for one, decoy in zip(texts, decoys, strict=True)]
    own = np.stack([item_vector(one) for one in texts])
    write_file(folder / "a.parquet", [row for n, row in enumerate(rows) if n % 3])
    here = np.arange(35) % 3 > 0

    vectors, asked = vectors_of(edited, older, opened(folder))
    np.testing.assert_allclose(vectors, own, atol=1e-6)  # the snapshot's, and those that came with the items
    assert asked == []
    vectors, asked = vectors_of(edited, None, opened(folder))
    np.testing.assert_allclose(vectors[30:], own[30:], atol=1e-6)
    np.testing.assert_array_equal(vectors[:30][here[:30]], decoys[:30][here[:30]])
    np.testing.assert_allclose(vectors[:30][~here[:30]], own[:30][~here[:30]], atol=1e-6)
    assert asked == [f"film {n}" for n in range(0, 30, 3)]


def test_weights_that_changed_meanwhile_match_nothing(edited: Edited, folder: Path) -> None:
    texts = [item.texts for item in edited.store.items()]
    write_file(folder / "a.parquet", [(made_from(one, WEIGHTS), item_vector(one)) for one in texts])
    encoded = opened(folder)
    edited.store.replace_all(list(edited.store.items()), field_weights={"title": 3.0, "genre": 1.0})
    _, asked = vectors_of(edited, None, encoded)
    assert len(asked) == 30


def test_an_item_without_text_is_named_as_before(edited: Edited, folder: Path) -> None:
    edited.store.replace_all(list(edited.store.items()), field_weights={"title": 0.0, "genre": 1.0})
    with pytest.raises(CatalogueError, match="no text with a weight in item 'i0', 'i1', 'i2', 'i3', 'i4' and 25 more"):
        vectors_of(edited, None, opened(folder))
