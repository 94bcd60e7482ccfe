"""The ways to encode texts in process, each in a process of its own.

Run as ``python -m recserve_benchmarks.encode.systems SYSTEM ENCODER SOURCE``; see `recserve_benchmarks.harness.worker`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from recserve_benchmarks.encode.peers import PEERS, Encode
from recserve_benchmarks.harness.worker import Worker, work_on_jobs
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.encoder.manifest import MODEL, TOKENIZER, read_manifest
from recserve_server_ext.encoder.text_encoder import TextEncoder

#: Texts of a job whose vectors come back, to be compared with those of the other systems.
COMPARED: Final = 32


class EncodeJob(msgspec.Struct, frozen=True):
    """Texts to encode while the clock runs.

    Attributes:
        texts: The texts.
        batch: Texts of one batch, where a system leaves that to its caller.
    """

    texts: list[str]
    batch: int


class EncodeCost(msgspec.Struct, frozen=True):
    """What they cost.

    Attributes:
        texts: Number of them.
        cpu_s: CPU seconds of the process, all threads.
        wall_s: Seconds that passed.
        vectors: float32 bytes of the first `COMPARED` vectors.
    """

    texts: int
    cpu_s: float
    wall_s: float
    vectors: bytes

    @property
    def texts_per_s(self) -> float:
        """Texts a second."""
        return self.texts / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU a text."""
        return self.cpu_s / self.texts * 1e6


def torch_sentence_transformers(encoder: Path, source: Path) -> Encode:
    """`SentenceTransformer.encode` on the folder that the encoder was exported from, with a thread for each core."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(cpu.usable_cores())
    model = SentenceTransformer(str(source), device="cpu", local_files_only=True)
    model.max_seq_length = read_manifest(encoder, verify=False).max_tokens

    def encode(texts: Sequence[str], batch: int) -> Vectors:
        # The prompt is in the texts already; an empty one keeps the model's default prompt away.
        vectors: Vectors = model.encode(
            list(texts), prompt="", batch_size=batch, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    return encode


def onnx_plain(encoder: Path, source: Path) -> Encode:
    """What one would write first: one session as it comes, batches in the order given, padded to their longest."""
    import onnxruntime
    from tokenizers import Tokenizer

    session = onnxruntime.InferenceSession(str(encoder / MODEL), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(encoder / TOKENIZER))
    tokenizer.enable_padding()

    def encode(texts: Sequence[str], batch: int) -> Vectors:
        vectors = []
        for start in range(0, len(texts), batch):
            rows = tokenizer.encode_batch(list(texts[start : start + batch]))
            ids = np.array([row.ids for row in rows], np.int64)
            mask = np.array([row.attention_mask for row in rows], np.int64)
            vectors.append(session.run(None, {"input_ids": ids, "attention_mask": mask})[0])
        return np.concatenate(vectors)

    return encode


def embedded_in_process(encoder: Path, source: Path) -> Encode:
    """`TextEncoder`, which is what serving runs."""
    ours = TextEncoder(encoder)
    return lambda texts, batch: ours.encode(texts, role="query")


SYSTEMS: Final = {system.__name__: system for system in (torch_sentence_transformers, onnx_plain, embedded_in_process)}


def load(system: str, encoder: Path, source: Path) -> Encode:
    """A system or a peer; every one puts the encoder's prompt for queries before its texts, as `embed` does."""
    if system == embedded_in_process.__name__:
        return embedded_in_process(encoder, source)
    plain = SYSTEMS[system](encoder, source) if system in SYSTEMS else PEERS[system].load(encoder, source)
    prompt = read_manifest(encoder, verify=False).prompts.query
    return lambda texts, batch: plain([prompt + text for text in texts], batch)


def start(system: str, encoder: Path, source: Path) -> Worker[EncodeCost]:
    """The process of a system or a peer."""
    # Without these transformers looks for a newer model on its hub and prints advice between the progress bars.
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "true"}
    # infinity tells its makers about its use otherwise.
    quiet["DO_NOT_TRACK"] = "1"
    module = "recserve_benchmarks.encode.systems"
    return Worker(module, system, str(encoder), str(source), answer=EncodeCost, environment=quiet)


def timed(encode: Encode, job: EncodeJob) -> EncodeCost:
    """Encode the texts of a job by the clock."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    vectors = encode(job.texts, job.batch)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    return EncodeCost(len(job.texts), cpu_s, wall_s, vectors[:COMPARED].astype("<f4").tobytes())


if __name__ == "__main__":
    encode = load(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    work_on_jobs(EncodeJob, lambda job: timed(encode, job))
    os._exit(0)  # infinity's threads would keep the process
