"""Load check: loads an encoder in a process of its own and encodes a text, before a server loads it.

As a script, ``python -m recserve_server_ext.encoder.load_check FOLDER`` writes a fault to standard error and exits with
code 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from recserve_server_ext.common.child import fault_of
from recserve_server_ext.common.errors import EncoderError, ServerError

#: A broken encoder gives vectors whose length is further from 1.
_OFF = 1e-2
_SHOWN = 300


def check_length(length: float) -> None:
    """Raise EncoderError for a vector that is not of length 1."""
    if not abs(length - 1) <= _OFF:
        raise EncoderError(f"it gives a vector of length {length:.3g}, which must be 1; export it again")


def try_in_process(folder: Path, timeout_s: float) -> None:
    """Check an encoder folder in another process; raises EncoderError where it cannot be loaded, fails or is slow."""
    if fault := fault_of(__name__, [str(folder)], timeout_s):
        raise EncoderError(fault[:_SHOWN])


def main() -> None:
    """Check the folder that the command line names."""
    from recserve_server_ext.encoder.text_encoder import TextEncoder

    try:
        (vector,) = TextEncoder(Path(sys.argv[1]), threads=1).encode(["space opera"])
        check_length(float(np.linalg.norm(vector)))
    except ServerError as error:
        sys.exit(str(error).replace("\n", " "))


if __name__ == "__main__":
    main()
