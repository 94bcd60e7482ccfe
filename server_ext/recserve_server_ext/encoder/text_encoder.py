"""Texts -> unit vectors with onnxruntime; the vector of a text does not depend on its batch, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.encoder.manifest import MODEL, TOKENIZER, EncoderManifest, Role, read_manifest

#: Most tokens (rows x longest row) of one run. Beyond 256 a run leaves the CPU's cache: 1,024 cost 15% more CPU for
#: titles and 80% for descriptions (Zen 3, 2 threads). Below 96 the matrix products are too small.
TOKEN_BUDGET = 192
#: Least tokens to part between threads: with 64 a text costs a quarter more, with 32 two thirds more.
_LEAST_TOKENS = 96
#: Tokens that would cost as much as what a run costs however short it is. Measured: docs/decisions/NNN.
_RUN_COST = 24
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


class TextEncoder:
    """An exported encoder in this process.

    Texts are sorted by length and run in batches of a bounded number of tokens. The graph computes each text for itself
    (int8 has a scale for each token). Several threads share one single-threaded session.

    Attributes:
        fingerprint: Runtime fingerprint, with the arithmetic of this CPU where it matters.
        truncated_texts: Number of texts that `encode` has cut off so far.
    """

    def __init__(self, folder: Path, *, threads: int | None = None, verify: bool = True) -> None:
        """Load an encoder folder.

        Args:
            folder: Made by `recserve export encoder`.
            threads: Runs in parallel; by default the usable cores.
            verify: Whether to check the files against their checksums.

        Raises:
            EncoderError: The folder is missing or damaged, or onnxruntime refuses the model.
        """
        self.manifest: EncoderManifest = read_manifest(folder, verify=verify)
        self.dim = self.manifest.dim
        self.truncated_texts = 0
        self.fingerprint = self.manifest.runtime_fingerprint
        self.tokenizer = TextTokenizer(folder, self.manifest.max_tokens)
        self._threads = threads or cpu.usable_cores()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="encoder")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that share a session fight for the lock of its memory arena: two run short texts no faster than one.
        options.enable_cpu_mem_arena = False
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / MODEL), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise EncoderError(f"onnxruntime cannot load {folder / MODEL}: {error}") from error

    def encode(
        self,
        texts: Sequence[str],
        *,
        role: Role = "passage",
        chunk: int = 2048,
        done: Callable[[int], None] | None = None,
    ) -> Vectors:
        """Unit vectors of the texts, [texts, dim], in the order given.

        Texts that are longer than the encoder takes are counted in `truncated_texts`. With `long_text` chunk_mean, a
        passage's vector is the mean over its parts, at most `MOST_CHUNKS`, of which the first has the prompt.

        Args:
            role: Role of the texts, which decides the prompt.
            chunk: Texts tokenised at a time, to bound memory.
            done: Called after each chunk with the number of texts in it, for progress bars.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        most = most_parts(self.manifest, role)
        for start in range(0, len(texts), chunk):
            rows = by_length[start : start + chunk]
            tokens, counts, cut = self.tokenizer.in_parts([texts[row] for row in rows], role, most)
            self.truncated_texts += cut
            vectors[rows] = means_of_parts(self.run(tokens), counts)
            if done is not None:
                done(len(rows))
        return vectors

    def run(self, tokens: TokenTable) -> Vectors:
        """Unit vectors of tokenised texts, [texts, dim]."""
        vectors = np.empty((len(tokens.lengths), self.dim), np.float32)
        batches = list(plan_runs(tokens.lengths, self._threads))
        run = map if len(batches) == 1 or self._threads == 1 else self._pool.map
        for rows, found in zip(batches, run(partial(self._run_batch, tokens), batches), strict=True):
            vectors[rows] = found
        return vectors

    def _run_batch(self, tokens: TokenTable, rows: Ints) -> Vectors:
        # At least two tokens: a product of a single row is added up in another order.
        longest = max(2, int(tokens.lengths[rows].max()))
        part = TokenTable(tokens.ids[rows, :longest], tokens.lengths[rows])
        result: Vectors = self._session.run(None, {"input_ids": part.ids, "attention_mask": part.mask})[0]
        return result


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


def plan_runs(lengths: Ints, threads: int) -> Iterator[Ints]:
    """Rows of each run: the cheapest runs of similar lengths, longest first, with work for every thread.

    A run costs its tokens with padding, and `_RUN_COST`. The split of the sorted rows with the least sum is found by
    dynamic programming from the shortest row on.

    Args:
        lengths: [texts] tokens of each text.

    Yields:
        Row numbers; at most `TOKEN_BUDGET` tokens with padding, unless one text alone has more.
    """
    order = np.argsort(-lengths, kind="stable")
    share = int(lengths.sum()) // threads if threads > 1 else TOKEN_BUDGET
    budget = min(TOKEN_BUDGET, max(_LEAST_TOKENS, share))
    counts, costs, ends = np.arange(1, budget + 1), np.zeros(len(order) + 1, np.int64), [0] * len(order)
    for start in range(len(order) - 1, -1, -1):
        longest = max(1, int(lengths[order[start]]))
        most = max(1, min(len(order) - start, budget // longest))
        of_run = longest * counts[:most] + costs[start + 1 : start + 1 + most]
        best = int(of_run.argmin())
        costs[start] = of_run[best] + _RUN_COST
        ends[start] = start + 1 + best
    start = 0
    while start < len(order):
        yield order[start : ends[start]]
        start = ends[start]
