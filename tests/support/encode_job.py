"""A job of `recserve catalogue encode`: its input of 3,000 rows, its command, and what has to come out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recserve_server_ext.encoder.text_encoder import TextEncoder

GROUP = 50


def items(count: int) -> list[dict[str, Any]]:
    """Rows of which every 97th is no item."""
    rows: list[dict[str, Any]] = [
        {"sku": f"s{n}", "name": f"film number {n}", "blurb": f"about {n % 13}", "n": n} for n in range(count)
    ]
    for row in rows[96::97]:
        row["name"] = row["blurb"] = "  "
    return rows


def write_input(folder: Path) -> Path:
    """Two files of many small row groups in a new folder."""
    folder.mkdir()
    rows = items(3000)
    for name, part in (("a", rows[:1700]), ("b", rows[1700:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{name}.parquet", row_group_size=GROUP)
    return folder


def words(home: Path, source: Path, output: Path, *more: str) -> list[str]:
    """What follows `recserve catalogue`."""
    fields = ["--id-field", "sku", "--text", "title=2", "--text", "blurb", "--map", "title=name"]
    return ["encode", "--home", str(home), "--input", str(source), "--output", str(output), *fields, *more]


def command(home: Path, source: Path, output: Path, *more: str) -> list[str]:
    """The command of a process of its own."""
    return [sys.executable, "-m", "recserve_client.cli.main", "catalogue", *words(home, source, output, *more)]


def read(output: Path) -> dict[str, tuple[Any, str | None]]:
    """Vector and error by id; every row once."""
    rows = [row for file in sorted(output.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    found = {row["id"]: (row["vector"], row["error"]) for row in rows}
    assert len(found) == len(rows)
    return found


def check(found: dict[str, tuple[Any, str | None]], home: Path) -> None:
    """Every item of the source is there, with the vector that this process gives."""
    encoder = TextEncoder(home / "encoder" / "fp32")
    rows = items(3000)
    assert set(found) == {row["sku"] for row in rows}
    for row in rows[::211]:
        title, blurb = encoder.encode([row["name"], row["blurb"]])
        expected = (2 * title + blurb) / np.linalg.norm(2 * title + blurb)
        # fp32 runs of other sizes: 1e-5, as for every encoder here.
        np.testing.assert_allclose(found[row["sku"]][0], expected, atol=1e-5)
    refused = {name for name, (vector, error) in found.items() if error is not None}
    assert refused == {row["sku"] for row in rows[96::97]}
    assert all((found[name][0] is None) == (name in refused) for name in found)
    assert "empty_text" in str(found["s96"][1])
