"""Check a stored encoder, or the one that a server runs, against its canonical vectors."""

from __future__ import annotations

from pathlib import Path

from recserve_client import Client, RecserveError
from recserve_export.encoder.checks.canonical import Verified, compare_canonical, read_canonical
from recserve_export.errors import ExportError, FidelityError
from recserve_server_ext.common import cpu
from recserve_server_ext.encoder.manifest import read_manifest


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
    try:
        with Client(address) as client:
            served = client.server_info().encoder
            fingerprint, _, arithmetic = served.partition("+")
            if fingerprint != manifest.fingerprint:
                raise FidelityError(f"{address} serves encoder {served}, {folder} holds {manifest.fingerprint}")
            vectors = client.embed(canonical.texts)
    except RecserveError as error:
        raise ExportError(f"{address} does not answer: {error}; is a server running there?") from error
    return compare_canonical(canonical, manifest.precision, vectors, arithmetic or cpu.int8_arithmetic())
