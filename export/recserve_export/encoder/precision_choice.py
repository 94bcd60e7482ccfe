"""`--precision auto`: make every precision, measure all of them here, publish the fastest that passes the gate."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from recserve_export.encoder.make import Maker
from recserve_export.encoder.recipe import recipe
from recserve_export.encoder.report.report import Candidate, EncoderReport
from recserve_export.errors import FidelityError
from recserve_server_ext.common import cpu
from recserve_server_ext.common.files import write_json
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.manifest import INT8, Precision, read_manifest
from recserve_server_ext.encoder.selection import CHOICE, EncoderChoice
from recserve_server_ext.encoder.versions import new_version


def make_and_choose(maker: Maker, workspace: Workspace, fp32: EncoderReport) -> Precision:
    """Make the int8 encoders beside a published fp32, and publish the one that wins, if fp32 does not.

    Every candidate's figures go into the winner's report, and into that of fp32. Returns the winner.

    Raises:
        ExportError: An encoder cannot be made, or none passes the gate.
        OSError: The folder cannot be written.
    """
    published = workspace.encoder / "fp32"
    # Beside the encoders, so that the winner's files can be renamed.
    with TemporaryDirectory(dir=workspace.encoder, prefix=".candidates.", suffix=".tmp") as scratch:
        folders: dict[Precision, Path] = {"fp32": published}
        reports: dict[Precision, EncoderReport] = {"fp32": fp32}
        for precision in INT8:
            folders[precision] = Path(scratch) / precision
            folders[precision].mkdir()
            reports[precision] = maker.make(folders[precision], precision, published)
        speeds = maker.measure(folders)
        candidates = [
            Candidate(
                precision=precision,
                recipe=recipe(precision, maker.exporter),
                size_bytes=report.size_bytes,
                fidelity=report.fidelity,
                speed=speeds[precision],
                misses=maker.gate.misses(report.fidelity),
            )
            for precision, report in reports.items()
        ]
        winner = choose(candidates).precision
        candidates = [msgspec.structs.replace(one, is_chosen=one.precision == winner) for one in candidates]
        grids = maker.grids({precision: folders[precision] for precision in dict.fromkeys(("fp32", winner))})
        if winner != "fp32":
            with new_version(workspace.encoder, winner) as aside:
                for file in folders[winner].iterdir():
                    shutil.move(file, aside / file.name)
                maker.write_report(aside, reports[winner], speeds, candidates, grids[winner])
        maker.write_report(published, fp32, speeds, candidates, grids["fp32"])
    fingerprint = read_manifest(workspace.encoder / winner, verify=False).fingerprint
    choice = EncoderChoice(precision=winner, fingerprint=fingerprint, int8_arithmetic=cpu.int8_arithmetic())
    write_json(workspace.encoder / CHOICE, choice)
    return winner


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The fastest candidate that passes the gate, by the geometric mean of titles and descriptions per second.

    Raises:
        FidelityError: None passes.
    """
    passing = [one for one in candidates if not one.misses]
    if not passing:
        missed = "; ".join(f"{one.precision}: {', '.join(one.misses)}" for one in candidates)
        raise FidelityError(f"no precision passes the gate ({missed}); lower a bound, such as --min-overlap")
    return max(passing, key=lambda one: one.speed.titles * one.speed.descriptions)
