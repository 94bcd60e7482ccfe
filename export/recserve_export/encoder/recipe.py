"""How encoders are made: the constants, and the line that names them so that an older file is made anew."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Final, Literal

from recserve_server_ext.common import cpu
from recserve_server_ext.encoder.manifest import Precision

#: What traces the model: torch.export, or optimum with a configuration of each architecture.
Exporter = Literal["torch", "optimum"]

#: Raise it when a change to the exporter changes the files it writes.
EXPORTER_VERSION: Final = 8
#: Key of the recipe in the manifest's `versions`.
RECIPE: Final = "recserve_export"
#: Share of the activations' range that SmoothQuant moves into the weights; docs/decisions/001-int8-by-smoothquant.md.
ALPHA: Final = 0.7
#: Share of the layers, from the first, whose FFN outputs stay fp32; docs/decisions/010-a-scale-for-each-token.md.
FP32_FFN_SHARE: Final[dict[Precision, float]] = {"int8": 0.5, "int8-fast": 0.0}
#: How the precisions for GPUs are made.
HALF: Final[dict[Precision, str]] = {
    "fp16": "half precision but for pooling and normalisation",
    "bf16": "the fp32 graph, which TensorRT computes in bf16",
}
#: What the reports of these precisions do not show: no CPU computes like that.
NOT_GATED: Final[dict[Precision, str]] = {
    "fp16": "the figures are of fp16 weights with the sums of this CPU, which are fp32; those of a GPU are not gated",
    "bf16": "the figures are those of the fp32 graph on this CPU; nothing of bf16 was measured or gated",
}
#: Texts that SmoothQuant looks at.
CALIBRATION_TEXTS: Final = 300

_PACKAGES: Final = ("torch", "transformers", "sentence-transformers", "onnx", "onnxruntime", "tokenizers")
_PACKAGES_OF: Final[dict[Exporter, tuple[str, ...]]] = {
    "torch": ("onnxscript",),
    "optimum": ("optimum", "optimum-onnx"),
}


@dataclass(frozen=True)
class Int8Recipe:
    """How an int8 encoder is made.

    Attributes:
        alpha: Share of the activations' range that moves into the weights, 0 to 1.
        weight_bits: 8, or 7.
        fp32_ffn_share: Share of the layers, from the first, whose FFN outputs stay fp32, 0 to 1.
    """

    alpha: float
    weight_bits: int
    fp32_ffn_share: float


def int8_recipe(precision: Precision) -> Int8Recipe:
    """How `int8` or `int8-fast` is made on this machine.

    Weights have 7 bits where the CPU's int8 sums would saturate: 255 * 127 * 2 does not fit the 16-bit intermediate of
    a CPU without dot products, 255 * 64 * 2 does.
    """
    bits = 8 if cpu.has_int8_dot_product() else 7
    return Int8Recipe(alpha=ALPHA, weight_bits=bits, fp32_ffn_share=FP32_FFN_SHARE[precision])


def recipe(precision: Precision, exporter: Exporter) -> str:
    """Names all that decides the file besides the source; equal recipes and sources need no new export."""
    made = f"{EXPORTER_VERSION}, {exporter}"
    if precision == "fp32":
        return made
    if precision in HALF:
        return f"{made} ({HALF[precision]})"
    how = int8_recipe(precision)
    return (
        f"{made} (smoothquant {how.alpha:g}, a scale for each token, {how.weight_bits}-bit weights rounded "
        f"by GPTQ, FFN outputs of {how.fp32_ffn_share:.0%} of the layers in fp32, token table by rows)"
    )


def versions(precision: Precision, exporter: Exporter) -> dict[str, str]:
    """The manifest's `versions`: the recipe, and the packages that take part."""
    packages = (*_PACKAGES, *_PACKAGES_OF[exporter])
    return {RECIPE: recipe(precision, exporter), **{package: version(package) for package in packages}}
