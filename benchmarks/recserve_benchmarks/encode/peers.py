"""Other programs that encode texts, measured beside recserve where they are installed.

Neither is a dependency: `pip install fastembed infinity-emb` into the same environment has them measured.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from recserve_export.encoder.source.folder import read_source
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.encoder.manifest import MODEL, TOKENIZER, read_manifest

#: (texts, texts of one batch) -> unit vectors [texts, dim]. A system that batches by itself ignores the number.
Encode = Callable[[Sequence[str], int], Vectors]
#: Files of the source that say which tokens are special.
_SPECIAL: Final = ("config.json", "special_tokens_map.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Peer:
    """Another program.

    Attributes:
        module: That is imported.
        distribution: That is installed.
        load: Encoder folder and source folder -> what encodes.
    """

    module: str
    distribution: str
    load: Callable[[Path, Path], Encode]

    def version(self) -> str | None:
        """The installed version; none = it is not installed."""
        if find_spec(self.module) is None:
            return None
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return "unknown"


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
    # No BetterTransformer and no compilation: what is installed beside it here has neither for it.
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


PEERS: Final = {
    "fastembed": Peer("fastembed", "fastembed", fastembed),
    "infinity": Peer("infinity_emb", "infinity-emb", infinity),
}


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
