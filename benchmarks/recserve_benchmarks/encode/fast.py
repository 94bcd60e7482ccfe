"""The faster int8 encoder, which no export chooses by itself, made for the time of a run where it is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from recserve_export.encoder.checks.fidelity_gate import Gate
from recserve_export.encoder.recipe import RECIPE, recipe
from recserve_export.encoder.report.report import read_report
from recserve_export.errors import ExportError
from recserve_server_ext.common.cpu import has_int8_dot_product
from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.manifest import EncoderManifest, Precision, read_manifest

FAST: Final[Precision] = "int8-fast"
#: What it has to keep: fewer of the neighbours than an encoder that is served without being asked for.
FAST_GATE: Final = Gate(overlap=0.93)


@dataclass(frozen=True)
class FastEncoder:
    """The encoder, or why there is none.

    Attributes:
        folder: Its folder; none = it is not measured.
        absent: Why not; empty = it is measured.
        mean_cos: Mean cosine with PyTorch.
        overlap: Share of the ten nearest neighbours that are the same.
    """

    folder: Path | None = None
    absent: str = ""
    mean_cos: float = 0
    overlap: float = 0

    def figures(self) -> dict[str, float | str]:
        """For the results."""
        return {"absent": self.absent} if self.folder is None else {"mean_cos": self.mean_cos, "overlap": self.overlap}


@contextmanager
def fast_encoder(home: Path, served: EncoderManifest, source: Path) -> Iterator[FastEncoder]:
    """`int8-fast` of the same source: that of the home where it has one, else one that is made aside.

    Args:
        home: Whose encoder is measured.
        served: The manifest of that encoder.
        source: The folder that it was exported from.
    """
    if not has_int8_dot_product():
        yield FastEncoder(absent="this CPU has no int8 dot products")
    elif served.precision == FAST:
        yield FastEncoder(absent="it is what is served")
    elif (there := _in_home(home, served)) is not None:
        yield there
    else:
        with TemporaryDirectory() as aside:
            yield _made(source, Path(aside))


def _in_home(home: Path, served: EncoderManifest) -> FastEncoder | None:
    """That of the home, if an export would make it like this from the same source."""
    folder = Workspace(home).encoder / FAST
    try:
        manifest = read_manifest(folder)
        is_it = manifest.source_sha256 == served.source_sha256 and manifest.versions.get(RECIPE) == recipe(FAST)
        return _gated(folder) if is_it else None
    except (EncoderError, ExportError):  # missing, damaged, or with a report of another version
        return None


def _made(source: Path, home: Path) -> FastEncoder:
    """Export it in another process, so that torch takes no part in the measurement."""
    program = [sys.executable, "-m", "recserve_client.cli.main", "export", "encoder", str(source), "--home", str(home)]
    names = {"mean-cos": "mean_cos", "p01-cos": "p01_cos", "overlap": "overlap", "spearman": "spearman"}
    options = ["--precision", FAST, *(f"--min-{option}={getattr(FAST_GATE, name)}" for option, name in names.items())]
    ran = subprocess.run([*program, *options], capture_output=True, text=True, check=False)
    folder = Workspace(home).encoder / FAST
    if ran.returncode != 0:
        said = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
        why = said[-1].removeprefix("error: ").partition(";")[0] if said else ran.stderr[-200:]
        return FastEncoder(absent=f"it could not be made: {why}")
    return _gated(folder)


def _gated(folder: Path) -> FastEncoder:
    fidelity = read_report(folder).fidelity
    if misses := FAST_GATE.misses(fidelity):
        return FastEncoder(absent=f"it misses its gate: {', '.join(misses)}")
    return FastEncoder(folder, mean_cos=fidelity.mean_cos, overlap=fidelity.overlap)
