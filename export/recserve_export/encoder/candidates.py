"""`--precision auto`: make every precision, measure all of them here, publish the fastest that passes the gate."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from recserve_export.encoder.checks import fidelity
from recserve_export.encoder.make import Maker
from recserve_export.encoder.report import recipe as encoder_recipe
from recserve_export.encoder.report.report import Candidate, EncoderReport, Speed
from recserve_server_ext.common import cpu
from recserve_server_ext.common.files import write_file
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.manifest import INT8, Precision, read_manifest
from recserve_server_ext.encoder.selection import CHOICE, EncoderChoice
from recserve_server_ext.encoder.versions import new_version


def make_and_choose(maker: Maker, workspace: Workspace, fp32: EncoderReport) -> Precision:
    """Make the int8 encoders beside a published fp32, and publish the one that wins, if fp32 does not.

    Every candidate's figures go into the winner's report, and into that of fp32.

    Args:
        maker: Of the same source.
        workspace: Where fp32 is.
        fp32: Its report.

    Returns:
        The winner.

    Raises:
        ExportError: An encoder cannot be made, or none passes the gate.
        OSError: The folder cannot be written.
    """
    published = workspace.encoder / "fp32"
    with _scratch(workspace.encoder) as scratch:
        folders: dict[Precision, Path] = {"fp32": published}
        reports: dict[Precision, EncoderReport] = {"fp32": fp32}
        for precision in INT8:
            folders[precision] = scratch / precision
            folders[precision].mkdir()
            reports[precision] = maker.make_int8(folders[precision], precision, published)
        speeds = maker.measure(folders)
        candidates = [_candidate(maker, reports[one], speeds[one]) for one in folders]
        winner = fidelity.choose(candidates).precision
        candidates = [msgspec.structs.replace(one, is_chosen=one.precision == winner) for one in candidates]
        if winner != "fp32":
            with new_version(workspace.encoder, winner) as aside:
                for file in folders[winner].iterdir():
                    shutil.move(file, aside / file.name)
                maker.write_report(aside, reports[winner], speeds, candidates)
        maker.write_report(published, fp32, speeds, candidates)
    _write_choice(workspace, winner)
    return winner


def _write_choice(workspace: Workspace, winner: Precision) -> None:
    choice = EncoderChoice(
        precision=winner,
        fingerprint=read_manifest(workspace.encoder / winner, verify=False).fingerprint,
        int8_arithmetic=cpu.int8_arithmetic(),
    )
    write_file(workspace.encoder / CHOICE, msgspec.json.format(msgspec.json.encode(choice), indent=2))


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder aside that goes away; beside the encoders, so that the winner's files can be renamed."""
    aside = folder / f".candidates.{uuid.uuid4().hex}.tmp"
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _candidate(maker: Maker, report: EncoderReport, speed: Speed) -> Candidate:
    return Candidate(
        precision=report.precision,
        recipe=encoder_recipe.recipe(report.precision),
        size_bytes=sum(report.sizes_bytes.values()),
        agreement=report.agreement,
        neighbours=report.neighbours,
        speed=speed,
        misses=maker.gate.misses(report.agreement, report.neighbours),
    )
