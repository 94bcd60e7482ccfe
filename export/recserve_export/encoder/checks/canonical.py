"""Canonical vectors: those of twenty texts, kept beside an encoder to check that it still gives them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from recserve_export.encoder.checks.served import served_vectors
from recserve_export.errors import ExportError, FidelityError
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.files import write_file
from recserve_server_ext.encoder.manifest import INT8, EncoderManifest, read_manifest

CANONICAL: Final = "canonical.json"
#: Scripts, signs and lengths, the last one longer than most encoders take.
TEXTS: Final = (
    "a",
    "Alien",
    "space opera",
    "Star Wars: Episode IV \u2013 A New Hope",
    "a heist goes wrong",
    "A robot falls in love with another robot on an abandoned planet.",
    "1917",
    "12 Angry Men",
    "don't  STOP,\tnow!",
    "Amélie",
    "Łódź, København, İstanbul, Straße",
    "千と千尋の神隠し",
    "기생충",
    "Солярис",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "🎬🍿",
    "€100, 5 km² and C++ in a_b-c/d@e.f",
    "romance, drama, crime, thriller, comedy, animation, war, western, musical, horror",
    "A retired detective returns to the city where he began, and finds that nobody remembers him. " * 40,
)
#: Least cosine with the vectors of the export: other versions of onnxruntime sum in another order.
LEAST_SAME_COS: Final = 0.9999
#: The same where a GPU computes with fewer bits than the CPU of the export.
LEAST_GPU_COS: Final = {"fp16": 0.999, "bf16": 0.99}
#: Least cosine with PyTorch's vectors where int8 has another arithmetic.
LEAST_OTHER_COS: Final = 0.97


class Canonical(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `canonical.json`. Vectors are base64 of little-endian float32, [20, dim], with the query prompt.

    Attributes:
        fingerprint: Fingerprint of the encoder, without its arithmetic.
        int8_arithmetic: int8 arithmetic of the CPU that exported it.
        dim: Length of a vector.
        texts: The texts.
        vectors: Vectors by the encoder at its export.
        pytorch: Vectors by the model it came from.
    """

    fingerprint: str
    int8_arithmetic: str
    dim: int
    texts: list[str]
    vectors: str
    pytorch: str


@dataclass(frozen=True)
class Verified:
    """What a comparison with the canonical vectors found.

    Attributes:
        texts: Number of texts.
        against: What the vectors were compared with: `export` or `PyTorch`.
        min_cos: Least cosine.
        least: Bound of the least cosine.
        other_arithmetic: Both kinds of int8 arithmetic where they differ, in words.
    """

    texts: int
    against: str
    min_cos: float
    least: float
    other_arithmetic: str = ""


def write_canonical(folder: Path, manifest: EncoderManifest, vectors: Vectors, pytorch: Vectors) -> None:
    """Keep the vectors of `TEXTS`, both [20, dim], beside an encoder."""
    content = Canonical(
        fingerprint=manifest.fingerprint,
        int8_arithmetic=cpu.int8_arithmetic(),
        dim=manifest.dim,
        texts=list(TEXTS),
        vectors=_packed(vectors),
        pytorch=_packed(pytorch),
    )
    write_file(folder / CANONICAL, msgspec.json.encode(content))


def read_canonical(folder: Path, manifest: EncoderManifest) -> Canonical:
    """The canonical vectors of an encoder.

    Raises:
        ExportError: They are missing, damaged or those of another encoder.
    """
    path = folder / CANONICAL
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Canonical)
        sizes = {_unpacked(part, found.dim).shape for part in (found.vectors, found.pytorch)}
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}; export again with --force") from error
    if found.fingerprint != manifest.fingerprint:
        raise ExportError(
            f"{path} belongs to encoder {found.fingerprint}, the folder holds {manifest.fingerprint}; export again"
        )
    if sizes != {(len(found.texts), manifest.dim)}:
        raise ExportError(f"{path} does not hold {len(found.texts)} vectors of {manifest.dim} elements; export again")
    return found


def compare_canonical(canonical: Canonical, precision: str, vectors: Vectors, arithmetic: str) -> Verified:
    """Compare vectors [20, dim] of the canonical texts with those that were kept.

    `arithmetic` is the int8 arithmetic of the CPU that made them.

    Raises:
        FidelityError: They are too far away; names the worst text.
    """
    if vectors.shape != (len(canonical.texts), canonical.dim):
        raise FidelityError(f"expected {len(canonical.texts)} vectors of {canonical.dim} elements, got {vectors.shape}")
    differs = precision in INT8 and arithmetic != canonical.int8_arithmetic
    kept = _unpacked(canonical.pytorch if differs else canonical.vectors, canonical.dim)
    against, least = (
        ("PyTorch", LEAST_OTHER_COS) if differs else ("export", LEAST_GPU_COS.get(precision, LEAST_SAME_COS))
    )
    cosines = np.einsum("td,td->t", vectors.astype(np.float64), kept.astype(np.float64))
    worst = int(cosines.argmin())
    note = f"exported with {canonical.int8_arithmetic}, this CPU has {arithmetic}" if differs else ""
    if not cosines[worst] >= least:
        raise FidelityError(
            f"the encoder gives other vectors than {against} did: cosine {cosines[worst]:.6f} < {least} for the text "
            f"{canonical.texts[worst][:40]!r}{f' ({note})' if note else ''}; export it again on this machine"
        )
    return Verified(len(cosines), against, float(cosines[worst]), least, note)


def _packed(vectors: Vectors) -> str:
    return base64.b64encode(vectors.astype("<f4").tobytes()).decode()


def _unpacked(text: str, dim: int) -> Vectors:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(-1, dim).astype(np.float32)


def verify_stored(folder: Path) -> Verified:
    """Load an encoder folder the way serving does and compare.

    Raises:
        ServerError: The folder is missing or damaged.
        ExportError: It has no canonical vectors, or gives others.
    """
    from recserve_server_ext.encoder.text_encoder import TextEncoder

    encoder = TextEncoder(folder)
    canonical = read_canonical(folder, encoder.manifest)
    vectors = encoder.encode(canonical.texts, role="query")
    return compare_canonical(canonical, encoder.manifest.precision, vectors, cpu.int8_arithmetic())


def verify_served(folder: Path, address: str) -> Verified:
    """Ask a server's model `embed` for the canonical texts of an encoder folder and compare.

    Raises:
        ServerError: The folder is missing or damaged.
        FidelityError: The server runs another encoder, or gives other vectors.
        ExportError: There are no canonical vectors, or the server does not answer.
    """
    manifest = read_manifest(folder)
    canonical = read_canonical(folder, manifest)
    served = served_vectors(address, folder, manifest, canonical.texts)
    return compare_canonical(canonical, manifest.precision, served.vectors, served.arithmetic or cpu.int8_arithmetic())
