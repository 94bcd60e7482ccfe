"""`report.json` of an encoder folder: how far it is from the model it came from, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, Self

import msgspec

from recserve_export.errors import FidelityError
from recserve_server_ext.encoder.manifest import Precision

#: Lies beside the manifest, which does not list it: serving needs no report.
REPORT: Final = "report.json"
#: What a `SpeedPoint` calls the model in PyTorch.
PYTORCH: Final = "pytorch"


class Agreement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Vectors of the same texts from the encoder and from PyTorch in fp32.

    Attributes:
        texts: Number of texts.
        min_cos: Least cosine.
        mean_cos: Mean cosine.
        p01_cos: First percentile of the cosines.
        max_abs_difference: Of one element.
    """

    texts: int
    min_cos: float
    mean_cos: float
    p01_cos: float
    max_abs_difference: float


class BatchInvariance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Vectors of texts alone against the same texts among others.

    Attributes:
        texts: Number of texts.
        max_abs_difference: Of one element.
        is_bit_equal: Whether no bit differs.
    """

    texts: int
    max_abs_difference: float
    is_bit_equal: bool


class Neighbours(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What vectors are for: do they put the same texts close to one another as PyTorch's do?

    Attributes:
        k: Neighbours of each text among the others.
        overlap: Mean share of the k nearest by PyTorch that are among the k nearest by the encoder.
        pairs: Pairs of texts, drawn with a seed.
        spearman: Rank correlation of the pairs' cosines by the encoder with those by PyTorch.
    """

    k: int
    overlap: float
    pairs: int
    spearman: float


class WorstText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the texts that lost most.

    Attributes:
        text: Of the check.
        cos: Of its vector with PyTorch's.
        expected: Its nearest texts by PyTorch, nearest first.
        found: Its nearest texts by the encoder.
    """

    text: str
    cos: float
    expected: list[str]
    found: list[str]


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The least figures against PyTorch with which an encoder may be served.

    Attributes:
        mean_cos: Mean cosine of a text's vectors.
        p01_cos: First percentile of the cosines.
        overlap: Mean share of the ten nearest neighbours that are the same.
        spearman: Rank correlation of the cosines of pairs.
    """

    mean_cos: float = 0.995
    p01_cos: float = 0.985
    overlap: float = 0.95
    spearman: float = 0.99

    def misses(self, agreement: Agreement, neighbours: Neighbours) -> list[str]:
        """Names, values and bounds of the figures that are too low; none = it passes."""
        found = {
            "mean cosine": (agreement.mean_cos, self.mean_cos),
            "1st percentile of the cosine": (agreement.p01_cos, self.p01_cos),
            f"overlap@{neighbours.k}": (neighbours.overlap, self.overlap),
            "Spearman": (neighbours.spearman, self.spearman),
        }
        # Not `<`: a figure that is not a number misses, too.
        return [f"{name} {value:.4f} < {least:g}" for name, (value, least) in found.items() if not value >= least]


DEFAULT_GATE: Final = Gate()


class Speed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts encoded in a second on all usable cores, medians of rounds in which the encoders take turns.

    Attributes:
        titles: Short texts.
        descriptions: Longer texts.
    """

    titles: float
    descriptions: float


class SpeedPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts of one length in batches of one size.

    Attributes:
        system: The precision, or `pytorch`.
        tokens: Of each text.
        batch: Texts of one call.
        texts_per_s: On all usable cores.
        latency_ms: Of a call, the median.
    """

    system: str
    tokens: int
    batch: int
    texts_per_s: float
    latency_ms: float

    @classmethod
    def of_calls(cls, system: str, tokens: int, batch: int, seconds: Sequence[float]) -> Self:
        """From the times of calls, s: the median is the latency, and texts/s follow from it."""
        middle_s = median(seconds)
        return cls(
            system=system,
            tokens=tokens,
            batch=batch,
            texts_per_s=round(batch / middle_s, 1),
            latency_ms=round(middle_s * 1e3, 3),
        )


class Candidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One precision that `auto` made, and what became of it.

    Attributes:
        precision: Its name.
        recipe: How it was made.
        size_bytes: Of the files that serving reads.
        agreement: With PyTorch.
        neighbours: The same ones as PyTorch's?
        speed: In the same rounds as the other candidates.
        misses: Of the gate; none = it passes.
        is_chosen: Whether it is the fastest that passes.
    """

    precision: Precision
    recipe: str
    size_bytes: int
    agreement: Agreement
    neighbours: Neighbours
    speed: Speed
    misses: list[str]
    is_chosen: bool = False


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where figures were measured.

    Attributes:
        cpu: Name of the CPU.
        int8_arithmetic: `vnni` where it has int8 dot products, else `avx2`.
        flags: Of the CPU, those that say what it calculates with.
        cores: Usable ones, all of which encode.
    """

    cpu: str
    int8_arithmetic: str
    flags: list[str]
    cores: int


class EncoderReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`report.json` of an encoder folder.

    Attributes:
        name: Of the model.
        precision: Of the encoder.
        fingerprint: Of the encoder.
        texts: Where the texts come from: `films`, or the name of a file and its checksum.
        tokenizer: In an fp32 report, what `tokenizer.json` was compared with, or why with nothing; the others have the
            same file.
        truncated_texts: Of those that were compared, those that are longer than the encoder takes.
        agreement: With PyTorch.
        neighbours: The same ones as PyTorch's?
        worst: Ten texts with the least cosines.
        batch_invariance: Of the encoder on this CPU.
        gate: Bounds that these figures were held against.
        not_gated: What these figures do not show, since this machine cannot run it; empty = nothing.
        speeds: By precision: this one and fp32, or all candidates of `auto`.
        grid: By length and batch, beside PyTorch.
        candidates: What `auto` chose among; empty where a precision was named.
        machine: Where it was measured.
        sizes_bytes: Of the files.
        source_bytes: Of the weights that it was exported from.
        seconds: Time of each step.
        versions: Of the packages.
        seed: The texts were drawn with.
    """

    name: str
    precision: Precision
    fingerprint: str
    texts: str
    tokenizer: str = ""
    truncated_texts: int
    agreement: Agreement
    neighbours: Neighbours
    worst: list[WorstText]
    batch_invariance: BatchInvariance
    gate: Gate
    not_gated: str = ""
    speeds: dict[str, Speed]
    grid: list[SpeedPoint]
    candidates: list[Candidate]
    machine: Machine
    sizes_bytes: dict[str, int]
    source_bytes: int
    seconds: dict[str, float]
    versions: dict[str, str]
    seed: int


def check_gate(report: EncoderReport, gate: Gate) -> None:
    """Refuse an encoder that was asked for by name and misses the gate.

    Raises:
        FidelityError: Names every figure that is too low.
    """
    if misses := gate.misses(report.agreement, report.neighbours):
        raise FidelityError(
            f"the {report.precision} export of {report.name} misses the gate: {', '.join(misses)}; "
            "take another --precision, or lower the bound, such as --min-overlap"
        )
