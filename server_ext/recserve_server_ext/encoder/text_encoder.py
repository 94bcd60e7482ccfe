"""Texts -> unit vectors with onnxruntime; the vector of a text does not depend on its batch, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.encoder.manifest import MODEL, EncoderManifest, Role, read_manifest
from recserve_server_ext.encoder.tokenizer import TextTokenizer, TokenTable, means_of_parts, most_parts

#: Most tokens (rows x longest row) of one run. Beyond 256 a run leaves the CPU's cache: 1,024 cost 15% more CPU for
#: titles and 80% for descriptions (Zen 3, 2 threads). Below 96 the matrix products are too small.
TOKEN_BUDGET = 192
#: Least tokens to part between threads: with 64 a text costs a quarter more, with 32 two thirds more.
_LEAST_TOKENS = 96
#: Tokens that would cost as much as what a run costs however short it is: docs/decisions/073-the-cheapest-runs.md.
_RUN_COST = 24


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
