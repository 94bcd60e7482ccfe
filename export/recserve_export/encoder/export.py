"""Encoder export: a model's folder -> encoder folders that can be served, checked before they are published.

torch and transformers are imported only when there is something to export.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from recserve_export.encoder import recipe
from recserve_export.encoder.checks.fidelity_gate import DEFAULT_GATE, Gate, check_gate
from recserve_export.encoder.checks.texts import texts_name
from recserve_export.encoder.lock import only_export
from recserve_export.encoder.report.report import REPORT, EncoderReport, read_report
from recserve_export.encoder.source.folder import NO_OPTIONS, EncoderSource, SourceOptions, read_source
from recserve_export.encoder.source.hub import resolve
from recserve_export.encoder.targets.targets import DEFAULT_MAX_BATCH, WrittenTarget, suiting, write_target
from recserve_export.errors import ExportError
from recserve_export.stages import Stage, silent
from recserve_server_ext.common import cpu
from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.common.files import write_json
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import Target
from recserve_server_ext.encoder.manifest import INT8, EncoderManifest, Precision, read_manifest
from recserve_server_ext.encoder.selection import read_choice
from recserve_server_ext.encoder.versions import link_to, new_version, versions
from recserve_server_ext.triton.encoder_target import CONFIG, model_folder, targets_of

if TYPE_CHECKING:
    from recserve_export.encoder.make import Maker

#: Written where it is missing, whatever is asked for.
_DEFAULT: Final[Target] = "embedded"


@dataclass(frozen=True)
class Exported:
    """One encoder folder after an export.

    Attributes:
        folder: Where it is: the link of its precision.
        manifest: Manifest of the encoder.
        is_new: Whether it was made just now, or was up to date.
        targets: Triton model folders that were written just now.
    """

    folder: Path
    manifest: EncoderManifest
    is_new: bool
    targets: tuple[WrittenTarget, ...] = ()

    def report(self) -> EncoderReport:
        """The figures measured when it was made.

        Raises:
            ExportError: The report is missing or cannot be read.
        """
        return read_report(self.folder)


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What an export is asked for, besides its source.

    Attributes:
        gate: The least figures.
        texts: File with one text a line to calibrate, check and measure with; `None` takes the films.
        exporter: What traces the model.
        force: Make the encoders anew even when they are up to date.
        targets: Triton model folders to write anew; without any, `embedded` where it is missing.
        max_batch: Texts of one batch of a target.
    """

    gate: Gate = DEFAULT_GATE
    texts: Path | None = None
    exporter: recipe.Exporter = "torch"
    force: bool = False
    targets: tuple[Target, ...] = ()
    max_batch: int = DEFAULT_MAX_BATCH


