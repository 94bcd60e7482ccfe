"""Reference vectors of a source, by transformers and sentence-transformers: no code of the exported graph."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recserve_export.encoder.graph.onnx_export import load_model
from recserve_export.encoder.source.folder import EncoderSource
from recserve_export.encoder.source.sentence_modules import DenseLayer, Pooling
from recserve_export.encoder.source.tokenizer import load_tokenizer
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.encoder.manifest import Role
from recserve_server_ext.encoder.text_encoder import MOST_CHUNKS


class Reference:
    """The model of a source in PyTorch.

    Each text is pooled by itself, and Dense modules are those of sentence-transformers. Without a padding token texts
    run one by one.
    """

    def __init__(self, source: EncoderSource) -> None:
        """Load it.

        Raises:
            EncoderSourceError: transformers cannot load it.
        """
        self._source = source
        self._tokenizer, self._model = load_tokenizer(source), load_model(source, eager=False)
        self._tokenizer.padding_side = "right"
        self._finish = _Finish(source)

    def vectors(
        self,
        texts: list[str],
        *,
        role: Role = "passage",
        batch: int = 16,
        done: Callable[[int], None] = lambda _: None,
    ) -> Vectors:
        """Unit vectors [texts, dim]; `done` is called with the number of texts of each batch.

        Texts of similar length share a batch of up to `batch`, and several batches run at a time.
        """
        source = self._source
        prompt: str = getattr(source.prompts, role)
        rows = [prompt + text for text in texts]
        if source.lowercase:
            rows = [row.lower() for row in rows]
        has_parts = role == "passage" and source.options.long_text == "chunk_mean"
        if self._tokenizer.pad_token is None:
            batch = 1
        by_length = sorted(range(len(rows)), key=lambda at: len(rows[at]))
        parts = [by_length[start : start + batch] for start in range(0, len(rows), batch)]

        def encoded(part: list[int]) -> Vectors:
            found = [rows[at] for at in part]
            vectors = np.stack([self._mean_of_parts(row) for row in found]) if has_parts else self._encode(found)
            done(len(part))
            return vectors

        # With several threads in an operation, each waits for all of them: on busy cores that is many times slower.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(cpu.usable_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
                in_order = np.concatenate(list(pool.map(encoded, parts)))
        finally:
            torch.set_num_threads(threads)
        vectors = np.empty_like(in_order)
        vectors[by_length] = in_order
        return vectors

    def run(self, ids: NDArray[np.int64]) -> Vectors:
        """Unit vectors [texts, dim] of texts of equal length, in one batch; ids [texts, tokens]."""
        tensor = torch.from_numpy(ids)
        return self._pooled({"input_ids": tensor, "attention_mask": torch.ones_like(tensor)})

    def _encode(self, rows: list[str]) -> Vectors:
        tokens = self._tokenizer(
            rows, padding=len(rows) > 1, truncation=True, max_length=self._source.max_tokens, return_tensors="pt"
        )
        return self._pooled(tokens)

    def _mean_of_parts(self, row: str) -> Vectors:
        ids = self._tokenizer(row, truncation=True, max_length=self._source.max_tokens, return_overflowing_tokens=True)[
            "input_ids"
        ]
        parts = ids[:MOST_CHUNKS] if ids and isinstance(ids[0], list) else [ids]
        tensors = [torch.tensor([part]) for part in parts]
        vectors = [self._pooled({"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0] for ids in tensors]
        mean = np.sum(vectors, axis=0)
        unit: Vectors = mean / np.linalg.norm(mean)
        return unit

    def _pooled(self, tokens: Any) -> Vectors:
        with torch.inference_mode():
            # No token types: one text has only zeros, and some models (DistilBERT) take none.
            inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
            hidden = self._model(**inputs).last_hidden_state.numpy()
        lengths = tokens["attention_mask"].sum(1).tolist()
        return np.stack([self._finish(row[:length]) for row, length in zip(hidden, lengths, strict=True)])


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
