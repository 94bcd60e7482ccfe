"""`--precision auto`: what is measured, what wins, what serving then loads; the gate."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from recserve_export.cli.encoder import app
from recserve_export.encoder.checks.fidelity import Fidelity
from recserve_export.encoder.checks.fidelity_gate import Gate
from recserve_export.encoder.checks.speed import Speed
from recserve_export.encoder.checks.texts import LEAST_LINES, sample_texts
from recserve_export.encoder.export import export_encoder
from recserve_export.encoder.precision_choice import choose
from recserve_export.encoder.report.report import REPORT, Candidate, EncoderReport
from recserve_export.errors import FidelityError, SourceError
from recserve_server_ext.common import cpu
from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.encoder.manifest import Precision
from recserve_server_ext.encoder.selection import CHOICE, choose_encoder, read_choice
from support.tiny_encoder import LOOSE

_FIDELITY = Fidelity(
    texts=9, min_cos=0.99, mean_cos=0.998, p01_cos=0.99, max_abs_difference=0.1, overlap=0.96, pairs=100, spearman=0.995
)


def candidate(precision: Precision, titles: float, descriptions: float, *misses: str) -> Candidate:
    return Candidate(
        precision=precision,
        recipe="1",
        size_bytes=1,
        fidelity=_FIDELITY,
        speed=Speed(titles=titles, descriptions=descriptions),
        misses=list(misses),
    )


class TestGate:
    def test_the_default_bounds(self) -> None:
        assert Gate() == Gate(mean_cos=0.995, p01_cos=0.985, overlap=0.95, spearman=0.99)
        assert Gate().misses(_FIDELITY) == []

    @pytest.mark.parametrize(
        ("name", "low", "said"),
        [
            ("mean_cos", 0.9949, "mean cosine 0.9949 < 0.995"),
            ("p01_cos", 0.98, "1st percentile of the cosine 0.9800 < 0.985"),
            ("overlap", math.nan, "overlap@10 nan < 0.95"),
            ("spearman", 0.5, "Spearman 0.5000 < 0.99"),
        ],
    )
    def test_every_figure_counts(self, name: str, low: float, said: str) -> None:
        assert Gate().misses(msgspec.structs.replace(_FIDELITY, **{name: low})) == [said]


class TestChoice:
    def test_the_fastest_that_passes_wins(self) -> None:
        slow, fast = candidate("fp32", 100, 10), candidate("int8", 90, 12)
        assert choose([slow, fast]) is fast
        assert choose([slow, candidate("int8-fast", 900, 90, "overlap@10 0.9 < 0.95")]) is slow

    def test_none_passes(self) -> None:
        with pytest.raises(FidelityError, match=r"no precision passes the gate \(fp32: Spearman 0.1 < 0.9\)"):
            choose([candidate("fp32", 1, 1, "Spearman 0.1 < 0.9")])


@pytest.fixture(scope="module")
def auto(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of an export with `auto` in which every candidate passes."""
    home = tmp_path_factory.mktemp("auto")
    command = ["encoder", str(source), "--home", str(home)]
    command += [f"--min-{name}=0.5" for name in ("mean-cos", "p01-cos", "overlap", "spearman")]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    assert max(map(len, found.stdout.splitlines())) <= 100
    assert found.stdout.count("passes") == 2
    assert found.stdout.count("chosen") == 1
    return home


class TestAuto:
    def test_the_report_has_all_candidates(self, auto: Path) -> None:
        report = msgspec.json.decode((auto / "encoder" / "fp32" / REPORT).read_bytes(), type=EncoderReport)
        assert [one.precision for one in report.candidates] == ["fp32", "int8", "int8-fast"]
        (chosen,) = [one for one in report.candidates if one.is_chosen]
        fastest = max(report.candidates, key=lambda one: one.speed.titles * one.speed.descriptions)
        assert chosen == fastest

    def test_serving_loads_the_winner(self, auto: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        workspace = Workspace(auto)
        winner = json.loads((workspace.encoder / CHOICE).read_text())["precision"]
        assert choose_encoder(workspace) == workspace.encoder / winner
        published = {path.name for path in workspace.encoder.iterdir() if path.is_dir()}
        assert published == {"fp32", winner, "versions"}
        monkeypatch.setattr(cpu, "int8_arithmetic", lambda: "other")
        assert read_choice(workspace) is None

    @pytest.mark.parametrize("precision", ["auto", "fp32", "int8", "int8-fast"])
    def test_serving_takes_every_precision(self, precision: str) -> None:
        assert msgspec.convert({"precision": precision}, ServeSettings).precision == precision

    def test_a_second_one_does_nothing(self, auto: Path, source: Path) -> None:
        gate = Gate(mean_cos=0.5, p01_cos=0.5, overlap=0.5, spearman=0.5)
        settings = type(LOOSE)(gate=gate)
        done = export_encoder(source, Workspace(auto), "auto", settings=settings)
        assert not any(one.is_new for one in done)

    def test_a_choice_of_another_encoder_says_nothing(self, auto: Path, tmp_path: Path) -> None:
        import shutil

        home = Workspace(shutil.copytree(auto, tmp_path / "home", symlinks=True))
        path = home.encoder / CHOICE
        path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "another"}))
        assert read_choice(home) is None
        path.write_text("{")
        with pytest.raises(EncoderError, match=r"choice\.json cannot be read"):
            choose_encoder(home)


class TestTextsOfAFile:
    def test_halves_are_short_and_long(self, tmp_path: Path) -> None:
        path = tmp_path / "texts.txt"
        path.write_text("\n".join("word " * (at % 40 + 1) + str(at) for at in range(1200)), encoding="utf-8")
        texts = sample_texts(path)
        samples = [texts.calibration, texts.checked[:-4], texts.titles, texts.longer]
        everything = [text for sample in samples for text in sample]
        assert len(set(everything)) == len(everything)
        assert max(map(len, texts.titles)) <= min(map(len, texts.longer))
        assert len(texts.checked) > 500
        assert texts == sample_texts(path)

    @pytest.mark.parametrize(
        ("content", "said"),
        [(b"one\ntwo\n", f"has 2 distinct lines; at least {LEAST_LINES:,}"), (b"\xff\n", "is not UTF-8")],
    )
    def test_refusals(self, content: bytes, said: str, tmp_path: Path) -> None:
        path = tmp_path / "texts.txt"
        path.write_bytes(content)
        with pytest.raises(SourceError, match=said):
            sample_texts(path)
        with pytest.raises(SourceError, match="cannot be read"):
            sample_texts(tmp_path / "none")
