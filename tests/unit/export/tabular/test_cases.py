"""Files as people have them: each kind that was once refused or misread, and its neighbours."""

from __future__ import annotations

import bz2
import datetime
import gzip
import io
import lzma
import os
import sqlite3
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from recserve_export.errors import ExportError, MappingError, SourceError
from recserve_export.tabular.opening import Opened
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import AllColumns, Row, RowError, check_columns


class Wanted:
    """A mapping that wants some columns."""

    def __init__(self, *columns: str) -> None:
        self.columns = columns

    def check_columns(self, known: Any) -> None:
        check_columns(self.columns, known)


def read(path: Path | str, *columns: str, **options: Any) -> tuple[list[Row], str]:
    """All rows of a source, and how it was read."""
    source = Opened(path, ReadOptions(**options)).source(Wanted(*columns) if columns else AllColumns())
    return list(source.rows()), source.how


def values(rows: list[Row]) -> list[dict[str, Any]]:
    return [row for _, row in rows if not isinstance(row, RowError)]


@pytest.mark.parametrize(
    ("content", "how"),
    [
        ('id;title\nb1;Café, noon\nb2;"Semi;colon"\n'.encode(), "utf-8, ';', header"),
        ('id,title\nb1,"Café, noon"\nb2,Semi;colon\n'.encode("latin-1"), "latin-1, ',', header"),
        ('id,title\nb1,"Café, noon"\nb2,Semi;colon\n'.encode("utf-16"), "utf-16 with a byte order mark, ',', header"),
        ('id,title\nb1,"Café, noon"\nb2,Semi;colon\n'.encode("utf-16-le"), "utf-16-le, ',', header"),
        ('\ufeffid,title\nb1,"Café, noon"\nb2,Semi;colon\n'.encode(), "utf-8 with a byte order mark, ',', header"),
        (b"sep=;\r\n" + 'id;title\r\nb1;Café, noon\r\nb2;"Semi;colon"\r\n'.encode(), "utf-8, ';', header"),
        ("id\ttitle\nb1\tCafé, noon\nb2\tSemi;colon\n".encode(), "utf-8, 'tab', header"),
        ("id|title\rb1|Café, noon\rb2|Semi;colon\r".encode(), "utf-8, '|', header"),
        ("id::title\nb1::Café, noon\nb2::Semi;colon\n".encode(), "utf-8, '::', no quotes, header"),
        ("'id','title'\n'b1','Café, noon'\n'b2','Semi;colon'\n".encode(), "utf-8, ',', quote ', header"),
    ],
)
def test_delimiters_and_encodings_are_guessed_and_said(content: bytes, how: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    rows, said = read(tmp_path / "x.csv", "id", "title")
    assert values(rows) == [{"id": "b1", "title": "Café, noon"}, {"id": "b2", "title": "Semi;colon"}]
    assert said == how


@pytest.mark.parametrize("name", ["x.csv", "x.dat", "x"])
def test_columns_without_a_header(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("1::2::3::978300760\n")
    rows, _ = read(tmp_path / name, delimiter="::", columns=("user", "item", "rating", "time"))
    assert values(rows) == [{"user": "1", "item": "2", "rating": "3", "time": "978300760"}]
    rows, _ = read(tmp_path / name, columns=("user", "item", "rating", "time"))
    assert values(rows)[0]["time"] == "978300760"


def test_windows_quotes_are_cp1252(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("id,title\n1,“Café”\n".encode("cp1252"))
    assert read(tmp_path / "x.csv")[1].startswith("cp1252")


def test_cyrillic_in_8_bits(tmp_path: Path) -> None:
    line = "Мастер и Маргарита, роман о дьяволе в Москве и о любви"  # noqa: RUF001
    (tmp_path / "x.csv").write_bytes("".join(["id;title\n", *(f"{n};{line}\n" for n in range(50))]).encode("cp1251"))
    assert values(read(tmp_path / "x.csv", "id", "title")[0])[0]["title"] == line


def test_few_bad_bytes_in_utf_8_cost_their_own_rows(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("id,title\n1,Café über Straße\n".encode() + b"2,bad \xff\n")
    rows, how = read(tmp_path / "x.csv")
    assert how.startswith("utf-8")
    assert [row["title"] for row in values(rows)] == ["Café über Straße", "bad \udcff"]


def test_an_encoding_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"id,title\n1,x\n22")
    with pytest.raises(SourceError, match="not in utf-16"):
        read(tmp_path / "x.csv", encoding="utf-16-be")
    with pytest.raises(SourceError, match="no encoding 'klingon'"):
        read(tmp_path / "x.csv", encoding="klingon")


# --- Quotes ---


def test_an_unclosed_quote_costs_its_own_line(tmp_path: Path) -> None:
    lines = [f"b{number},title {number}\n" for number in range(30_000)]
    (tmp_path / "x.csv").write_text('id,title\na1,"no end\n' + "".join(lines))
    rows, _ = read(tmp_path / "x.csv")
    assert len(rows) == 30_001
    refused = [row for _, row in rows if isinstance(row, RowError)]
    assert [row.detail for row in refused] == ["a quote opens in line 2 and is not closed: 'a1,\"no end'"]


@pytest.mark.parametrize(
    ("lines", "refused", "kept"),
    [
        (['1,"open', "2,b", '3,"c"', "4,d"], ["a quote opens in line 2"], ["b", "c", "d"]),
        (["1,a", '2,"open', "3,c", '4,"d,e"'], ["a quote opens in line 3"], ["a", "c", "d,e"]),
        (["1,a", '2,"x"y', "3,c"], ["line 3 is not CSV"], ["a", "c"]),
        (["1,a", '2,say "hi"', "3,c"], [], ["a", 'say "hi"', "c"]),
        (['1,"a', 'b"', "2,c"], [], ["a\nb", "c"]),
        (["1,a,", "2,b,"], [], ["a", "b"]),
        (['1,"say \\"hi\\" to"', "2,b"], [], ['say "hi" to', "b"]),
    ],
)
def test_stray_quotes(lines: list[str], refused: list[str], kept: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("\n".join(["id,title", *lines]) + "\n")
    rows, _ = read(tmp_path / "x.csv", "id", "title")
    details = [row.detail for _, row in rows if isinstance(row, RowError)]
    assert [detail[: len(start)] for detail, start in zip(details, refused, strict=True)] == refused
    assert [row["title"] for row in values(rows)] == kept


def test_quotes_that_never_fit_end_the_reading(tmp_path: Path) -> None:
    text = "".join(f'{n},"open {n}\n' + "x,y\n" * 20_000 for n in range(3))
    (tmp_path / "x.csv").write_text("id,title\n" + text)
    rows, _ = read(tmp_path / "x.csv")
    assert sum(isinstance(row, RowError) for _, row in rows) == 3
    assert len(rows) == 60_003


def test_tables_between_tabs_without_quotes(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text('id\ttitle\n1\t"Weird Al" Yankovic\n2\tb\n')
    rows, _ = read(tmp_path / "x.tsv", "id", "title")
    assert [row["title"] for row in values(rows)] == ['"Weird Al" Yankovic', "b"]


def test_a_line_of_many_megabytes_and_many_columns(tmp_path: Path) -> None:
    with (tmp_path / "x.csv").open("w") as file:
        file.write("id,title\n1,a\n2,")
        for _ in range(30):
            file.write("x" * (1 << 20))
        file.write("\n3,c\n")
    rows, _ = read(tmp_path / "x.csv", "id", "title")
    assert [number for number, row in rows if isinstance(row, RowError)] == [2]
    assert [row["id"] for row in values(rows)] == ["1", "3"]
    (tmp_path / "wide.csv").write_text("id," + ",".join(f"c{n}" for n in range(10_000)) + "\n1" + ",x" * 10_000 + "\n")
    assert values(read(tmp_path / "wide.csv", "id")[0])[0]["c9999"] == "x"


# --- Compression, pipes, archives ---


@pytest.mark.parametrize("ending", ["gz", "bz2", "zst", "xz"])
def test_compressed_files_by_their_bytes(ending: str, tmp_path: Path) -> None:
    content = b'{"id": "a"}\n' * 1000
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": zstandard.compress,
    }
    pack = packers[ending]
    for name in (f"x.jsonl.{ending}", "x.jsonl", "x"):
        (tmp_path / name).write_bytes(pack(content))
        assert len(read(tmp_path / name)[0]) == 1000
        (tmp_path / name).write_bytes(pack(content)[:-5])
        with pytest.raises(SourceError, match=r"cut off|cannot be read"):
            read(tmp_path / name)


def test_two_frames_of_zstandard(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(zstandard.compress(b'{"id": "a"}\n') + zstandard.compress(b'{"id": "b"}\n'))
    assert [row["id"] for row in values(read(tmp_path / "x.jsonl")[0])] == ["a", "b"]


def test_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("ml/movies.csv", "movieId,title\n1,Heat\n")
    assert values(read(tmp_path / "one.zip")[0]) == [{"movieId": "1", "title": "Heat"}]
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("ml/movies.csv", "movieId,title\n1,Heat\n")
        archive.writestr("ml/README.txt", "x")
    with pytest.raises(SourceError, match="holds 2 files; name one"):
        read(tmp_path / "two.zip")
    assert values(read(tmp_path / "two.zip" / "ml" / "movies.csv")[0]) == [{"movieId": "1", "title": "Heat"}]


def test_a_named_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(gzip.compress(b"id,title\n1,a\n")))
    writer.start()
    rows, how = read(pipe)
    writer.join()
    assert (values(rows), how) == ([{"id": "1", "title": "a"}], "gzip, utf-8, ',', header")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"id": "a"}\n')))
    assert values(read("-")[0]) == [{"id": "a"}]


def test_a_file_that_grows_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,title\n1,a\n")
    opened = Opened(path)
    with path.open("a") as file:
        file.write("2,b\n")
    assert len(list(opened.source(AllColumns()).rows())) == 1
    assert opened.grew == 4


def test_a_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,title\n1,a\n")
    source = Opened(path).source(AllColumns())
    path.write_text("id,")
    with pytest.raises(SourceError, match="became shorter"):
        list(source.rows())


@pytest.mark.parametrize(("content", "message"), [(b"", "add --format"), (b"\x00\x01\x02abc", "add --format")])
def test_files_of_no_known_format(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "x.bin")


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text("id\n")
    with pytest.raises(SourceError, match=r"no file .*did you mean 'movies.csv'"):
        read(tmp_path / "movie.csv")


# --- JSON, Parquet, workbooks, databases ---


@pytest.mark.parametrize(
    "text",
    [
        '[{"id": 1, "a": {"b": "x"}}, {"id": 2}]',
        '{"count": 2, "items": [{"id": 1, "a": {"b": "x"}}, {"id": 2}]}',
        '{"id": 1, "a": {"b": "x"}}\n{"id": 2}\n',
        "{u'id': 1, u'a': {u'b': 'x'}}\n{'id': 2}\n",
    ],
)
def test_json_in_its_forms(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    rows, _ = read(tmp_path / "x.json", "id", "a.b")
    assert [(row["id"], row["a.b"]) for row in values(rows)] == [(1, "x"), (2, None)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_arrays_are_read_an_element_at_a_time(encoding: str, tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("w", encoding=encoding) as file:
        file.write('{"made": {"by": ["x"]}, "none": [], "rows": [')
        file.write(", ".join(f'{{"id": {number}, "title": "{"é" * 500}", "price": 0.5}}' for number in range(20_000)))
        file.write("]}")
    source = Opened(tmp_path / "x.json").source(AllColumns())
    tracemalloc.start()
    try:
        numbers = [row["id"] for _, row in source.rows() if isinstance(row, dict)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert numbers == list(range(20_000))
    assert peak < 4 << 20
    assert source.done == source.total == (tmp_path / "x.json").stat().st_size


@pytest.mark.parametrize(
    "text", ['[{"id": 1}, {"id": 2', '[{"id": 1}, {id: 2}]', '[{"id": 1}] x', '{"rows": [{"id": 1}, ']
)
def test_a_damaged_array_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(SourceError, match="is no JSON"):
        read(tmp_path / "x.json", format="json")


def test_what_is_no_object_is_refused_alone(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"id": 1}, 7, null, [{"id": 2}], {"id": 3}]')
    rows, how = read(tmp_path / "x.json", "id")
    assert [row["id"] for row in values(rows)] == [1, 3]
    assert [number for number, row in rows if isinstance(row, RowError)] == [2, 3, 4]
    assert how == "utf-8, JSON array"
    with pytest.raises(MappingError, match="no column 'title'"):
        read(tmp_path / "x.json", "title")


def test_types_of_parquet_are_kept(tmp_path: Path) -> None:
    days = [datetime.date(2024, 3, 1)]
    table = pa.table(
        {
            "day": pa.array(days, pa.date32()),
            "ns": pa.array([1_709_251_200_123_456_789], pa.timestamp("ns")),
            "zoned": pa.array([1_709_251_200], pa.timestamp("s", tz="Europe/Berlin")),
            "price": pa.array([Decimal("9.99")], pa.decimal128(10, 2)),
            "word": pa.array(["a"]).dictionary_encode(),
            "meta": [{"brand": "x"}],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    [row] = values(read(tmp_path / "x.parquet", "day", "ns", "zoned", "price", "word", "meta.brand")[0])
    assert (row["day"], row["price"], row["word"], row["meta.brand"]) == (days[0], Decimal("9.99"), "a", "x")
    assert row["ns"] == datetime.datetime(2024, 3, 1, 0, 0, 0, 123_456)
    assert row["zoned"].timestamp() == 1_709_251_200


def test_a_folder_of_parts_and_hive_partitions(tmp_path: Path) -> None:
    for year, name in ((2023, "b"), (2024, "a")):
        folder = tmp_path / f"year={year}"
        folder.mkdir()
        pq.write_table(pa.table({"id": [name]}), folder / "part-0.parquet")
    (tmp_path / "_SUCCESS").write_text("")
    rows, how = read(tmp_path, "id", "year")
    assert values(rows) == [{"id": "b", "year": 2023}, {"id": "a", "year": 2024}]
    assert how == "Parquet, 2 files"
    assert len(Opened(tmp_path).checksum()) == 64


def test_a_database(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE items (id INTEGER, title TEXT)")
        connection.execute("INSERT INTO items VALUES (1, 'a'), (2, 'b')")
    expected = [{"id": 1, "title": "a"}, {"id": 2, "title": "b"}]
    assert values(read(f"sqlite:///{path}")[0]) == expected
    assert values(read(path)[0]) == expected
    assert values(read(path, query="items")[0]) == expected
    assert values(read(path, query="SELECT id FROM items WHERE id > 1")[0]) == [{"id": 2}]
    for query, message in (("DROP TABLE items", "no table"), ("SELECT x FROM items", "no such column")):
        with pytest.raises(SourceError, match=message):
            read(path, query=query)
    with pytest.raises(SourceError, match="cannot be opened"):
        read(f"sqlite:///{tmp_path / 'other.db'}")
    assert not (tmp_path / "other.db").exists()


def test_a_missing_column_says_how_the_file_was_read(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id;name\n1;a\n")
    with pytest.raises(MappingError, match=r"no column 'title'.*it has: id, name \(read as utf-8, ';'"):
        read(tmp_path / "x.csv", "id", "title")


def test_errors_are_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "x.xlsx").write_bytes(b"PK\x03\x04 not a workbook")
    with pytest.raises(ExportError):
        read(tmp_path / "x.xlsx")
