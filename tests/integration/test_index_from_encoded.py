"""`recserve catalogue encode`, `import` and `index build --vectors`: what was encoded once is not encoded again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from recserve_export.bulk_encoding.job import JOB
from recserve_export.cli import index as cli_index
from recserve_export.cli.catalogue import commands as cli_catalogue
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot

#: Exit code, standard output and standard error of a command; a traceback fails the test.
Command = Callable[..., tuple[int, str, str]]

FIELDS = ("--id-field", "sku", "--text", "title=2", "--text", "blurb", "--map", "title=name")
ITEMS = 300


def items() -> list[dict[str, Any]]:
    """Rows; some share all their texts, the last one has none."""
    rows: list[dict[str, Any]] = [
        {"sku": f"s{n}", "name": f"film number {n % 280}", "blurb": f" about {n % 140} "} for n in range(ITEMS)
    ]
    return [*rows, {"sku": "none", "name": " ", "blurb": None}]


@pytest.fixture
def home(tiny_home: Path, tmp_path: Path) -> Path:
    """A home with the tiny encoder and nothing else."""
    shutil.copytree(tiny_home / "encoder", tmp_path / "home" / "encoder", symlinks=True)
    return tmp_path / "home"


@pytest.fixture
def catalogue(home: Path) -> Command:
    return lambda *words: invoke(cli_catalogue.app, *words, "--home", home)


@pytest.fixture
def index(home: Path) -> Command:
    return lambda *words: invoke(cli_index.app, "build", "--engine", "exact", *words, "--home", home)


def invoke(app: Any, *words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())


def import_rows(catalogue: Command, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    code, _, err = catalogue("import", file, *FIELDS)
    assert code == 0, err


@pytest.fixture
def output(catalogue: Command, tmp_path: Path) -> Path:
    """Of two input files, the second of which is first in the catalogue; the catalogue is imported, too."""
    (tmp_path / "in").mkdir()
    for name, part in (("a", items()[120:]), ("b", items()[:120])):
        pq.write_table(pa.Table.from_pylist(part), tmp_path / "in" / f"{name}.parquet", row_group_size=50)
    code, out, err = catalogue("encode", "--input", tmp_path / "in", "--output", tmp_path / "vectors", *FIELDS)
    assert (code, "301 rows in 7 files" in out, "1 without a vector" in out) == (0, True, True), err
    import_rows(catalogue, tmp_path, items())
    return tmp_path / "vectors"


def published(home: Path) -> dict[str, Vectors]:
    snapshot = Snapshot.load(current(Workspace(home).snapshots))
    return {name: np.array(snapshot.text.vectors[row]) for name, row in snapshot.row_of.items()}


def written(output: Path) -> dict[str, Vectors]:
    rows = [row for file in output.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    return {row["id"]: np.array(row["vector"], np.float32) for row in rows if row["vector"] is not None}


def assert_equal(found: dict[str, Vectors], expected: dict[str, Vectors], atol: float) -> None:
    assert found.keys() == expected.keys()
    names = list(found)
    np.testing.assert_allclose([found[name] for name in names], [expected[name] for name in names], rtol=0, atol=atol)


def test_an_index_has_the_vectors_that_were_encoded(
    home: Path, index: Command, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = index()
    assert (code, "item vectors" in out) == (0, False), err
    encoded_here = published(home)
    assert len(encoded_here) == ITEMS
    code, out, err = index("--force", "--vectors", output)
    assert code == 0, err
    assert f"item vectors: 300 from {output}, 0 encoded, 0 there already" in out
    found, there = published(home), written(output)
    # Of two rows with the same texts the vectors are those of either, and runs of other sizes differ by 1e-6 in fp32.
    assert_equal(found, there, 1e-5)
    assert_equal(found, encoded_here, 1e-5)
    bits = {vector.tobytes() for vector in there.values()}
    assert all(vector.tobytes() in bits for vector in found.values())
    code, out, err = index("--vectors", output)
    assert (code, f"up to date: snapshot {current(Workspace(home).snapshots).name}" in err) == (0, True)
    assert f"no vector of {output} was needed" in err
    assert "item vectors" not in out


def test_only_what_changed_is_encoded(
    home: Path, catalogue: Command, index: Command, output: Path, tmp_path: Path
) -> None:
    rows = items()
    rows[5]["name"] = "another film"
    rows[130]["blurb"] = "about something else"
    rows[8]["sku"] = "renamed"
    import_rows(catalogue, tmp_path, [*rows[::-1], {"sku": "new", "name": "a new film", "blurb": "x"}])
    code, out, err = index("--vectors", output)
    assert code == 0, err
    assert f"item vectors: 298 from {output}, 3 encoded, 0 there already" in out
    found = published(home)
    assert next(iter(found)) == "s299"
    there = written(output)
    there["renamed"] = there.pop("s8")
    changed = {name: found.pop(name) for name in ("new", "s5", "s130")}
    assert_equal(found, {name: there[name] for name in found}, 1e-5)
    assert abs(changed["s5"] - there["s5"]).max() > 0.01
    code, _, err = index("--force")
    assert code == 0, err
    assert_equal(changed, {name: published(home)[name] for name in changed}, 1e-5)


def test_vectors_that_are_there_already_are_kept(
    home: Path, catalogue: Command, index: Command, output: Path, tmp_path: Path
) -> None:
    assert index("--vectors", output)[0] == 0
    before = published(home)
    shutil.rmtree(output)
    code, _, err = catalogue("encode", "--input", tmp_path / "in" / "b.parquet", "--output", output, *FIELDS)
    assert code == 0, err
    code, out, err = index("--vectors", output, "--recall", "0.9")
    assert code == 0, err
    assert f"item vectors: 0 from {output}, 0 encoded, 300 there already" in out
    assert_equal(published(home), before, 0)
    code, out, err = index("--vectors", output, "--force")  # of half of the input, as from a job that was stopped
    assert code == 0, err
    assert f"item vectors: 140 from {output}, 160 encoded, 0 there already" in out


def test_a_folder_that_does_not_fit_is_refused(
    home: Path, catalogue: Command, index: Command, output: Path, tmp_path: Path
) -> None:
    assert index("--vectors", output)[0] == 0
    folder = current(Workspace(home).snapshots)
    job = msgspec.json.decode((output / JOB).read_bytes())

    def refused(said: str, **changed: object) -> None:
        (output / JOB).write_bytes(msgspec.json.encode(job | changed))
        code, _, err = index("--vectors", output)  # also where the index is up to date
        assert (code, said in err, len(err) < 400) == (1, True, True), err

    refused(f"made with encoder 1234, the index is built with {job['encoder']}", encoder="1234")
    weights = 'made with the field weights {"title":1.0}, the catalogue has {"blurb":1.0,"title":2.0}'
    refused(weights, mapping={"texts": {"title": {"column": "name"}}})
    refused("cannot be read: Invalid enum value 1", format=1)
    code, _, err = catalogue("encode", "--input", tmp_path / "in", "--output", output, *FIELDS)
    assert (code, "encode anew into an empty folder" in " ".join(err.split())) == (1, True)
    code, _, err = index("--vectors", tmp_path / "nowhere")
    assert (code, f"no {JOB}: name an output of recserve catalogue encode" in err) == (1, True)
    assert current(Workspace(home).snapshots) == folder


def test_a_damaged_file_is_named_and_made_again(
    home: Path, catalogue: Command, index: Command, output: Path, tmp_path: Path
) -> None:
    file = sorted(output.glob("*.parquet"))[2]
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0x10
    file.write_bytes(content)
    code, _, err = index("--vectors", output)
    assert (code, f"{file.name} cannot be read" in err, len(err) < 500) == (1, True, True), err
    assert not Workspace(home).snapshots.exists()
    file.unlink()
    code, _, err = catalogue("encode", "--input", tmp_path / "in", "--output", output, *FIELDS)
    assert code == 0, err
    code, out, err = index("--vectors", output)
    assert (code, "item vectors: 300 from" in out) == (0, True), err
