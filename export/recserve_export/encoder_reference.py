"""What the vectors should be, by transformers and sentence-transformers alone: no code of the exported graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recserve_export.encoder_source import EncoderSource
from recserve_export.pooled_model import load_model
from recserve_export.sentence_modules import DenseLayer, Pooling
from recserve_export.tokenizer_file import load_tokenizer

Vectors = NDArray[np.float32]


def reference_vectors(source: EncoderSource, texts: list[str], *, batch: int = 16) -> Iterator[Vectors]:
    """Unit vectors, [up to `batch`, dim] each.

    The tokenizer pads and truncates, attention is what transformers prefers, each text is pooled by itself, and Dense
    modules are those of sentence-transformers. Without a padding token texts run one by one.
    """
    tokenizer, model = load_tokenizer(source), load_model(source, eager=False)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        batch = 1
    finish = _Finish(source)
    for start in range(0, len(texts), batch):
        rows = [text.lower() if source.lowercase else text for text in texts[start : start + batch]]
        tokens = tokenizer(rows, padding=batch > 1, truncation=True, max_length=source.max_tokens, return_tensors="pt")
        with torch.inference_mode():
            # No token types: one text has only zeros, and some models (DistilBERT) take none.
            inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
            hidden = model(**inputs).last_hidden_state.numpy()
        lengths = tokens["attention_mask"].sum(1).tolist()
        yield np.stack([finish(row[:length]) for row, length in zip(hidden, lengths, strict=True)])


def pool_one(tokens: Vectors, pooling: Pooling) -> Vectors:
    """The pooled vector [hidden] of one text's token vectors [tokens, hidden]."""
    pooled: Vectors
    if pooling in ("cls", "last"):
        pooled = tokens[0 if pooling == "cls" else -1]
    elif pooling == "max":
        pooled = tokens.max(0)
    else:
        weights = np.arange(1, len(tokens) + 1) if pooling == "weighted_mean" else None
        pooled = np.average(tokens, axis=0, weights=weights).astype(np.float32)
    return pooled


class _Finish:
    """Token vectors of one text -> its unit vector."""

    def __init__(self, source: EncoderSource) -> None:
        from sentence_transformers.models import Dense

        self._pooling = source.pooling
        self._dim = source.options.dim
        self._steps: list[Any] = [
            Dense.load(str(step.folder)).eval() if isinstance(step, DenseLayer) else None for step in source.steps
        ]

    def __call__(self, tokens: Vectors) -> Vectors:
        vector = pool_one(tokens, self._pooling)
        for dense in self._steps:
            if dense is None:
                vector = vector / np.linalg.norm(vector)
                continue
            with torch.inference_mode():
                features = dense({"sentence_embedding": torch.from_numpy(vector)[None]})
            vector = features["sentence_embedding"][0].numpy()
        kept = vector[: self._dim]
        unit: Vectors = (kept / np.linalg.norm(kept)).astype(np.float32)
        return unit