def export_encoder(
    model: Path | str | None,
    workspace: Workspace,
    precision: Precision | Literal["auto"] = "fp32",
    *,
    options: SourceOptions = NO_OPTIONS,
    settings: ExportSettings | None = None,
    stage: Stage = silent,
) -> list[Exported]:
    """Export a model into `workspace.encoder`, a version per precision; what is up to date is left alone.

    What is served stays. int8 is made from fp32, which is exported first where it is missing or out of date.

    Args:
        model: A Hugging Face or sentence-transformers folder, or a name on the hub; `None` takes the default model.
        workspace: Where to put it.
        precision: What to make; `auto` makes fp32 and the fastest on this machine that passes the gate.
        options: What to read of the source: pooling, length, dim, and what is allowed.
        settings: Gate, texts and targets.
        stage: Shows progress.

    Returns:
        fp32 where it was asked for or is new, then int8 where it was asked for or won.

    Raises:
        ExportError: The source cannot be used, the export does not agree with it, or it cannot be written.
            Nothing half-made is left, and an earlier export stays.
    """
    settings = settings or ExportSettings()
    found = None if model is None else resolve(str(model), options)
    source = read_source(options=options) if found is None else read_source(found.folder, options, name=found.name)
    job = _Job(source, source.sha256(), workspace, settings, texts_name(settings.texts), stage)
    if precision != "auto":  # refused before anything is made
        suiting([precision], settings.targets)
    if (done := job.up_to_date(precision)) is not None and not any(job.targets_of(one) for one in done):
        return done
    try:
        with only_export(workspace.encoder):
            # Another process may have made it while this one waited for the lock or for nothing.
            done = job.up_to_date(precision) or job.make(precision)
            suiting([one.manifest.precision for one in done], settings.targets)
            return [job.with_targets(one) for one in done]
    except OSError as error:
        raise ExportError(f"cannot write the encoder to {workspace.encoder}: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Job:
    source: EncoderSource
    source_sha256: str
    workspace: Workspace
    settings: ExportSettings
    texts: str
    stage: Stage

    def up_to_date(self, precision: Precision | Literal["auto"]) -> list[Exported] | None:
        """What is there already, if nothing is to be made."""
        if self.settings.force:
            return None
        if precision != "auto":
            found = self._current(precision)
            if found is None:
                return None
            report = found.report()
            check_gate(report.what, report.fidelity, self.settings.gate)
            return [found]
        fp32 = self._current("fp32")
        chosen = _read_choice(self.workspace)
        winner = None if chosen is None else self._current(chosen)
        if fp32 is None or winner is None or not self._would_choose_again(winner.report()):
            return None
        return [fp32] if chosen == "fp32" else [fp32, winner]

    def targets_of(self, one: Exported) -> list[Target]:
        """The Triton model folders to write of an encoder."""
        able = targets_of(one.manifest.precision)
        if self.settings.targets:
            return [target for target in self.settings.targets if target in able]
        is_missing = not (model_folder(one.folder, _DEFAULT) / CONFIG).is_file()
        return [_DEFAULT] if _DEFAULT in able and is_missing else []

    def with_targets(self, one: Exported) -> Exported:
        """Write the Triton model folders of an encoder."""
        targets, report, written = self.targets_of(one), one.report(), []
        with self.stage("write Triton models", len(targets)) as advance:
            for target in targets:
                try:
                    written.append(write_target(one.folder, one.manifest, report, target, self.settings.max_batch))
                except OSError as error:
                    raise ExportError(
                        f"{one.folder} is complete, but its Triton model folder for {target} cannot be written: "
                        f"{error.strerror or error}; the same command again writes what is missing"
                    ) from error
                advance(1)
        return replace(one, targets=tuple(written))

    def make(self, precision: Precision | Literal["auto"]) -> list[Exported]:
        """Make what is missing, out of date or forced."""
        from recserve_export.encoder.make import Maker

        settings = self.settings
        maker = Maker(self.source, self.source_sha256, settings.exporter, settings.gate, settings.texts, self.stage)
        is_wanted = precision in ("auto", "fp32")
        fp32 = None if settings.force and is_wanted else self._current("fp32")
        if fp32 is None:
            fp32 = self._make(maker, "fp32", is_named=precision == "fp32", has_speeds=precision != "auto")
        done = [fp32] if is_wanted or fp32.is_new else []
        if precision == "auto":
            from recserve_export.encoder.precision_choice import make_and_choose

            winner = make_and_choose(maker, self.workspace, fp32.report())
            if winner != "fp32":
                done.append(self._exported(winner, is_new=True))
        elif precision != "fp32":
            done.append(self._make(maker, precision, is_named=True))
        return done

    def _make(self, maker: Maker, precision: Precision, *, is_named: bool, has_speeds: bool = True) -> Exported:
        fp32 = self.workspace.encoder / "fp32"
        with new_version(self.workspace.encoder, precision) as aside:
            report = maker.make(aside, precision, fp32)
            if is_named:
                check_gate(report.what, report.fidelity, self.settings.gate)
            others: dict[Precision, Path] = {} if precision == "fp32" else {"fp32": fp32}
            if has_speeds:
                maker.write_report(aside, report, maker.measure({**others, precision: aside}))
            else:  # all candidates are measured at once
                write_json(aside / REPORT, report)
        return self._exported(precision, is_new=True)

    def _exported(self, precision: Precision, *, is_new: bool) -> Exported:
        folder = self.workspace.encoder / precision
        return Exported(folder, read_manifest(folder, verify=False), is_new)

    def _current(self, precision: Precision) -> Exported | None:
        """The newest encoder that this job would make in the same way from the same source and texts."""
        for version in reversed(versions(self.workspace.encoder)):
            is_it = version.manifest is not None and version.manifest.precision == precision
            if is_it and self._is_current(version.folder, precision):
                link_to(self.workspace.encoder, version)
                return self._exported(precision, is_new=False)
        return None

    def _is_current(self, folder: Path, precision: Precision) -> bool:
        try:
            manifest = read_manifest(folder)
            same = manifest.versions.get(recipe.RECIPE) == recipe.recipe(precision, self.settings.exporter)
            same = same and manifest.source_sha256 == self.source_sha256
            return same and read_report(folder).texts == self.texts
        except (EncoderError, ExportError):  # missing, damaged or of another version
            return False

    def _would_choose_again(self, report: EncoderReport) -> bool:
        """Whether `auto` would choose among the same candidates by the same gate on the same kind of CPU."""
        made = {one.precision: one.recipe for one in report.candidates}
        now = {precision: recipe.recipe(precision, self.settings.exporter) for precision in ("fp32", *INT8)}
        same_cpu = report.machine.int8_arithmetic == cpu.int8_arithmetic()
        return made == now and report.gate == self.settings.gate and same_cpu


def _read_choice(workspace: Workspace) -> Precision | None:
    try:
        return read_choice(workspace)
    except EncoderError:
        return None
