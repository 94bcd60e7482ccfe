"""Reference vectors of a source, by sentence-transformers, which loads the folder: no code of the exported graph."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from recserve_export.encoder.source.folder import EncoderSource
from recserve_export.encoder.source.sentence_modules import MODULES, POOLINGS
from recserve_export.errors import EncoderSourceError, first_line
from recserve_export.one_thread import one_thread
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.encoder.manifest import Role
from recserve_server_ext.encoder.tokenizer import MOST_CHUNKS

_NAMES: Final = {ours: theirs for theirs, ours in POOLINGS.items()}


class Reference:
    """The model of a source in sentence-transformers.

    It reads pooling, modules and length from the folder; only what the caller of the export asked for is set here.
    Prompts are given, since `encode_document` passes over the name `passage` that older models have.
    """

    def __init__(self, source: EncoderSource) -> None:
        """Load it.

        Raises:
            EncoderSourceError: sentence-transformers cannot load it.
        """
        self._source = source
        self._model = load_model(source)
        self._tokenizer = self._model.tokenizer
        self._tokenizer.padding_side = "right"

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
        prompt: str = getattr(self._source.prompts, role)
        has_parts = role == "passage" and self._source.options.long_text == "chunk_mean"
        if self._tokenizer.pad_token is None:
            # With one text a batch nothing is padded, but a token has to be named.
            batch, self._tokenizer.pad_token = 1, self._tokenizer.eos_token
        by_length = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        parts = [by_length[start : start + batch] for start in range(0, len(texts), batch)]

        def encoded(part: list[int]) -> Vectors:
            found = [texts[at] for at in part]
            if has_parts:
                vectors = np.stack([self._mean_of_parts(prompt + text) for text in found])
            else:
                vectors = self._unit(
                    self._model.encode(found, prompt=prompt, batch_size=batch, show_progress_bar=False)
                )
            done(len(part))
            return vectors

        # With several threads in an operation, each waits for all of them: on busy cores that is many times slower.
        with one_thread():
            # The first batch sets the tokenizer's padding and length, which must not change while threads share it.
            first = [encoded(part) for part in parts[:1]]
            with ThreadPoolExecutor(cpu.usable_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
                in_order = np.concatenate([*first, *pool.map(encoded, parts[1:])])
        vectors: Vectors = np.empty_like(in_order)
        vectors[by_length] = in_order
        return vectors

    def run(self, ids: NDArray[np.int64]) -> Vectors:
        """Unit vectors [texts, dim] of texts of equal length, in one batch; ids [texts, tokens]."""
        tensor = torch.from_numpy(ids)
        with torch.inference_mode():
            found = self._model({"input_ids": tensor, "attention_mask": torch.ones_like(tensor)})
        return self._unit(found["sentence_embedding"].numpy())

    def _mean_of_parts(self, text: str) -> Vectors:
        """The unit mean of a long text's parts, which sentence-transformers does not know."""
        most = self._model.max_seq_length
        ids = self._tokenizer(text, truncation=True, max_length=most, return_overflowing_tokens=True)["input_ids"]
        parts = ids[:MOST_CHUNKS] if ids and isinstance(ids[0], list) else [ids]
        mean = np.sum([self.run(np.array([part], np.int64))[0] for part in parts], axis=0)
        unit: Vectors = mean / np.linalg.norm(mean)
        return unit

    def _unit(self, vectors: Vectors) -> Vectors:
        kept = vectors[:, : self._source.options.dim]
        unit: Vectors = (kept / np.linalg.norm(kept, axis=1, keepdims=True)).astype(np.float32)
        return unit


def load_model(source: EncoderSource) -> Any:
    """The sentence-transformers model of a source.

    Raises:
        EncoderSourceError: sentence-transformers cannot load it.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    options = source.options
    how: dict[str, Any] = {"local_files_only": True, "trust_remote_code": options.trust_remote_code}
    loading = {**how, "use_safetensors": source.weights[0].suffix == ".safetensors"}
    is_whole = (source.folder / MODULES).is_file()
    try:
        if is_whole:
            model = SentenceTransformer(str(source.folder), device="cpu", model_kwargs=loading, **how)
        else:
            # Without a list of modules, files of sentence-transformers beside the model mean nothing to it.
            transformer = Transformer(str(source.folder), do_lower_case=source.lowercase, model_kwargs=loading)
            pooling = Pooling(transformer.get_embedding_dimension(), _NAMES[source.pooling])
            model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    except Exception as error:  # it raises OSError, ValueError, KeyError, RuntimeError and others
        raise EncoderSourceError(f"sentence-transformers cannot load {source.folder}: {first_line(error)}") from error
    if is_whole and options.pooling is not None:
        for place, module in enumerate(model):
            if isinstance(module, Pooling):
                model[place] = Pooling(module.embedding_dimension, _NAMES[source.pooling])
    # Longer texts than there are positions would fail.
    own = model.max_seq_length or source.positions + 1
    if not is_whole or options.max_tokens is not None or own > source.positions:
        model.max_seq_length = source.max_tokens
    return model.float().eval()
