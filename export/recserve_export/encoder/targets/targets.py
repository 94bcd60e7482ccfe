"""The Triton model folders of an encoder, one for each target, beside its files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
from google.protobuf import text_format

from recserve_client.contract import models as names
from recserve_export.encoder.recipe import HALF
from recserve_export.encoder.report.report import EncoderReport
from recserve_export.encoder.targets.preferred_batches import gpu_batches, preferred_batches
from recserve_export.encoder.targets.tensorrt import PLAN, build_plan, build_script
from recserve_export.errors import ExportError
from recserve_server_ext.common import cpu
from recserve_server_ext.common.files import new_folder
from recserve_server_ext.config.server import MODEL_SETTINGS, ModelSettings, ServeSettings, Target
from recserve_server_ext.encoder.manifest import MANIFEST, MODEL, TOKENIZER, EncoderManifest, Precision
from recserve_server_ext.triton.encoder_config import EncoderConfig, write_warmup
from recserve_server_ext.triton.encoder_target import CONFIG, CONFIGS, TARGETS, model_folder, providers_of, targets_of
from recserve_server_ext.triton.repository import model_sources

#: Texts of one request to the encoder that a server sends by default.
DEFAULT_MAX_BATCH: Final = ServeSettings().encoder_batch
#: A script beside the model of target tensorrt: the command that builds its plan.
BUILD: Final = "build.sh"


@dataclass(frozen=True)
class WrittenTarget:
    """A Triton model folder after an export.

    Attributes:
        target: What runs it.
        folder: The model folder.
        note: What is still to be done, in words.
    """

    target: Target
    folder: Path
    note: str = ""


def suiting(precisions: Collection[Precision], targets: Sequence[Target]) -> dict[Precision, list[Target]]:
    """Which of the targets each encoder gets.

    Raises:
        ExportError: None of them runs any of these encoders.
    """
    found = {one: [target for target in targets if target in targets_of(one)] for one in precisions}
    if targets and not any(found.values()):
        raise ExportError(
            f"target {' or '.join(targets)} does not run {' and '.join(precisions)} encoders: int8 is made for "
            "CPUs, and bf16 is an arithmetic of TensorRT; take another --precision, or --target "
            f"{' or '.join(dict.fromkeys(target for one in precisions for target in targets_of(one)))}"
        )
    return found


def write_target(
    encoder: Path, manifest: EncoderManifest, report: EncoderReport, target: Target, max_batch: int = DEFAULT_MAX_BATCH
) -> WrittenTarget:
    """Write the Triton model folder of a target anew, whole or not at all; nobody else writes into the encoder folder.

    Raises:
        ExportError: A GPU is there, and the plan cannot be built; or what was measured there cannot be read.
        OSError: The folder cannot be written.
    """
    config = EncoderConfig(
        target=target,
        precision=manifest.precision,
        dim=manifest.dim,
        max_tokens=manifest.max_tokens,
        max_batch=max_batch,
        threads=cpu.usable_cores(),
    )
    if target == "embedded" or (target == "onnxruntime" and manifest.precision not in HALF):
        config = replace(config, preferred=preferred_batches(report.grid, manifest.precision, max_batch))
    _sweep(encoder / TARGETS)
    note = ""
    with new_folder(encoder / TARGETS / target) as aside:
        model = aside / names.ENCODER
        (model / "1").mkdir(parents=True)
        write_warmup(model, manifest.max_tokens)
        if target == "embedded":
            _write_embedded(encoder, model, config)
        elif target == "onnxruntime":
            _write_onnxruntime(encoder, model, config)
        else:
            note = _write_tensorrt(encoder, aside, config)
    return WrittenTarget(target, model_folder(encoder, target), note)


def _write_embedded(encoder: Path, model: Path, config: EncoderConfig) -> None:
    """A folder that any Triton takes whose Python stub can import recserve_server_ext."""
    for name in (MODEL, TOKENIZER, MANIFEST):
        _link(encoder / name, model / "1" / name)
    source = model_sources() / names.ENCODER / "1" / "model.py"
    shutil.copyfile(source, model / "1" / "model.py")
    proto = config.proto()
    # No encoder folder is named: it is the version folder itself.
    alone = ModelSettings(
        run="", snapshots="", store="", serve=ServeSettings(), interactions="", pseudonym_key="", erasures=""
    )
    (model / "1" / MODEL_SETTINGS).write_bytes(msgspec.json.encode(alone))
    (model / CONFIG).write_text(text_format.MessageToString(proto), encoding="utf-8")


def _write_onnxruntime(encoder: Path, model: Path, config: EncoderConfig) -> None:
    """The graph, and a configuration for each provider; that of the CPU is the default."""
    _link(encoder / MODEL, model / "1" / MODEL)
    (model / CONFIGS).mkdir()
    for provider in providers_of(config.precision):
        preferred = config.preferred if provider == "cpu" else gpu_batches(encoder, provider, config.max_batch)
        proto = replace(config, provider=provider, preferred=preferred).proto()
        (model / CONFIGS / f"{provider}.pbtxt").write_text(text_format.MessageToString(proto), encoding="utf-8")
    shutil.copyfile(model / CONFIGS / "cpu.pbtxt", model / CONFIG)


def _write_tensorrt(encoder: Path, folder: Path, config: EncoderConfig) -> str:
    """Write the configuration and the command, and the plan where there is a GPU; returns what is left to do."""
    config = replace(config, preferred=gpu_batches(encoder, "tensorrt", config.max_batch))
    model = folder / names.ENCODER
    _link(encoder / MODEL, folder / MODEL)
    (model / CONFIG).write_text(text_format.MessageToString(config.proto()), encoding="utf-8")
    plan = Path(names.ENCODER, "1", PLAN)
    (folder / BUILD).write_text(build_script(config, MODEL, str(plan)), encoding="utf-8")
    why_not = build_plan(config, folder / MODEL, folder / plan)
    if not why_not:
        return ""
    return (
        f"no plan was built ({why_not}); on the GPU that will serve, run: sh {encoder / TARGETS / 'tensorrt' / BUILD}"
    )


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sweep(folder: Path) -> None:
    """Remove what a killed export left; whoever writes here holds the lock of the encoders."""
    for pattern in (".*.tmp", ".*.old"):
        for path in folder.glob(pattern):
            with suppress(FileNotFoundError):
                shutil.rmtree(path)
