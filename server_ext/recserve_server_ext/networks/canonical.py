"""Canonical vectors of a network: those of made histories, kept beside it to check that it still gives them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import SpaceError
from recserve_server_ext.networks.decoder import CODES, DecoderRunner, quantised
from recserve_server_ext.networks.network import CANONICAL, NETWORK, Decoder, Network, Precision, Tensors, new_network
from recserve_server_ext.networks.runner import NetworkRunner

HISTORIES: Final = 17
#: Greatest distance of an output from the one that was kept, in lengths of that: other CPUs sum in another order, and
#: then some values are rounded to another int8.
MOST_OFF: Final[Mapping[Precision, float]] = {"fp32": 1e-4, "int8": 0.01}


def trained_network(
    content: bytes, dim: int, length: int, precision: Precision = "fp32", decoder: Decoder | None = None
) -> Network:
    """A network from the content of its ONNX file, with what it gives on this machine."""
    network = new_network(content, dim, length, precision, decoder)
    histories, buffer = made_histories(dim, length, HISTORIES), io.BytesIO()
    given: dict[str, Any] = {"vector": NetworkRunner(content).run(histories)}
    if decoder is not None:
        given[CODES] = quantised(given["vector"], decoder.codebooks)
        given |= DecoderRunner(decoder)(given["vector"], given[CODES])._asdict()
    np.savez(buffer, **histories._asdict(), **given)
    return network._replace(canonical=buffer.getvalue())


def check_canonical(network: Network, folder: Path, advice: str) -> None:
    """Check that a network gives on this machine what it gave on the one that trained it.

    Args:
        network: The network.
        folder: Where it comes from, for the message.
        advice: What to do where it does not.

    Raises:
        SpaceError: It gives something else, or there is nothing to compare with.
    """
    try:
        kept = dict(np.load(io.BytesIO(network.canonical)))
        found = {"vector": NetworkRunner(network.content).run(Tensors(*(kept[name] for name in Tensors._fields)))}
        if network.decoder is not None:
            found |= DecoderRunner(network.decoder)(kept["vector"], kept[CODES])._asdict()
        off = {name: _distances(of, kept[name]) for name, of in found.items()}
    except Exception as error:  # those of zipfile, numpy and onnxruntime share no base class
        raise SpaceError(f"{folder / NETWORK} cannot be compared with {CANONICAL}: {error}; {advice}") from error
    most = MOST_OFF[network.manifest.precision]
    for name, distances in off.items():
        worst = int(np.argmax(distances))
        if distances[worst] > most:
            raise SpaceError(
                f"{folder / NETWORK} does not give what it gave where it was trained: {name} of history {worst} in "
                f"{CANONICAL} is off by {distances[worst]:.3g} of its length, over {most}; {advice}"
            )


def made_histories(dim: int, length: int, rows: int) -> Tensors:
    """Random inputs of histories of all lengths, an empty one among them."""
    random = np.random.default_rng(0)
    counts = np.linspace(0, length, rows).astype(np.int64)
    mask = (np.arange(length) >= length - counts[:, None]).astype(np.float32)
    vectors = random.standard_normal((rows, length, dim)).astype(np.float32) * mask[..., None]
    pauses = 10.0 ** random.uniform(0, 7, (rows, length))
    return Tensors(vectors, pauses.astype(np.float32) * mask, mask)


def _distances(found: Vectors, kept: Vectors) -> Any:
    """[rows] Euclidean distances in lengths of what was kept; NaN counts as the greatest."""
    rows = len(kept)
    off = np.linalg.norm((found - kept).reshape(rows, -1), axis=1) / np.linalg.norm(kept.reshape(rows, -1), axis=1)
    return np.where(np.isfinite(off), off, np.inf)
