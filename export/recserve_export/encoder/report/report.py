"""`report.json` of an encoder folder: how far it is from the model it came from, and how fast."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import msgspec

from recserve_export.encoder.checks.fidelity import BatchInvariance, Fidelity, WorstText
from recserve_export.encoder.checks.fidelity_gate import Gate
from recserve_export.encoder.checks.speed import Speed, SpeedPoint
from recserve_export.errors import ExportError
from recserve_server_ext.common import cpu
from recserve_server_ext.encoder.manifest import Precision

#: Lies beside the manifest, which does not list it: serving needs no report.
REPORT: Final = "report.json"


class Candidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A precision that `auto` made, and what became of it.

    Attributes:
        precision: The precision.
        recipe: How it was made.
        size_bytes: Size of the files that serving reads.
        fidelity: Compared with PyTorch.
        speed: In the same rounds as the other candidates.
        misses: What of the gate it misses.
        is_chosen: Whether it is the fastest that passes.
    """

    precision: Precision
    recipe: str
    size_bytes: int
    fidelity: Fidelity
    speed: Speed
    misses: list[str]
    is_chosen: bool = False


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where figures were measured.

    Attributes:
        cpu: Name of the CPU.
        int8_arithmetic: `vnni` where it has int8 dot products, else `avx2`.
        flags: Vector extensions of the CPU.
        cores: Usable cores, all of which encode.
    """

    cpu: str
    int8_arithmetic: str
    flags: list[str]
    cores: int

    @classmethod
    def here(cls) -> Self:
        """This machine."""
        return cls(
            cpu=cpu.model_name(),
            int8_arithmetic=cpu.int8_arithmetic(),
            flags=cpu.vector_flags(),
            cores=cpu.usable_cores(),
        )


class EncoderReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `report.json`.

    Attributes:
        name: Name of the model.
        precision: Precision of the encoder.
        fingerprint: Fingerprint of the encoder.
        texts: Where the texts come from: `films`, or the name of a file and its checksum.
        tokenizer: What `tokenizer.json` was compared with, or why with nothing; only in the report of fp32.
        truncated_texts: Compared texts that are longer than the encoder takes.
        fidelity: Compared with PyTorch.
        worst: Ten texts with the least cosines.
        batch_invariance: On this CPU.
        gate: Bounds that these figures were held against.
        not_gated: What these figures do not show, since this machine cannot run it.
        speeds: By precision: this one and fp32, or all candidates of `auto`.
        grid: By length and batch, beside PyTorch.
        candidates: What `auto` chose among; empty where a precision was named.
        machine: Where it was measured.
        sizes_bytes: Size of each file.
        source_bytes: Size of the weights that it was exported from.
        seconds: Time of each step.
        versions: Versions of the packages.
        seed: Seed that the texts were drawn with.
    """

    name: str
    precision: Precision
    fingerprint: str
    texts: str
    tokenizer: str = ""
    truncated_texts: int
    fidelity: Fidelity
    worst: list[WorstText]
    batch_invariance: BatchInvariance
    gate: Gate
    not_gated: str = ""
    speeds: dict[str, Speed] = {}
    grid: list[SpeedPoint] = []
    candidates: list[Candidate] = []
    machine: Machine
    sizes_bytes: dict[str, int]
    source_bytes: int
    seconds: dict[str, float] = {}
    versions: dict[str, str]
    seed: int

    @property
    def what(self) -> str:
        """The export in words, for messages."""
        return f"the {self.precision} export of {self.name}"

    @property
    def size_bytes(self) -> int:
        """Size of the files that serving reads."""
        return sum(self.sizes_bytes.values())


def read_report(folder: Path) -> EncoderReport:
    """The report of an encoder folder.

    Raises:
        ExportError: It is missing or cannot be read.
    """
    path = folder / REPORT
    try:
        return msgspec.json.decode(path.read_bytes(), type=EncoderReport)
    except (OSError, msgspec.MsgspecError) as error:
        raise ExportError(f"{path} cannot be read: {error}; export again with --force") from error
