"""Texts/s by batch on a GPU, and the preferred batches that follow, kept beside the encoder for its GPU targets.

The export measures on the CPU that it runs on; this is measured on the machine that will serve, by `export gate`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from recserve_export.encoder.checks.texts import SEED
from recserve_export.encoder.report.report import SpeedPoint
from recserve_export.encoder.targets.batches_file import BATCHES, SYSTEMS, read_batches
from recserve_export.encoder.targets.targets import preferred_batches
from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.common.files import write_file
from recserve_server_ext.config.server import Provider
from recserve_server_ext.triton.encoder_target import CONFIG, CONFIGS, model_folder

_LENGTHS: Final = (8, 32, 128)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_ROUNDS: Final = 5


def measure_batches(
    run: Callable[[Ints, Ints], Vectors], *, vocabulary: int, widths: Sequence[int], provider: Provider
) -> list[SpeedPoint]:
    """Medians of rounds in which all shapes take turns, after one call of each.

    Args:
        run: Ids and mask [texts, tokens] -> vectors.
        vocabulary: Number of token ids.
        widths: That texts are padded to, ascending.
        provider: What runs it.
    """
    rng = np.random.default_rng(SEED)
    lengths = sorted({next((width for width in widths if width >= length), widths[-1]) for length in _LENGTHS})
    feeds = {
        (length, size): rng.integers(0, vocabulary, (size, length), np.int64) for length in lengths for size in _SIZES
    }
    for ids in feeds.values():  # memory, and on TensorRT the kernels
        run(ids, np.ones_like(ids))
    seconds: dict[tuple[int, int], list[float]] = defaultdict(list)
    for _ in range(_ROUNDS):
        for shape, ids in feeds.items():
            mask = np.ones_like(ids)
            begin = time.perf_counter()
            run(ids, mask)
            seconds[shape].append(time.perf_counter() - begin)
    return [SpeedPoint.of_calls(SYSTEMS[provider], *shape, times) for shape, times in seconds.items()]


def keep_batches(encoder: Path, provider: Provider, points: Sequence[SpeedPoint]) -> dict[Path, list[int]]:
    """Keep a measurement beside an encoder, and write the preferred batches into the configurations that are there.

    Nothing else of a configuration changes. A plan of TensorRT gets those of onnxruntime's TensorRT provider.

    Returns:
        The configurations that were written, and their preferred batches.

    Raises:
        ExportError: An earlier measurement cannot be read.
        OSError: A file cannot be written.
    """
    others = [point for point in read_batches(encoder) if point.system != SYSTEMS[provider]]
    write_file(encoder / BATCHES, msgspec.json.format(msgspec.json.encode([*others, *points]), indent=2))
    files = [model_folder(encoder, "onnxruntime") / CONFIGS / f"{provider}.pbtxt"]
    if provider == "tensorrt":
        files.append(model_folder(encoder, "tensorrt") / CONFIG)
    written: dict[Path, list[int]] = {}
    for file in files:
        if file.is_file():
            config = text_format.Parse(file.read_text(encoding="utf-8"), pb.ModelConfig())
            sizes = preferred_batches(points, SYSTEMS[provider], config.max_batch_size)
            del config.dynamic_batching.preferred_batch_size[:]
            config.dynamic_batching.preferred_batch_size.extend(sizes)
            config.dynamic_batching.SetInParent()
            write_file(file, text_format.MessageToString(config).encode())
            written[file] = list(sizes)
    return written
