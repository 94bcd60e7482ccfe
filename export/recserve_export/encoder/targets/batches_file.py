"""`batches.json` of an encoder folder: texts/s by batch that were measured on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from recserve_export.encoder.report.report import SpeedPoint
from recserve_export.errors import ExportError
from recserve_server_ext.config.server import Provider

#: Lies beside the report; only GPU targets read it.
BATCHES: Final = "batches.json"
#: Names of what was measured.
SYSTEMS: Final[dict[Provider, str]] = {
    "cpu": "onnxruntime cpu",
    "cuda": "onnxruntime cuda",
    "tensorrt": "onnxruntime tensorrt",
}


def read_batches(encoder: Path) -> list[SpeedPoint]:
    """What was measured; none = nothing.

    Raises:
        ExportError: The file cannot be read.
    """
    path = encoder / BATCHES
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[SpeedPoint])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        raise ExportError(f"{path} cannot be read: {error}; remove it, or measure again") from error
