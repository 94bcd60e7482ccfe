"""A model's folder -> encoder folders that can be served, checked before they are published.

torch, transformers and optimum are imported only when there is something to export.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from recserve_export import encoder_recipe
from recserve_export.encoder_recipe import Stage, silent
from recserve_export.encoder_report import REPORT, EncoderReport
from recserve_export.encoder_source import NO_OPTIONS, EncoderSource, SourceOptions, read_source
from recserve_export.errors import ExportError
from recserve_server_ext import cpu
from recserve_server_ext.durable import new_folder
from recserve_server_ext.encoder_manifest import EncoderManifest, Precision, read_manifest
from recserve_server_ext.errors import EncoderError
from recserve_server_ext.workspace import Workspace


@dataclass(frozen=True)
class Exported:
    """One encoder folder after an export.

    Attributes:
        folder: Where it is.
        manifest: Its manifest.
        is_new: Whether it was made just now, or was up to date.
    """

    folder: Path
    manifest: EncoderManifest
    is_new: bool

    def report(self) -> EncoderReport:
        """The figures measured when it was made.

        Raises:
            ExportError: The report is missing or cannot be read.
        """
        path = self.folder / REPORT
        try:
            return msgspec.json.decode(path.read_bytes(), type=EncoderReport)
        except (OSError, msgspec.MsgspecError) as error:
            raise ExportError(f"{path} cannot be read: {error}; export again with --force") from error


def choose_precisions(precision: Precision | Literal["auto"]) -> tuple[Precision, ...]:
    """What to export; `auto`: fp32, and int8 where the CPU has int8 dot products."""
    if precision == "auto":
        return ("fp32", "int8") if cpu.has_int8_dot_product() else ("fp32",)
    return (precision,)


def export_encoder(
    folder: Path | None,
    workspace: Workspace,
    precisions: Sequence[Precision] = ("fp32",),
    *,
    options: SourceOptions = NO_OPTIONS,
    force: bool = False,
    stage: Stage = silent,
) -> list[Exported]:
    """Export a model into `workspace.encoder`, one folder per precision; what is up to date is left alone.

    int8 is made from fp32, which is exported first where it is missing or out of date.

    Args:
        folder: A Hugging Face or sentence-transformers folder; none = the default model.
        workspace: Where to put it.
        precisions: What to make.
        options: Of the source: pooling, length, dim, and what is allowed.
        force: Make these anew even when they are up to date.
        stage: Shows progress.

    Returns:
        fp32, then int8: those asked for, and fp32 where int8 needed a new one.

    Raises:
        ExportError: The source cannot be used, the export does not agree with it, or it cannot be written.
            Nothing half-made is left, and an earlier export stays.
    """
    source = read_source(folder, options)
    source_sha256 = source.sha256()
    done: list[Exported] = []
    for precision in ("fp32", "int8") if "int8" in precisions else ("fp32",):
        target = workspace.encoder / precision
        # int8 is made from the fp32 file, so a new one brings a new int8.
        is_forced = (force and precision in precisions) or any(one.is_new for one in done)
        manifest = None if is_forced else _up_to_date(target, source_sha256, precision)
        is_new = manifest is None
        if manifest is None:
            _make(source, source_sha256, workspace, precision, stage)
            manifest = read_manifest(target, verify=False)
        done.append(Exported(target, manifest, is_new))
    return [one for one in done if one.is_new or one.manifest.precision in precisions]


def _up_to_date(folder: Path, source_sha256: str, precision: Precision) -> EncoderManifest | None:
    try:
        manifest = read_manifest(folder)
    except EncoderError:
        return None
    same_recipe = manifest.versions.get(encoder_recipe.RECIPE) == encoder_recipe.recipe(precision)
    return manifest if same_recipe and manifest.source_sha256 == source_sha256 else None


def _make(source: EncoderSource, source_sha256: str, workspace: Workspace, precision: Precision, stage: Stage) -> None:
    try:
        with new_folder(workspace.encoder / precision) as aside:
            from recserve_export.encoder_make import Maker

            maker = Maker(source, source_sha256, aside, stage)
            if precision == "fp32":
                maker.make_fp32()
            else:
                maker.make_int8(workspace.encoder / "fp32")
    except OSError as error:
        raise ExportError(f"cannot write the encoder to {workspace.encoder}: {error.strerror or error}") from error
