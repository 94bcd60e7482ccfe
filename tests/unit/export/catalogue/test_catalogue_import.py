"""Import: rows become items, the old catalogue stays where an import fails, and the same file is not imported twice."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recserve_export.catalogue.films import MAPPING, FilmsSource, films_path
from recserve_export.catalogue.importer import import_catalogue, mapping_hash, up_to_date
from recserve_export.catalogue.mapping import (
    mapping_from_options,
    validated,
)
from recserve_export.errors import MappingError, SourceError
from recserve_export.tabular.opening import Opened
from recserve_export.tabular.options import FileFormat, ReadOptions
from recserve_export.tabular.rows import Reason
from recserve_server_ext.catalogue.store import StoredItem
from support.imports import BOOKS, DUNE, EMMA, FORMATS, Importer, Rows, write_rows


@pytest.mark.parametrize("file_format", FORMATS)
def test_rows_become_items(file_format: FileFormat, tmp_path: Path, importer: Importer) -> None:
    path = write_rows(tmp_path / f"books.{file_format}", file_format, [{"blurb": "", **DUNE}, EMMA])
    report = importer(path)
    attributes = {name: DUNE[name] for name in ("year", "tags", "price", "used")}
    assert list(importer.store.items()) == [
        StoredItem("b1", {"title": "Dune"}, attributes),
        StoredItem("b2", {"title": "Emma", "blurb": EMMA["blurb"]}, {}),
    ]
    assert importer.store.head().field_weights == {"title": 2.0, "blurb": 1.0}
    assert (report.revision, report.is_changed, importer.refusals) == (1, True, [])
    assert importer.store.source() == report.record
    assert (report.record.name, report.record.accepted, report.record.sha256) == (path.name, 2, Opened(path).checksum())


def test_jsonl_with_bom_and_blank_lines(tmp_path: Path, importer: Importer) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 7, "title": ["a", " b "]}\r\n\n   \n{"id": "8", "title": "c"}')
    importer(path, mapping_from_options(texts=["title"]))
    assert [(item.id, item.texts) for item in importer.store.items()] == [
        ("7", {"title": "a, b"}),
        ("8", {"title": "c"}),
    ]


def test_csv_with_bom_and_quoted_line_breaks(tmp_path: Path, importer: Importer) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes('\ufeffid,title\r\n1,"a ""b""\nc, d"\r\n\r\n2,é\r\n'.encode())
    importer(path, mapping_from_options(texts=["title"]))
    assert [item.texts["title"] for item in importer.store.items()] == ['a "b"\nc, d', "é"]


@pytest.mark.parametrize("file_format", FORMATS)
def test_available_comes_from_its_column(file_format: FileFormat, tmp_path: Path, importer: Importer) -> None:
    mapping = mapping_from_options(id_field="sku", texts=["title"], available="used")
    rows: Rows = [{"sku": "a", "title": "x", "used": True}, {"sku": "b", "title": "x", "used": False}]
    importer(write_rows(tmp_path / f"x.{file_format}", file_format, [*rows, {"sku": "c", "title": "x"}]), mapping)
    assert [item.available for item in importer.store.items()] == [True, False, True]


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_unknown_column_names_the_nearest(file_format: FileFormat, tmp_path: Path, importer: Importer) -> None:
    path = write_rows(tmp_path / f"x.{file_format}", file_format, [{**DUNE, "blurb": "b"}])
    importer(path)
    mapping = mapping_from_options(id_field="sku", texts=["title"], attributes=["yeer:int"])
    with pytest.raises(MappingError, match="no column 'yeer'; did you mean 'year'"):
        importer(path, mapping)
    assert (importer.store.revision, importer.store.count()) == (1, 1)


@pytest.mark.parametrize("file_format", FORMATS)
def test_nothing_accepted_leaves_the_old_catalogue(file_format: FileFormat, tmp_path: Path, importer: Importer) -> None:
    importer(write_rows(tmp_path / f"x.{file_format}", file_format, [{**DUNE, "blurb": "b"}]))
    report = importer(write_rows(tmp_path / f"y.{file_format}", file_format, [{**DUNE, "sku": "", "blurb": "b"}]))
    assert (report.is_changed, report.revision, report.record.refused) == (False, 1, 1)
    assert [item.id for item in importer.store.items()] == ["b1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "no header line"),
        ("x.csv", b"id,title,id\n", "column 'id' twice"),
        ("x.parquet", b"PAR1 not really", "cannot be read"),
        ("x.txt", b"", "does not tell its format; add --format"),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes, message: str, tmp_path: Path, importer: Importer) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        importer(tmp_path / name, mapping_from_options(texts=["title"]))
    assert importer.store.revision == 0


def test_a_header_that_is_not_in_its_encoding(tmp_path: Path, importer: Importer) -> None:
    (tmp_path / "x.csv").write_bytes(b"id,titl\xff\n")
    mapping = msgspec.structs.replace(mapping_from_options(texts=["title"]), read=ReadOptions(encoding="utf-8"))
    with pytest.raises(SourceError, match=r"header line of .* cannot be read"):
        importer(tmp_path / "x.csv", mapping)


def test_a_parquet_file_cut_short_after_its_start_is_an_error(tmp_path: Path, importer: Importer) -> None:
    ids = [f"{number:032x}" for number in range(5000)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ids, "title": ids}), path, row_group_size=1000, use_dictionary=False)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = b"\xff" * 4000
    path.write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read"):
        importer(path, mapping_from_options(texts=["title"]))
    assert importer.store.revision == 0


def test_up_to_date_by_file_mapping_and_format(tmp_path: Path, importer: Importer) -> None:
    path = write_rows(tmp_path / "x.jsonl", "jsonl", [{"blurb": "", **DUNE}])
    assert up_to_date(importer.store, "jsonl", BOOKS, Opened(path).checksum()) is None
    record = importer(path).record
    assert up_to_date(importer.store, "jsonl", BOOKS, Opened(path).checksum()) == record
    assert up_to_date(importer.store, "csv", BOOKS, Opened(path).checksum()) is None
    assert up_to_date(importer.store, "jsonl", mapping_from_options(texts=["title"]), Opened(path).checksum()) is None
    assert up_to_date(importer.store, "jsonl", BOOKS, "0" * 64) is None
    assert record.mapping_sha256 == mapping_hash("jsonl", BOOKS)


@pytest.mark.parametrize("file_format", FORMATS)
def test_sources_are_read_as_a_stream(file_format: FileFormat, tmp_path: Path) -> None:
    rows: Rows = [{"sku": str(number), "title": "x" * 50} for number in range(5000)]
    path = write_rows(tmp_path / f"x.{file_format}", file_format, rows)
    source = Opened(path).source(mapping_from_options(id_field="sku", texts=["title"]))
    reading = source.rows()
    next(reading)
    assert 0 < source.done < source.total / 10
    assert sum(1 for _ in reading) == 4999
    assert source.done == source.total


@pytest.mark.parametrize("file_format", FORMATS)
def test_memory_does_not_grow_with_the_file(file_format: FileFormat, tmp_path: Path, importer: Importer) -> None:
    """Ten times the rows, of 2 kB each, are 36 MB more to read; ids are held, 140 bytes each, and little else."""
    peaks = []
    for count in (2000, 20_000):
        rows: Rows = [{"sku": f"{count}-{number}", "title": f"{number} " + "x" * 2000} for number in range(count)]
        path = write_rows(tmp_path / f"{count}.{file_format}", file_format, rows)
        del rows
        tracemalloc.start()
        try:
            assert importer(path, mapping_from_options(id_field="sku", texts=["title"])).record.accepted == count
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 9 * 2**20


def test_the_films(importer: Importer) -> None:
    path = films_path()
    mapping = validated(MAPPING)
    report = import_catalogue(
        importer.store,
        FilmsSource(path),
        mapping,
        name="films",
        sha256=Opened(path).checksum(),
        identity="films",
        on_refusal=importer.refusals.append,
    )
    assert (report.record.accepted, report.record.refusals) == (17_470, {"duplicate_id": 2})
    assert importer.refused == [
        (12588, "tt0078788", Reason.DUPLICATE_ID),
        (13460, "tt0850669", Reason.DUPLICATE_ID),
    ]
    film = importer.store.get("tt0076759")
    assert film is not None
    assert film.texts["title"].startswith("Star Wars")
    assert film.texts["cast"].count(",") == 5
    assert len(film.attributes["cast"]) == 24
    assert (film.attributes["year"], film.attributes["genre"]) == (1977, ["Sci-Fi", "Action", "Adventure"])
