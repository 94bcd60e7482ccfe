"""Canonical vectors: what `recserve export verify` accepts, what it refuses, and what it says on another CPU."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from recserve_export.cli.encoder import app
from recserve_export.encoder.checks.canonical import (
    CANONICAL,
    TEXTS,
    Canonical,
    compare_canonical,
    read_canonical,
    write_canonical,
)
from recserve_export.encoder.checks.fidelity import WorstText
from recserve_export.encoder.checks.speed import PYTORCH
from recserve_export.encoder.report.page import COSINES, PAGE, SPEED
from recserve_export.encoder.report.report import REPORT, EncoderReport
from recserve_export.errors import FidelityError
from recserve_server_ext.common import cpu
from recserve_server_ext.encoder.manifest import MANIFEST, MODEL, read_manifest
from recserve_server_ext.encoder.text_encoder import TextEncoder
from support.served import Served

_PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def folder(tiny_home: Path, tmp_path: Path) -> Path:
    """A copy of the tiny fp32 encoder to change."""
    return shutil.copytree(tiny_home / "encoder" / "fp32", tmp_path / "fp32")


def verify(folder: Path, *more: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["verify", str(folder), *more])
    return found.exit_code, found.output


def test_a_stored_encoder_gives_its_vectors(folder: Path) -> None:
    code, said = verify(folder)
    assert (code, "20 texts: least cosine" in said) == (0, True)


def test_they_are_pytorchs(folder: Path) -> None:
    canonical = read_canonical(folder, read_manifest(folder))
    assert canonical.texts == list(TEXTS)
    assert len(set(TEXTS)) == 20
    found = TextEncoder(folder).encode(TEXTS, role="query")
    by_pytorch = msgspec.structs.replace(canonical, vectors=canonical.pytorch)
    assert compare_canonical(by_pytorch, "fp32", found, "any").min_cos >= 0.9999


def test_other_vectors_are_refused(folder: Path) -> None:
    manifest = read_manifest(folder)
    vectors = TextEncoder(folder).encode(TEXTS, role="query")
    turned = vectors.copy()
    turned[3] = -turned[3]
    write_canonical(folder, manifest, turned, vectors)
    code, said = verify(folder)
    assert code == 1
    assert "other vectors than export did: cosine -1.000000 < 0.9999 for the text 'Star Wars" in " ".join(said.split())


def test_another_arithmetic_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = msgspec.structs.replace(read_manifest(folder), precision="int8")
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    vectors = TextEncoder(folder).encode(TEXTS, role="query")
    monkeypatch.setattr(cpu, "int8_arithmetic", lambda: "elsewhere")
    write_canonical(folder, manifest, -vectors, vectors)
    monkeypatch.undo()
    code, said = verify(folder)
    assert code == 0
    assert f"exported with elsewhere, this CPU has {cpu.int8_arithmetic()}" in said
    assert "with the PyTorch, at least 0.97" in said
    canonical = read_canonical(folder, manifest)
    assert compare_canonical(canonical, "fp32", -vectors, "avx2").other_arithmetic == ""
    with pytest.raises(FidelityError, match=r"exported with elsewhere, this CPU has avx2\)"):
        compare_canonical(canonical, "int8", -vectors, "avx2")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"{", "cannot be read"),
        ({"fingerprint": "another"}, "belongs to encoder another"),
        ({"vectors": ""}, "does not hold 20 vectors of 32 elements"),
        ({"vectors": "?"}, "cannot be read"),
    ],
)
def test_damage_is_named(content: bytes | dict[str, str] | None, said: str, folder: Path) -> None:
    path = folder / CANONICAL
    kept = msgspec.json.decode(path.read_bytes(), type=Canonical)
    path.unlink()
    if isinstance(content, dict):
        path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(kept), **content}))
    elif content is not None:
        path.write_bytes(content)
    code, output = verify(folder)
    assert code == 1
    assert said in " ".join(output.split())


def test_a_server_that_does_not_answer_is_named(folder: Path) -> None:
    code, said = verify(folder, "--server", "127.0.0.1:1")
    assert code == 1
    assert "127.0.0.1:1 does not answer" in said


@pytest.mark.triton
def test_a_served_encoder_gives_its_vectors(folder: Path, tiny_server: Served) -> None:
    code, said = verify(folder, "--server", tiny_server.grpc)
    assert (code, "20 texts: least cosine 0.99999" in said or "20 texts: least cosine 1.0" in said) == (0, True)
    manifest = msgspec.structs.replace(read_manifest(folder), pooling="other")
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    canonical = msgspec.json.decode((folder / CANONICAL).read_bytes(), type=Canonical)
    moved = msgspec.structs.replace(canonical, fingerprint=manifest.fingerprint)
    (folder / CANONICAL).write_bytes(msgspec.json.encode(moved))
    code, said = verify(folder, "--server", tiny_server.grpc)
    assert code == 1
    assert "serves encoder" in said


def test_the_page_is_one_file_with_its_plots(folder: Path) -> None:
    page = (folder / PAGE).read_text(encoding="utf-8")
    assert len(page) < 500_000
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<details>") == 10
    report = msgspec.json.decode((folder / REPORT).read_bytes(), type=EncoderReport)
    for worst in report.worst:
        assert len(worst.expected) == len(worst.found) == 10
        assert f"<summary>{worst.cos:.5f}" in page
    for name in (COSINES, SPEED):
        assert (folder / name).read_bytes().startswith(_PNG)


def cells(page: str, heading: str) -> list[list[str]]:
    """Rows of the first table behind a heading, without the row of names."""
    table = page.split(f">{heading}<", 1)[1].split("</table>", 1)[0]
    return [re.findall(r"<td>(.*?)</td>", row) for row in table.split("<tr>")[2:]]


def test_the_page_says_how_fast_how_large_and_where(folder: Path) -> None:
    report = msgspec.json.decode((folder / REPORT).read_bytes(), type=EncoderReport)
    page = (folder / PAGE).read_text(encoding="utf-8")
    points = {(point.system, point.tokens, point.batch): point for point in report.grid}
    assert {point.system for point in report.grid} == {"fp32", PYTORCH}
    found = cells(page, "How fast?")
    assert len(found) == len(report.grid) / 2
    for tokens, batch, *rest in found:
        ours, theirs = (points[system, int(tokens), int(batch)] for system in ("fp32", PYTORCH))
        assert rest[1::2] == [f"{ours.latency_ms:.2f}", f"{theirs.latency_ms:.2f}"]
        assert rest[4] == f"{ours.texts_per_s / theirs.texts_per_s:.2f}"
        assert ours.texts_per_s == pytest.approx(1e3 * int(batch) / ours.latency_ms, rel=0.01)
    sizes = dict(cells(page, "How large?"))
    assert sizes[MODEL] == f"{(folder / MODEL).stat().st_size:,}"
    assert int(sizes["weights it was exported from"].replace(",", "")) == report.source_bytes > 0
    machine = dict(cells(page, "Measured on"))
    assert machine["CPU flags"].split() == cpu.vector_flags()
    assert {"torch", "onnxruntime", "transformers"} <= set(machine)
    assert machine["int8 arithmetic"] == cpu.int8_arithmetic()


def test_the_page_escapes_texts(folder: Path, tmp_path: Path) -> None:
    from recserve_export.encoder.report.page import write_page

    report = msgspec.json.decode((folder / REPORT).read_bytes(), type=EncoderReport)
    crafted = WorstText(text="<script>", cos=0.5, expected=["<b>"], found=["&"])
    write_page(tmp_path, msgspec.structs.replace(report, worst=[crafted], name="<i>"), np.full(9, 0.99))
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert not {"<script>", "<b>", "<i>"} & set(page.replace(">", "> ").split())
    assert "&lt;script&gt;" in page
