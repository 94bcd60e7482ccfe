"""Load check: loads a network in a process of its own and compares its canonical vectors, before a server loads it.

As a script, ``python -m recserve_server_ext.networks.load_check FOLDER MANIFEST`` writes a fault to standard error and
exits with code 1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import msgspec

from recserve_server_ext.common.child import fault_of
from recserve_server_ext.common.errors import ServerError, SpaceError
from recserve_server_ext.networks.canonical import check_canonical
from recserve_server_ext.networks.network import NetworkManifest, read_network

_ADVICE: Final = "train its space again on this machine, or go back with: recserve spaces rollback"


def try_in_process(folder: Path, manifest: NetworkManifest, timeout_s: float) -> None:
    """Check the network in the folder of a space in another process.

    Raises:
        SpaceError: It cannot be loaded, gives other vectors than where it was trained, or is slow.
    """
    if fault := fault_of(__name__, (str(folder), msgspec.json.encode(manifest).decode()), timeout_s):
        raise SpaceError(fault)


def main() -> None:
    """Check the network that the command line names."""
    folder, manifest = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=NetworkManifest)
    try:
        network = read_network(folder, manifest, _ADVICE)
        assert network is not None
        check_canonical(network, folder, _ADVICE)
    except ServerError as error:
        sys.exit(str(error).replace("\n", " "))


if __name__ == "__main__":
    main()
