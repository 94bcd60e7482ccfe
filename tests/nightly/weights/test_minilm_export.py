"""`recserve export encoder` of the default model: its figures, and its vectors beside sentence-transformers'."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from recserve_export.cli.encoder import app
from recserve_export.encoder.checks.texts import sample_texts
from recserve_export.encoder.export import Exported
from recserve_export.encoder.source.folder import default_folder
from recserve_server_ext.encoder.manifest import read_manifest
from recserve_server_ext.encoder.text_encoder import TextEncoder
from support.demo import Demo

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def minilm(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with fp32 and int8, of which the demo's encoders are part."""
    home = tmp_path_factory.mktemp("minilm")
    shutil.copytree(demo.home / "encoder", home / "encoder", symlinks=True)
    found = CliRunner().invoke(app, ["encoder", "--home", str(home), "--precision", "int8", "--min-overlap", "0.85"])
    assert found.exit_code == 0, found.output
    return home


class TestMiniLM:
    def test_figures(self, minilm: Path) -> None:
        fp32, int8 = (
            Exported(minilm / "encoder" / one, read_manifest(minilm / "encoder" / one), False).report()
            for one in ("fp32", "int8")
        )
        assert fp32.fidelity.min_cos >= 0.9999
        assert fp32.batch_invariance.max_abs_difference <= 1e-5
        assert int8.fidelity.mean_cos >= 0.995
        assert int8.fidelity.p01_cos >= 0.985
        assert int8.fidelity.overlap >= 0.93  # AVX2 has 7-bit weights: .943 there, .955 with dot products

    def test_agrees_with_sentence_transformers(self, minilm: Path) -> None:
        from sentence_transformers import SentenceTransformer

        texts = [*sample_texts().checked[-60:], "", "Amélie", "千と千尋の神隠し"]
        reference = SentenceTransformer(str(default_folder()), device="cpu")
        expected = reference.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        found = TextEncoder(minilm / "encoder" / "fp32").encode(texts)
        assert np.einsum("td,td->t", found, expected).min() >= 0.9999

    @pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("int8", 0.0)])
    def test_company_does_not_change_a_vector(self, precision: str, limit: float, minilm: Path) -> None:
        encoder = TextEncoder(minilm / "encoder" / precision)
        texts = sample_texts().checked[-60:]
        together = encoder.encode(texts)
        alone = np.concatenate([encoder.encode([text]) for text in texts])
        assert np.abs(together - alone).max() <= limit
