"""Selection of the exported encoder that a home uses."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from recserve_server_ext.common import cpu
from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.common.files import reading
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.manifest import EXPORT_AGAIN, MANIFEST, Precision, read_manifest
from recserve_server_ext.encoder.versions import active, newest_link

CHOICE = "choice.json"


class EncoderChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `choice.json` beside the encoder folders: the fastest encoder that `recserve export encoder` found.

    Attributes:
        fingerprint: Its fingerprint; the choice does not hold for another encoder.
        int8_arithmetic: Arithmetic of the CPU it was measured on; the choice does not hold for another kind of CPU.
    """

    precision: Precision
    fingerprint: str
    int8_arithmetic: str


def read_choice(workspace: Workspace) -> Precision | None:
    """The precision chosen by measurement for these encoders on this kind of CPU, or `None`; raises EncoderError."""
    path = workspace.encoder / CHOICE
    if not path.exists():
        return None
    with reading(path, EncoderError, EXPORT_AGAIN):
        choice = msgspec.json.decode(path.read_bytes(), type=EncoderChoice)
    folder = workspace.encoder / choice.precision
    if choice.int8_arithmetic != cpu.int8_arithmetic() or not (folder / MANIFEST).is_file():
        return None
    return choice.precision if read_manifest(folder, verify=False).fingerprint == choice.fingerprint else None


def choose_encoder(workspace: Workspace, precision: Precision | Literal["auto"] = "auto") -> Path:
    """The encoder folder to use: the served encoder if it has this precision, else the newest of this precision.

    `auto` takes the served encoder of any precision, or the precision chosen by measurement. Without a choice for this
    kind of CPU it takes `int8` where that was exported and the CPU has int8 dot products, else `fp32`.

    Raises:
        EncoderError: No encoder was exported in that precision, a folder is in the place of its link, or a manifest
            cannot be read.
    """
    served = active(workspace)
    if served is not None and precision in ("auto", served.usable().precision):
        return served.folder
    if precision == "auto":
        has_int8 = (newest_link(workspace.encoder, "int8") / MANIFEST).is_file()
        by_cpu: Precision = "int8" if cpu.has_int8_dot_product() and has_int8 else "fp32"
        precision = read_choice(workspace) or by_cpu
    folder = newest_link(workspace.encoder, precision)
    if not (folder / MANIFEST).is_file():
        raise EncoderError(f"no {precision} encoder in {workspace.encoder}; make one with: recserve export encoder")
    return folder
