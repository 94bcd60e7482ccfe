"""The gate where an encoder runs: a server's model `embed`, or a GPU in this process, against fp32 on this CPU.

This is how what the export cannot run is gated: fp16 on a GPU, a TensorRT plan. fp32 on the CPU was held against
PyTorch when it was exported (least cosine 0.9999), so neither torch nor the source is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from recserve_client import Client, RecserveError
from recserve_export.encoder.checks import fidelity
from recserve_export.encoder.checks.texts import sample_texts
from recserve_export.encoder.report.report import Agreement, Neighbours
from recserve_export.errors import ExportError, FidelityError
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.config.server import Provider
from recserve_server_ext.encoder.manifest import EncoderManifest, read_manifest
from recserve_server_ext.encoder.text_encoder import TextEncoder

#: Texts of one request; a server takes 256 by default.
_REQUEST: Final = 128


def gate_encoder(
    folder: Path, against: Path, *, server: str | None, provider: Provider | None, texts: Path | None
) -> tuple[Agreement, Neighbours]:
    """Compare an encoder where it runs with fp32 on this CPU, on the texts of the export's own gate.

    Args:
        folder: Of the encoder.
        against: Of an fp32 encoder of the same model.
        server: host:port of a server that runs it.
        provider: Of onnxruntime, to run it in this process; used where no server is given.
        texts: File with one text a line; none = the films.

    Returns:
        How the vectors agree.

    Raises:
        ServerError: A folder is missing or damaged, or the provider cannot be had.
        ExportError: The two are not of one model, the server does not answer or runs another encoder.
    """
    manifest = read_manifest(folder)
    reference = TextEncoder(against)
    _check_same_model(manifest, reference.manifest, against)
    checked = list(sample_texts(texts).checked)
    if server is not None:
        found = _served(server, manifest, checked)
    else:
        from recserve_server_ext.encoder.gpu import GpuEncoder

        found = GpuEncoder(folder, provider or "cuda").encode(checked)
    expected = reference.encode(checked, role="query")
    return fidelity.compare(found, expected), fidelity.measure_neighbours(found, expected)


def measure_where_it_runs(folder: Path, provider: Provider) -> dict[Path, list[int]]:
    """Measure texts/s by batch on a provider of this machine, and write the preferred batches of its configurations.

    Returns:
        The configurations that were written, and their preferred batches.

    Raises:
        ServerError: The folder is damaged, or the provider cannot be had.
        ExportError: The files cannot be read or written.
    """
    from recserve_export.encoder.targets.batches import keep_batches, measure_batches
    from recserve_server_ext.encoder.gpu import GpuEncoder

    encoder = GpuEncoder(folder, provider)
    points = measure_batches(encoder.run, vocabulary=encoder.vocabulary, widths=encoder.widths, provider=provider)
    try:
        return keep_batches(folder, provider, points)
    except OSError as error:
        raise ExportError(f"cannot write the batches of {folder}: {error.strerror or error}") from error


def _check_same_model(manifest: EncoderManifest, reference: EncoderManifest, against: Path) -> None:
    if reference.precision != "fp32":
        raise ExportError(f"{against} is {reference.precision}; give an fp32 encoder with --against")
    for name in ("source_sha256", "pooling", "dim", "max_tokens", "prompts"):
        here, there = getattr(manifest, name), getattr(reference, name)
        if here != there:
            raise ExportError(
                f"{against} is of another model: {name} is {there}, not {here}; export fp32 from the same source"
            )


def _served(address: str, manifest: EncoderManifest, texts: list[str]) -> Vectors:
    try:
        with Client(address) as client:
            served = client.server_info().encoder.partition("+")[0]
            if served != manifest.fingerprint:
                raise FidelityError(f"{address} serves encoder {served}, the folder holds {manifest.fingerprint}")
            starts = range(0, len(texts), _REQUEST)
            return np.concatenate([client.embed(texts[start : start + _REQUEST]) for start in starts])
    except RecserveError as error:
        raise ExportError(f"{address} does not answer: {error}; is a server running there?") from error
