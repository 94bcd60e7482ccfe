"""The networks that a running server has loaded: small files in the folder it runs from.

The supervisor writes the table of loaded networks. `recommend` writes which of them it answers with: these
stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import numpy as np

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import ModelNotLoadedError
from recserve_server_ext.common.files import changed_at, write_file
from recserve_server_ext.networks.network import MAX_ROWS, Behaviours, NetworkManifest, Tensors, padded

TABLE: Final = "networks.json"
SERVING: Final = "serving_networks.json"
T = TypeVar("T")


class LoadedNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network with a model on Triton.

    Attributes:
        model: Name of the model.
    """

    model: str
    manifest: NetworkManifest


def write_table(folder: Path, networks: Sequence[LoadedNetwork]) -> None:
    """Write the table of loaded networks."""
    write_file(folder / TABLE, msgspec.json.encode(list(networks)))


def read_serving(folder: Path) -> list[str]:
    """Fingerprints of the networks that `recommend` answers with; empty before it has written any."""
    return _read(folder / SERVING, list[str], [])


class ServedNetworks:
    """Calls any of the networks that are loaded."""

    def __init__(self, folder: Path, run: Callable[[str, Tensors], Vectors]) -> None:
        """
        Args:
            folder: Folder that the server runs from.
            run: Runs a model by name: [rows, dim] user vectors. Raises RequestError(unavailable).
        """
        self._folder = folder
        self._run = run

    def __call__(self, inputs: Sequence[Behaviours], fingerprint: str) -> Vectors:
        """[inputs, dim] user vectors; from any thread. Raises RequestError(unavailable)."""
        found = self._table().get(fingerprint)
        if found is None:
            raise RequestError(ErrorKind.UNAVAILABLE, f"the network {fingerprint} is not loaded; try again")
        parts = [inputs[start : start + MAX_ROWS] for start in range(0, len(inputs), MAX_ROWS)]
        return np.concatenate([self._run(found.model, padded(part, found.manifest)) for part in parts])

    def stamp(self) -> int:
        """A number that changes with the table."""
        return changed_at(self._folder / TABLE)

    def require(self, networks: Iterable[NetworkManifest]) -> None:
        """Raise ModelNotLoadedError unless all of these networks are loaded."""
        table = self._table()
        for network in networks:
            if network.fingerprint not in table:
                raise ModelNotLoadedError(f"network {network.fingerprint} is not loaded")

    def serve(self, networks: Iterable[NetworkManifest]) -> None:
        """Write that these networks are served now; only `recommend` calls it."""
        found = sorted(network.fingerprint for network in networks)
        if found != read_serving(self._folder):
            write_file(self._folder / SERVING, msgspec.json.encode(found))

    def _table(self) -> dict[str, LoadedNetwork]:
        # A small file; the calls of a batch read it once.
        return {one.manifest.fingerprint: one for one in _read(self._folder / TABLE, list[LoadedNetwork], [])}


def _read(path: Path, kind: type[T], otherwise: T) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return otherwise
