"""Networks of spaces: the exported user side of a trained space, and what it takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np

from recserve_server_ext.common.arrays import Floats, Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.common.files import reading

#: Files of a network, in the folder of its space; the last two of one with a decoder.
NETWORK: Final = "network.onnx"
CANONICAL: Final = "canonical.npz"
DECODER: Final = "decoder.onnx"
CODEBOOKS: Final = "codebooks.npy"
Precision = Literal["fp32", "int8"]
#: Most rows of a request to a network.
MAX_ROWS: Final = 256


class NetworkManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a network takes.

    Attributes:
        fingerprint: SHA-256 of the file, shortened.
        dim: Length of the vectors that it takes and gives.
        length: Behaviours that it takes.
        precision: Of its products.
        levels: Codes of a semantic id that its decoder generates; 0 without a decoder.
    """

    fingerprint: str
    dim: int
    length: int
    precision: Precision = "fp32"
    levels: int = 0


class Decoder(NamedTuple):
    """Generates semantic ids from the output of a network; see `recserve_server_ext.networks.decoder`.

    Attributes:
        content: ONNX file: `user` and `codes` -> `log_probs` and `leaf`.
        codebooks: [levels, codes, dim] float32 centres that item vectors are quantised by.
    """

    content: bytes
    codebooks: Vectors


class Network(NamedTuple):
    """An exported network: `vectors`, `pauses` and `mask` of the last behaviours -> `vector` of the user.

    Attributes:
        content: The ONNX file.
        decoder: What generates ids from that vector; `None` where the vector is searched for.
        canonical: Its canonical vectors; see `recserve_server_ext.networks.canonical`.
    """

    manifest: NetworkManifest
    content: bytes
    decoder: Decoder | None = None
    canonical: bytes = b""


def new_network(
    content: bytes, dim: int, length: int, precision: Precision = "fp32", decoder: Decoder | None = None
) -> Network:
    """A network from the content of its ONNX file."""
    digest, levels = hashlib.sha256(content), 0
    if decoder is not None:
        levels = len(decoder.codebooks)
        digest.update(decoder.content + decoder.codebooks.tobytes())
    manifest = NetworkManifest(
        fingerprint=digest.hexdigest()[:16], dim=dim, length=length, precision=precision, levels=levels
    )
    return Network(manifest, content, decoder)


def write_network(folder: Path, network: Network) -> None:
    """Write the files of a network into the folder of its space."""
    (folder / NETWORK).write_bytes(network.content)
    (folder / CANONICAL).write_bytes(network.canonical)
    if network.decoder is not None:
        (folder / DECODER).write_bytes(network.decoder.content)
        np.save(folder / CODEBOOKS, network.decoder.codebooks)


def read_network(folder: Path, manifest: NetworkManifest | None, advice: str) -> Network | None:
    """The network in the folder of a space, `None` without one; raises SnapshotError where it is not that file."""
    if manifest is None:
        return None
    file = folder / NETWORK
    with reading(file, SnapshotError, advice):
        content, canonical, decoder = file.read_bytes(), (folder / CANONICAL).read_bytes(), None
        if manifest.levels:
            decoder = Decoder((folder / DECODER).read_bytes(), np.load(folder / CODEBOOKS))
    found = new_network(content, manifest.dim, manifest.length, manifest.precision, decoder)
    if found.manifest != manifest:
        raise SnapshotError(
            f"{file} is the network {found.manifest.fingerprint}, the manifest says {manifest.fingerprint}; {advice}"
        )
    return found._replace(canonical=canonical)


@dataclass(frozen=True, eq=False)
class Behaviours:
    """The last behaviours of one user, oldest first: one input of a network.

    Attributes:
        vectors: [behaviours, dim] float32.
        pauses: [behaviours] seconds since the behaviour before; 0 where that is not known.
    """

    vectors: Vectors
    pauses: Floats

    def newest(self, count: int) -> Behaviours:
        """The newest of these behaviours."""
        return Behaviours(self.vectors[-count:], self.pauses[-count:])

    def without(self, place: int) -> Behaviours:
        """The same without one behaviour; the pause of the next one grows."""
        pauses = np.delete(self.pauses, place)
        if place < len(pauses):
            pauses[place] += self.pauses[place]
        return Behaviours(np.delete(self.vectors, place, axis=0), pauses)


class Tensors(NamedTuple):
    """Tensors of a network.

    Attributes:
        vectors: [rows, length, dim] float32, the newest behaviour last.
        pauses: [rows, length] float32.
        mask: [rows, length] float32: 1 for a behaviour, 0 for the padding before the first.
    """

    vectors: Vectors
    pauses: Vectors
    mask: Vectors


def padded(inputs: Sequence[Behaviours], manifest: NetworkManifest) -> Tensors:
    """The inputs of several users, padded before their first behaviours; of longer ones the newest count."""
    length = manifest.length
    rows = Tensors(
        np.zeros((len(inputs), length, manifest.dim), np.float32),
        np.zeros((len(inputs), length), np.float32),
        np.zeros((len(inputs), length), np.float32),
    )
    for number, behaviours in enumerate(inputs):
        if count := min(len(behaviours.vectors), length):
            rows.vectors[number, -count:] = behaviours.vectors[-count:]
            rows.pauses[number, -count:] = behaviours.pauses[-count:]
            rows.mask[number, -count:] = 1.0
    return rows
