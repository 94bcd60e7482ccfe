"""A real encoder of a few hundred kB with random weights: the same bytes for the same seed.

As a script: ``python tests/support/tiny_encoder.py HOME [--precision int8]``.
"""

from __future__ import annotations

import argparse
import json
import re
import string
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from recserve_export.catalogue.films import FilmsSource, films_path
from recserve_export.encoder.checks.fidelity_gate import Gate
from recserve_export.encoder.export import ExportSettings, export_encoder
from recserve_server_ext.common.workspace import Workspace

MAX_TOKENS: Final = 64
DIM: Final = 32
#: 32 random dimensions lose more in int8 than a trained model does.
LOOSE: Final = ExportSettings(gate=Gate(mean_cos=0.9, p01_cos=0.8, overlap=0.5, spearman=0.8))
_WORDS: Final = 1500
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_tiny_source(folder: Path, *, seed: int = 7) -> Path:
    """Write a sentence-transformers folder: a two-layer BERT with random weights, mean pooling, 64 tokens.

    Args:
        folder: Created; must not exist.
        seed: Of the weights.

    Returns:
        The folder.
    """
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    vocabulary = _vocabulary()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=MAX_TOKENS).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * DIM,
        max_position_embeddings=MAX_TOKENS,
        # With BERT's 0.02 the layers would do next to nothing to the embeddings.
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    _write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    return folder


@contextmanager
def measured_once() -> Iterator[None]:
    """Within the block exports measure their speed with as few calls as they can: no test looks at how fast one is."""
    from recserve_export.encoder.checks import speed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "_ROUNDS", 1)
        yield


def _vocabulary() -> list[str]:
    """Special tokens, single characters, and the films' most frequent words; ties in alphabetical order."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    words: Counter[str] = Counter()
    for _, row in FilmsSource(films_path()).rows():
        assert isinstance(row, dict)
        text = " ".join(row[column] or "" for column in ("Title", "Genre", "Director", "CastText"))
        words.update(re.findall(r"[a-z]{2,}", text.lower()))
    frequent = sorted(words, key=lambda word: (-words[word], word))[:_WORDS]
    return [*_SPECIAL, *characters, *(f"##{one}" for one in string.ascii_lowercase + string.digits), *frequent]


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def main() -> None:
    """Export the tiny encoder into a folder."""
    parser = argparse.ArgumentParser(description="Export a tiny encoder with random weights.")
    parser.add_argument("home", type=Path)
    parser.add_argument("--precision", choices=("fp32", "int8", "int8-fast"), default="fp32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        source = make_tiny_source(Path(aside) / "tiny")
        export_encoder(source, Workspace(arguments.home), arguments.precision, settings=LOOSE)
    print(Workspace(arguments.home).encoder / arguments.precision)


if __name__ == "__main__":
    main()
