"""The faster int8 encoder in `recserve bench encode`: where it is taken from, and why it is not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from recserve_benchmarks.encode import fast as encode_fast
from recserve_benchmarks.encode.fast import FAST, fast_encoder
from recserve_export.encoder.report.report import REPORT, Gate
from recserve_server_ext.encoder.manifest import EncoderManifest, read_manifest
from support.exports import Exports
from support.tiny_encoder import LOOSE


@pytest.fixture(scope="module")
def exported(exports: Exports) -> Path:
    """Home with fp32 and int8-fast of the tiny model; not to be changed."""
    return exports.encoders(FAST)


@pytest.fixture
def served(exported: Path) -> EncoderManifest:
    return read_manifest(exported / "encoder" / "fp32")


@pytest.fixture(autouse=True)
def _dot_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of int8 must be that of the export, so only what asks for the target sees such a CPU."""
    monkeypatch.setattr(encode_fast, "has_int8_dot_product", lambda: True)


def absent(home: Path, served: EncoderManifest, source: Path) -> str:
    with fast_encoder(home, served, source) as found:
        assert found.folder is None
        assert found.figures() == {"absent": found.absent}
        return found.absent


def test_that_of_the_home_is_taken(
    exported: Path, served: EncoderManifest, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_fast, "FAST_GATE", LOOSE.gate)
    with fast_encoder(exported, served, source) as found:
        assert found.folder == exported / "encoder" / FAST
        assert 0.5 < found.overlap < 1
        assert found.figures() == {"mean_cos": found.mean_cos, "overlap": found.overlap}


def test_one_that_lost_too_much_is_not_measured(
    exported: Path, served: EncoderManifest, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_fast, "FAST_GATE", Gate(overlap=0.9999))
    assert "it misses its gate: " in absent(exported, served, source)


def test_it_is_of_no_use_without_dot_products(
    exported: Path, served: EncoderManifest, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_fast, "has_int8_dot_product", lambda: False)
    assert absent(exported, served, source) == "this CPU has no int8 dot products"


def test_what_is_served_is_not_measured_twice(exported: Path, source: Path) -> None:
    assert absent(exported, read_manifest(exported / "encoder" / FAST), source) == "it is what is served"


def test_where_it_is_missing_it_is_made_aside(
    served: EncoderManifest, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_fast, "FAST_GATE", LOOSE.gate)
    with fast_encoder(tmp_path, served, source) as found:
        assert found.folder is not None
        assert not found.folder.is_relative_to(tmp_path)
        manifest = read_manifest(found.folder)
        assert (manifest.precision, manifest.source_sha256) == (FAST, served.source_sha256)
        assert 0.5 < found.overlap < 1
    assert not found.folder.exists()
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_says_why(served: EncoderManifest, copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").unlink()
    said = absent(tmp_path, served, copied)
    assert said == f"it could not be made: {copied} has no weights: model.safetensors is missing"


@pytest.mark.parametrize("what", ["another source", "an older report"])
def test_an_encoder_that_does_not_belong_to_the_served_one_is_made_anew(
    what: str, exported: Path, served: EncoderManifest, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(exported, tmp_path / "home", symlinks=True)
    if what == "another source":
        served = msgspec.structs.replace(served, source_sha256="0" * 64)
    else:
        (home / "encoder" / FAST / REPORT).write_text("{}")
    made: list[Path] = []

    def make(source: Path, home: Path) -> encode_fast.FastEncoder:
        made.append(source)
        return encode_fast.FastEncoder(absent="seen")

    monkeypatch.setattr(encode_fast, "_made", make)
    assert absent(home, served, copied) == "seen"
    assert made == [copied]
