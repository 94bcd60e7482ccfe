"""Vectors of an encoder as a server gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from recserve_client import Client, RecserveError
from recserve_export.errors import ExportError, FidelityError
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.encoder.manifest import EncoderManifest

#: Texts of one request; a server takes 256 by default.
_REQUEST: Final = 128


class ServedVectors(NamedTuple):
    """What a server answered.

    Attributes:
        vectors: [texts, dim] unit vectors of the texts as queries.
        arithmetic: int8 arithmetic of the server's CPU; empty where the encoder is not int8.
    """

    vectors: Vectors
    arithmetic: str


def served_vectors(address: str, folder: Path, manifest: EncoderManifest, texts: Sequence[str]) -> ServedVectors:
    """Vectors of texts by a server's model `embed`.

    Args:
        address: host:port of the server.
        folder: Folder of the encoder that it must run.
        manifest: Manifest of that encoder.
        texts: What to encode.

    Raises:
        FidelityError: The server runs another encoder.
        ExportError: It does not answer.
    """
    try:
        with Client(address) as client:
            served = client.server_info().encoder
            fingerprint, _, arithmetic = served.partition("+")
            if fingerprint != manifest.fingerprint:
                raise FidelityError(f"{address} serves encoder {served}, {folder} holds {manifest.fingerprint}")
            starts = range(0, len(texts), _REQUEST)
            vectors = [client.embed(list(texts[start : start + _REQUEST])) for start in starts]
            return ServedVectors(np.concatenate(vectors), arithmetic)
    except RecserveError as error:
        raise ExportError(f"{address} does not answer: {error}; is a server running there?") from error
