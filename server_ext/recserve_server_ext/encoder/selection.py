"""Which exported encoder a home uses."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from recserve_server_ext.common import cpu
from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.manifest import MANIFEST, Precision, read_manifest
from recserve_server_ext.encoder.versions import active, newest_link

CHOICE = "choice.json"


class EncoderChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `choice.json` beside the encoder folders: what `recserve export encoder` found to be the fastest.

    Attributes:
        precision: The folder.
        fingerprint: Of the encoder in it; the choice says nothing about another one.
        int8_arithmetic: Of the CPU it was measured on; on another kind it says nothing, either.
    """

    precision: Precision
    fingerprint: str
    int8_arithmetic: str


def read_choice(workspace: Workspace) -> Precision | None:
    """The precision that was chosen by measurement for these encoders on this kind of CPU; none = none was.

    Raises:
        EncoderError: `choice.json` cannot be read.
    """
    path = workspace.encoder / CHOICE
    try:
        choice = msgspec.json.decode(path.read_bytes(), type=EncoderChoice)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise EncoderError(f"{path} cannot be read: {error}; export the encoder again") from error
    folder = workspace.encoder / choice.precision
    if choice.int8_arithmetic != cpu.int8_arithmetic() or not (folder / MANIFEST).is_file():
        return None
    return choice.precision if read_manifest(folder, verify=False).fingerprint == choice.fingerprint else None


def choose_encoder(workspace: Workspace, precision: Precision | Literal["auto"] = "auto") -> Path:
    """The encoder folder to use: the one that is served, if it has this precision, else the newest of it.

    `auto` is any precision; where nothing is served yet, what was chosen by measurement. Where nothing was (the
    precision was named, or this is another kind of CPU): `int8` where the CPU has int8 dot products and it was
    exported, else `fp32`.

    Raises:
        EncoderError: Nothing was exported in that precision, a folder is in the place of its link, or a manifest cannot
            be read.
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
