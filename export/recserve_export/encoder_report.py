"""`report.json` of an encoder folder: how far it is from the model it came from, and how fast."""

from __future__ import annotations

from typing import Final

import msgspec

from recserve_server_ext.encoder_manifest import Precision

#: Lies beside the manifest, which does not list it: serving needs no report.
REPORT: Final = "report.json"


class Agreement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Vectors of the same texts from two encoders.

    Attributes:
        against: Compared with this: `pytorch` or `fp32`.
        texts: Number of texts.
        min_cos: Least cosine.
        mean_cos: Mean cosine.
        p01_cos: First percentile of the cosines.
        max_abs_difference: Of one element.
    """

    against: str
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
    """Nearest neighbours by int8 vectors among all the texts, against those by fp32 vectors.

    Attributes:
        texts: Number of texts; each asks for its neighbours among the others.
        k: Neighbours of each.
        overlap: Mean share of the fp32 neighbours that int8 finds.
    """

    texts: int
    k: int
    overlap: float


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where figures were measured.

    Attributes:
        cpu: Name of the CPU.
        int8_arithmetic: `vnni` where it has int8 dot products, else `avx2`.
        cores: Usable ones, all of which encode.
    """

    cpu: str
    int8_arithmetic: str
    cores: int


class EncoderReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`report.json` of an encoder folder.

    Attributes:
        name: Of the model.
        precision: Of the encoder.
        fingerprint: Of the encoder.
        agreement: fp32 against PyTorch, or int8 against fp32.
        batch_invariance: Of the encoder on this CPU.
        neighbours: int8 only.
        texts_per_s: Film titles encoded in a second by each precision, medians of interleaved rounds.
        machine: Where it was measured.
        sizes_bytes: Of the files.
        seconds: Time of each step.
        versions: Of the packages.
        seed: The texts were drawn with.
    """

    name: str
    precision: Precision
    fingerprint: str
    agreement: Agreement
    batch_invariance: BatchInvariance
    neighbours: Neighbours | None
    texts_per_s: dict[str, float]
    machine: Machine
    sizes_bytes: dict[str, int]
    seconds: dict[str, float]
    versions: dict[str, str]
    seed: int
