"""Every architecture that docs/export.md calls tested: its graph against transformers, alone and in a batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recserve_export.encoder_source import SourceOptions
from recserve_export.errors import EncoderSourceError
from recserve_export.pooled_model import TESTED
from support.tiny_models import DIM, POSITIONS, TEXTS, make_tiny_model, quick_encoder, vectors_by_transformers

DECODERS = ("gpt2", "llama", "qwen2")


@pytest.mark.parametrize("kind", TESTED)
def test_agrees_with_transformers(kind: str, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / kind, kind)
    decodes = kind in DECODERS
    encoder = quick_encoder(folder, tmp_path / "out", SourceOptions(pooling="last" if decodes else None))
    longest = encoder.manifest.max_tokens
    assert POSITIONS - 2 <= longest <= POSITIONS
    expected = vectors_by_transformers(folder, TEXTS, lambda row: row[-1] if decodes else row.mean(0), longest)
    assert encoder.tokenizer(TEXTS).lengths.max() == longest  # a truncated text is among them
    together = encoder.run(encoder.tokenizer(TEXTS))
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    padded = _in_one_batch(encoder, list(TEXTS))
    for found in (together, alone, padded):
        assert found.shape == (len(TEXTS), DIM)
        assert np.einsum("td,td->t", found, expected).min() >= 0.9999
    # Random weights tell the texts apart, so that a wrong graph would be seen.
    assert (expected @ expected.T - np.eye(len(TEXTS))).max() < 0.999


def _in_one_batch(encoder: object, texts: list[str]) -> np.ndarray:  # type: ignore[type-arg]
    """All texts in one run, padded to the longest."""
    from recserve_server_ext.text_encoder import TextEncoder

    assert isinstance(encoder, TextEncoder)
    return encoder._run_batch(encoder.tokenizer(texts), np.arange(len(texts)))


@pytest.mark.parametrize(
    ("kind", "nearest"), [("nomic_bert", "modernbert"), ("xlm-robertta", "xlm-roberta"), ("qwen9", "qwen2")]
)
def test_unknown_names_the_nearest(kind: str, nearest: str, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model", "bert")
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": kind}))
    with pytest.raises(
        EncoderSourceError, match=f"knows no architecture {kind}.*supported are bert.*{nearest}"
    ) as found:
        quick_encoder(folder, tmp_path / "out")
    assert "\n" not in str(found.value)
