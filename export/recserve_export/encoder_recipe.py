"""How encoders are made: the constants, and the line that names them so that an older file is made anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from typing import Final

from recserve_server_ext import cpu
from recserve_server_ext.encoder_manifest import Precision

#: Raise it when a change to the exporter changes the files it writes.
EXPORTER_VERSION: Final = 1
#: Key of the recipe in the manifest's `versions`.
RECIPE: Final = "recserve_export"
#: Share of the activations' range that SmoothQuant moves into the weights; docs/decisions/001-int8-by-smoothquant.md.
ALPHA: Final = 0.7
#: Texts that SmoothQuant looks at.
CALIBRATION_TEXTS: Final = 300

#: Opens a stage of known or unknown length; inside, call what it yields with the number of things done.
Stage = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]

_PACKAGES: Final = ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnxruntime", "tokenizers")


@contextmanager
def silent(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A stage that shows nothing."""
    del what, total
    yield lambda _: None


def weight_bits() -> int:
    """Bits of an int8 encoder's weights: 8, or 7 where the CPU's int8 sums would saturate.

    255 * 127 * 2 does not fit the 16-bit intermediate of a CPU without dot products; 255 * 64 * 2 does.
    """
    return 8 if cpu.has_int8_dot_product() else 7


def recipe(precision: Precision) -> str:
    """Names all that decides the file besides the source; equal recipes and sources need no new export."""
    if precision == "int8":
        return f"{EXPORTER_VERSION} (smoothquant {ALPHA:g}, {weight_bits()}-bit weights)"
    return str(EXPORTER_VERSION)


def versions(precision: Precision) -> dict[str, str]:
    """The manifest's `versions`: the recipe, and the packages that take part."""
    return {RECIPE: recipe(precision), **{package: version(package) for package in _PACKAGES}}
