"""The systems that encode texts in process: recserve, sentence-transformers, onnxruntime, fastembed and infinity."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import numpy as np

from recserve_benchmarks.harness.worker import Worker
from recserve_export.encoder.source.folder import read_source
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.encoder.manifest import MODEL, TOKENIZER, read_manifest
from recserve_server_ext.encoder.text_encoder import TextEncoder

#: (texts, texts of one batch) -> unit vectors [texts, dim]. A system that batches by itself ignores the number.
Encode = Callable[[Sequence[str], int], Vectors]
#: Texts of a job whose vectors come back, to be compared with those of the other systems.
COMPARED: Final = 32
#: Files of a source that say which tokens are special.
_SPECIAL: Final = ("config.json", "special_tokens_map.json", "tokenizer_config.json")
#: Keeps transformers from its hub and its advice, and infinity from reporting its use.
_QUIET: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
    "DO_NOT_TRACK": "1",
}


class EncodeJob(NamedTuple):
    """Texts to encode while the clock runs, in batches of this size where a system leaves that to its caller."""

    texts: Sequence[str]
    batch: int


class EncodeCost(NamedTuple):
    """CPU time of the process for each text (all threads), and the vectors [texts, dim] of the first `COMPARED`."""

    texts_per_s: float
    cpu_us: float
    vectors: Vectors


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
    """What one would write first: one onnxruntime session, batches in the order given, padded to their longest."""
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
    """`TextEncoder`, which is what serving runs; it adds the prompt for queries itself."""
    ours = TextEncoder(encoder)
    return lambda texts, batch: ours.encode(texts, role="query")


def fastembed(encoder: Path, source: Path) -> Encode:
    """fastembed with the encoder's own ONNX file as a custom model, whose pooling is in the graph already."""
    library: Any = import_module("fastembed")
    described: Any = import_module("fastembed.common.model_description")
    manifest, name = read_manifest(encoder, verify=False), "recserve/encoder"
    library.TextEmbedding.add_custom_model(
        model=name,
        pooling=described.PoolingType.DISABLED,
        normalization=False,
        sources=described.ModelSource(hf=name),
        dim=manifest.dim,
        model_file=MODEL,
    )
    with TemporaryDirectory() as aside:
        _lay_out(encoder, read_source(source).model_folder, manifest.max_tokens, Path(aside))
        model = library.TextEmbedding(name, specific_model_path=aside, providers=["CPUExecutionProvider"])

    def encode(texts: Sequence[str], batch: int) -> Vectors:
        vectors: Vectors = np.stack(list(model.embed(list(texts), batch_size=batch))).astype(np.float32)
        return vectors

    return encode


def infinity(encoder: Path, source: Path) -> Encode:
    """infinity's engine of PyTorch on the folder that the encoder was exported from, with its own batching."""
    logging.disable(logging.WARNING)  # it sets up its own log when it is imported, between the progress bars
    library: Any = import_module("infinity_emb")
    # No BetterTransformer and no compilation: the versions of PyTorch beside it here have neither for it.
    arguments = library.EngineArgs(
        model_name_or_path=str(source),
        engine="torch",
        device="cpu",
        dtype="float32",
        bettertransformer=False,
        compile=False,
        model_warmup=False,
    )
    engine = library.AsyncEmbeddingEngine.from_args(arguments)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.astart())

    def encode(texts: Sequence[str], batch: int) -> Vectors:
        rows, _ = loop.run_until_complete(engine.embed(sentences=list(texts)))
        vectors: Vectors = np.stack(rows).astype(np.float32)
        return vectors

    return encode


SYSTEMS: Final = (torch_sentence_transformers, onnx_plain, embedded_in_process, fastembed, infinity)
#: Systems that are measured where their package is installed; no dependencies of recserve.
PEERS: Final = {"fastembed": "fastembed", "infinity": "infinity-emb"}


def start(system: str, encoder: Path, source: Path) -> Worker[EncodeJob, EncodeCost]:
    """The process of one of `SYSTEMS`, with an encoder and the folder that it was exported from."""
    return Worker(system, timed, system, encoder, source, environment=_QUIET)


def timed(system: str, encoder: Path, source: Path) -> Callable[[EncodeJob], EncodeCost]:
    """What encodes the texts of a job by the clock, with the encoder's prompt for queries before each."""
    encode = load(system, encoder, source)

    def work(job: EncodeJob) -> EncodeCost:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        vectors = encode(job.texts, job.batch)
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        count = len(job.texts)
        return EncodeCost(count / wall_s, cpu_s / count * 1e6, vectors[:COMPARED])

    return work


def load(system: str, encoder: Path, source: Path) -> Encode:
    """A system; every one puts the encoder's prompt for queries before its texts, as the model `embed` does."""
    encode = next(make for make in SYSTEMS if make.__name__ == system)(encoder, source)
    prompt = "" if system == embedded_in_process.__name__ else read_manifest(encoder, verify=False).prompts.query
    return lambda texts, batch: encode([prompt + text for text in texts], batch)


def _lay_out(encoder: Path, source: Path, max_tokens: int, folder: Path) -> None:
    """Fill a folder with the files that fastembed expects of a model."""
    for name in (MODEL, TOKENIZER):
        (folder / name).symlink_to((encoder / name).resolve())
    for name in _SPECIAL:
        path = source / name
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if name == "tokenizer_config.json":
            content["model_max_length"] = content["max_length"] = max_tokens
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
