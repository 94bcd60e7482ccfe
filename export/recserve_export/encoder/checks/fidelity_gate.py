"""The fidelity gate: the least figures with which an encoder may be served, held at its export and where it runs.

What the machine that exports cannot run, fp16 on a GPU or a TensorRT plan, is gated where it runs: against fp32 on that
machine's CPU. fp32 was held against PyTorch at its export, so neither torch nor the source is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from recserve_export.encoder.checks.fidelity import BatchInvariance, Fidelity, K, compare
from recserve_export.errors import ExportError, FidelityError
from recserve_server_ext.config.server import Provider
from recserve_server_ext.encoder.manifest import INT8, EncoderManifest, Precision, read_manifest
from recserve_server_ext.encoder.versions import VERSIONS, versions

#: Least cosine of an fp32 vector with PyTorch's.
LEAST_FP32_COS: Final = 0.9999
#: Largest difference that sharing a batch may make to a vector; int8 must not differ by a bit. That of fp16 is what the
#: last bit of 11 is worth, twice.
MOST_BATCH_DIFFERENCE: Final[dict[Precision, float]] = {"fp32": 1e-5, "bf16": 1e-5, "fp16": 1e-3}
#: What two encoders of one model have in common.
_OF_MODEL: Final = ("source_sha256", "pooling", "dim", "max_tokens", "prompts")


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lower bounds of the figures of the same names in `Fidelity`."""

    mean_cos: float = 0.995
    p01_cos: float = 0.985
    overlap: float = 0.95
    spearman: float = 0.99

    def misses(self, fidelity: Fidelity) -> list[str]:
        """Names, values and bounds of the figures that are too low."""
        found = {
            "mean cosine": (fidelity.mean_cos, self.mean_cos),
            "1st percentile of the cosine": (fidelity.p01_cos, self.p01_cos),
            f"overlap@{K}": (fidelity.overlap, self.overlap),
            "Spearman": (fidelity.spearman, self.spearman),
        }
        # Not `<`: a figure that is not a number misses, too.
        return [f"{name} {value:.4f} < {least:g}" for name, (value, least) in found.items() if not value >= least]


DEFAULT_GATE: Final = Gate()


def check_gate(what: str, fidelity: Fidelity, gate: Gate) -> None:
    """Refuse an encoder that was asked for by name and misses the gate.

    Raises:
        FidelityError: Names every figure that is too low.
    """
    if misses := gate.misses(fidelity):
        raise FidelityError(
            f"{what} misses the gate: {', '.join(misses)}; take another --precision, or lower the bound, such as "
            "--min-overlap"
        )


def check_export(what: str, precision: Precision, fidelity: Fidelity, invariance: BatchInvariance) -> None:
    """Refuse an encoder that the exporter made wrongly, whatever the gate says.

    Raises:
        FidelityError: Names the figure, its limit, and what to do.
    """
    if precision in INT8:
        if not invariance.is_bit_equal:
            raise FidelityError(f"{what} gives a text other bits when it shares a batch; serve fp32 instead")
        return
    if precision != "fp16" and not fidelity.min_cos >= LEAST_FP32_COS:
        raise FidelityError(
            f"{what} differs from PyTorch: least cosine {fidelity.min_cos:.6f} of {fidelity.texts} texts is below "
            f"{LEAST_FP32_COS}; this architecture or these versions of torch and transformers do not export it rightly"
        )
    most = MOST_BATCH_DIFFERENCE[precision]
    if not invariance.max_abs_difference <= most:
        raise FidelityError(
            f"{what} gives a text another vector when it shares a batch: difference "
            f"{invariance.max_abs_difference:.2g}, at most {most:g} is allowed"
        )


def gate_where_it_runs(
    folder: Path,
    *,
    server: str | None = None,
    provider: Provider | None = None,
    against: Path | None = None,
    texts: Path | None = None,
) -> Fidelity:
    """Compare an encoder where it runs with fp32 on this CPU, on the texts of the export's own gate.

    Args:
        folder: Encoder folder.
        server: host:port of a server that runs it; `None` runs it in this process.
        provider: Provider of onnxruntime in this process; `None` takes `cuda`.
        against: fp32 encoder of the same model; `None` takes that beside it.
        texts: File with one text a line; `None` takes the films.

    Raises:
        ServerError: A folder is missing or damaged, or the provider cannot be had.
        ExportError: The two are not of one model, the server does not answer or runs another encoder.
    """
    from recserve_export.encoder.checks.served import served_vectors
    from recserve_export.encoder.checks.texts import sample_texts
    from recserve_server_ext.encoder.gpu import GpuEncoder
    from recserve_server_ext.encoder.text_encoder import TextEncoder

    manifest = read_manifest(folder)
    fp32 = against or fp32_beside(folder, manifest)
    reference = TextEncoder(fp32)
    _check_same_model(manifest, reference.manifest, fp32)
    checked = list(sample_texts(texts).checked)
    if server is None:
        found = GpuEncoder(folder, provider or "cuda").encode(checked)
    else:
        found = served_vectors(server, folder, manifest, checked).vectors
    return compare(found, reference.encode(checked, role="query"))


def fp32_beside(folder: Path, manifest: EncoderManifest) -> Path:
    """The newest fp32 encoder of the same model among the versions beside an encoder folder; fp32 itself for fp32.

    Raises:
        ExportError: There is none.
    """
    if manifest.precision == "fp32":
        return folder
    parent = folder.resolve().parent
    encoders = parent.parent if parent.name == VERSIONS else parent
    for version in reversed(versions(encoders)):
        other = version.manifest
        if other is not None and other.precision == "fp32" and not _difference(manifest, other):
            return version.folder
    raise ExportError(f"{encoders} has no fp32 encoder of the model of {folder}; name one with --against")


def _difference(one: EncoderManifest, other: EncoderManifest) -> str:
    """The first property in which the models of two encoders differ, or an empty string."""
    return next((name for name in _OF_MODEL if getattr(one, name) != getattr(other, name)), "")


def _check_same_model(manifest: EncoderManifest, reference: EncoderManifest, against: Path) -> None:
    if reference.precision != "fp32":
        raise ExportError(f"{against} is {reference.precision}; give an fp32 encoder with --against")
    if name := _difference(manifest, reference):
        raise ExportError(
            f"{against} is of another model: {name} is {getattr(reference, name)}, not {getattr(manifest, name)}; "
            "export fp32 from the same source"
        )
