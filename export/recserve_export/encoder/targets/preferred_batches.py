"""Preferred batches of Triton's dynamic batching, from texts/s by batch that were measured on the target.

The export measures on its CPU. What a GPU prefers is measured where it serves, by `recserve export gate --batches`, and
kept in `batches.json` beside the encoder for its GPU targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Final

import msgspec
import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from recserve_export.encoder.checks.speed import LENGTHS, SpeedPoint, measure_grid
from recserve_export.errors import ExportError
from recserve_server_ext.common.files import write_file, write_json
from recserve_server_ext.config.server import Provider
from recserve_server_ext.triton.encoder_target import CONFIG, CONFIGS, model_folder

BATCHES: Final = "batches.json"
#: Names of the providers in a `SpeedPoint`.
SYSTEMS: Final[dict[Provider, str]] = {
    "cpu": "onnxruntime cpu",
    "cuda": "onnxruntime cuda",
    "tensorrt": "onnxruntime tensorrt",
}
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_ROUNDS: Final = 5
#: Preferred batches on a GPU until they are measured there.
_GPU_BATCHES: Final = (8, 16, 32, 64)
#: A batch is preferred when it is at most this share slower than the best one.
_NEAR_BEST: Final = 0.95


def preferred_batches(grid: Sequence[SpeedPoint], system: str, most: int) -> tuple[int, ...]:
    """Sizes of batches that were measured to be worth waiting for no longer than the batcher does by itself.

    Those within 5% of the best (geometric mean over the lengths), ascending, up to `most` texts. None where one text
    alone is among them, for then no batch is better than another. `system` says whose points count.
    """
    points = [point for point in grid if point.system == system and point.batch <= most]
    means = {
        batch: geometric_mean(point.texts_per_s for point in points if point.batch == batch)
        for batch in {point.batch for point in points}
    }
    best = max(means.values(), default=0.0)
    near = sorted(batch for batch, mean in means.items() if mean >= _NEAR_BEST * best)
    return () if not near or near[0] == 1 else tuple(near)


def gpu_batches(encoder: Path, provider: Provider, most: int) -> tuple[int, ...]:
    """The preferred batches of a GPU's provider: as measured there, or the usual ones.

    Raises:
        ExportError: `batches.json` cannot be read.
    """
    points = [point for point in read_batches(encoder) if point.system == SYSTEMS[provider]]
    return preferred_batches(points, SYSTEMS[provider], most) if points else _GPU_BATCHES


def read_batches(encoder: Path) -> list[SpeedPoint]:
    """What was measured on GPUs.

    Raises:
        ExportError: `batches.json` cannot be read.
    """
    path = encoder / BATCHES
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[SpeedPoint])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        raise ExportError(f"{path} cannot be read: {error}; remove it, or measure again") from error


def measure_batches(encoder: Path, provider: Provider) -> dict[Path, list[int]]:
    """Measure texts/s by batch on a provider of this machine, and write the preferred batches of its configurations.

    Returns the preferred batches by configuration.

    Raises:
        ServerError: The folder is damaged, or the provider cannot be had.
        ExportError: The files cannot be read or written.
    """
    from recserve_server_ext.encoder.gpu import GpuEncoder

    runner = GpuEncoder(encoder, provider)
    widths = runner.widths
    points = measure_grid(
        {SYSTEMS[provider]: lambda ids: runner.run(ids, np.ones_like(ids))},
        runner.vocabulary,
        sorted({next((width for width in widths if width >= length), widths[-1]) for length in LENGTHS}),
        _SIZES,
        _ROUNDS,
    )
    try:
        return keep_batches(encoder, provider, points)
    except OSError as error:
        raise ExportError(f"cannot write the batches of {encoder}: {error.strerror or error}") from error


def keep_batches(encoder: Path, provider: Provider, points: Sequence[SpeedPoint]) -> dict[Path, list[int]]:
    """Keep a measurement beside an encoder, and write the preferred batches into the configurations that are there.

    Nothing else of a configuration changes. A plan of TensorRT gets those of onnxruntime's TensorRT provider. Returns
    the preferred batches by configuration.

    Raises:
        ExportError: An earlier measurement cannot be read.
        OSError: A file cannot be written.
    """
    others = [point for point in read_batches(encoder) if point.system != SYSTEMS[provider]]
    write_json(encoder / BATCHES, [*others, *points])
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
