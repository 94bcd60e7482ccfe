"""Texts -> token ids, and the mean over the parts of a long text; needs no onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.encoder.manifest import TOKENIZER, EncoderManifest, Role, read_manifest

#: Most parts of a long text that count for its vector; the rest is cut off.
MOST_CHUNKS = 32


class TokenTable(NamedTuple):
    """Token ids of texts, or of parts of texts, padded on the right.

    Attributes:
        ids: [rows, longest]; 0 beyond a row's length.
        lengths: [rows] number of tokens of each row.
    """

    ids: Ints
    lengths: Ints

    @property
    def mask(self) -> Ints:
        """[rows, longest]: 1 for a token, 0 for padding."""
        return (np.arange(self.ids.shape[1]) < self.lengths[:, None]).astype(np.int64)


class TextTokenizer:
    """The exported tokenizer: texts -> token ids, with the prompt of their role, truncated to `max_tokens`."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        # Here, since models that only take others' vectors have none.
        from tokenizers import Tokenizer

        self._prompts = read_manifest(folder, verify=False).prompts
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self._tokenizer.get_vocab_size())

    def __call__(self, texts: Sequence[str], role: Role = "query") -> TokenTable:
        """Token ids of the texts, a row each; for many texts it uses all cores, without the interpreter lock."""
        return _table([encoding.ids for encoding in self._encodings(texts, role)])

    def in_parts(self, texts: Sequence[str], role: Role, most: int) -> tuple[TokenTable, Ints, int]:
        """Token ids of the texts, a row for each part of a text.

        Args:
            most: Most parts of a text.

        Returns:
            The rows, text by text; [texts] number of rows of each; number of texts that were cut off.
        """
        rows: list[list[int]] = []
        counts: list[int] = []
        cut = 0
        for encoding in self._encodings(texts, role):
            overflowing = encoding.overflowing
            cut += len(overflowing) >= most
            parts = [encoding, *overflowing[: most - 1]]
            rows += [part.ids for part in parts]
            counts.append(len(parts))
        return _table(rows), np.array(counts, np.int64), cut

    def _encodings(self, texts: Sequence[str], role: Role) -> list[Any]:
        prompt: str = getattr(self._prompts, role)
        encodings: list[Any] = self._tokenizer.encode_batch(
            [prompt + text for text in texts] if prompt else list(texts)
        )
        return encodings


def _table(rows: list[list[int]]) -> TokenTable:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    ids = np.zeros((len(rows), int(lengths.max(initial=2))), np.int64)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = np.fromiter(
        (token for row in rows for token in row), np.int64, int(lengths.sum())
    )
    return TokenTable(ids, lengths)


def most_parts(manifest: EncoderManifest, role: Role) -> int:
    """Most parts of a text that count for its vector; the rest is cut off."""
    return MOST_CHUNKS if role == "passage" and manifest.long_text == "chunk_mean" else 1


def means_of_parts(vectors: Vectors, counts: Ints) -> Vectors:
    """Unit means [texts, dim] of the rows of each text; vectors [rows, dim], counts [texts] of at least 1."""
    if len(vectors) == len(counts):
        return vectors
    sums = np.add.reduceat(vectors, np.cumsum(counts) - counts, axis=0)
    means: Vectors = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.float32(1e-12))
    return means
