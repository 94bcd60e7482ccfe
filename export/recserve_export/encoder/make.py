"""The steps of one export: make the files, compare them with PyTorch, measure, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_export.encoder.checks import canonical as encoder_canonical
from recserve_export.encoder.checks import fidelity
from recserve_export.encoder.checks.texts import SEED, EncoderTexts, sample_texts, texts_name
from recserve_export.encoder.graph.pooled_model import quiet
from recserve_export.encoder.report import page as encoder_page
from recserve_export.encoder.report import recipe as encoder_recipe
from recserve_export.encoder.report.recipe import Stage
from recserve_export.encoder.report.report import REPORT, Candidate, EncoderReport, Gate, Speed
from recserve_export.encoder.source.folder import EncoderSource
from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.common.files import sha256_of, write_file
from recserve_server_ext.encoder.manifest import MANIFEST, MODEL, TOKENIZER, EncoderManifest, Precision
from recserve_server_ext.encoder.text_encoder import TextEncoder

if TYPE_CHECKING:
    from recserve_export.encoder.checks.reference import Reference

#: Texts encoded one by one to see whether company changes them.
_ALONE: Final = 100
#: Texts between two steps of a progress bar.
_CHUNK: Final = 256


@dataclass
class Maker:
    """Makes the encoder folders of one source.

    Attributes:
        source: What to export.
        source_sha256: Its checksum.
        gate: The least figures.
        texts_file: One text a line; none = the films.
        stage: Shows progress.
        seconds: Time of each step, by name.
        cosines: Of the checked texts with PyTorch, [texts], by precision.
    """

    source: EncoderSource
    source_sha256: str
    gate: Gate
    texts_file: Path | None
    stage: Stage
    seconds: dict[str, float] = field(default_factory=dict)
    cosines: dict[Precision, NDArray[np.float64]] = field(default_factory=dict)

    def make_fp32(self, folder: Path) -> EncoderReport:
        """Export through optimum and compare with PyTorch.

        Args:
            folder: Empty; receives the files.

        Returns:
            The report without speeds.

        Raises:
            ExportError: The source cannot be exported, or the export does not agree with it.
        """
        with quiet():
            with self._step("load torch and optimum"):
                from recserve_export.encoder.graph import pooled_model
                from recserve_export.encoder.source import tokenizer as tokenizer_file
            with self._step("export to ONNX"):
                vocabulary = pooled_model.write_onnx(self.source, folder / MODEL)
                tokenizer = tokenizer_file.write_tokenizer(self.source, folder / TOKENIZER, vocabulary)
        return msgspec.structs.replace(self._compared(self._load(folder, "fp32")), tokenizer=tokenizer)

    def make_int8(self, folder: Path, precision: Precision, fp32: Path) -> EncoderReport:
        """Quantise an fp32 encoder and compare it with PyTorch.

        Args:
            folder: Empty; receives the files.
            precision: `int8` or `int8-fast`.
            fp32: Folder of the encoder to make it from.

        Returns:
            The report without speeds.

        Raises:
            FidelityError: Company changes its vectors.
        """
        plain = TextEncoder(fp32)
        with self._step(f"quantise to {precision}", len(self.texts.calibration)) as advance:
            from recserve_export.encoder.quantise.int8 import write_int8

            with quiet():
                recipe = encoder_recipe.int8_recipe(precision)
                write_int8(fp32 / MODEL, folder / MODEL, self._calibration(plain), recipe, done=advance)
        shutil.copyfile(fp32 / TOKENIZER, folder / TOKENIZER)
        return self._compared(self._load(folder, precision))

    def make_half(self, folder: Path, precision: Precision, fp32: Path) -> EncoderReport:
        """Make an encoder for GPUs from an fp32 one, and compare what the CPU makes of it with PyTorch.

        Args:
            folder: Empty; receives the files.
            precision: `fp16` or `bf16`.
            fp32: Folder of the encoder to make it from.

        Returns:
            The report without speeds; it says what it does not show.
        """
        with quiet(), self._step(f"convert to {precision}"):
            if precision == "fp16":
                from recserve_export.encoder.graph.half import write_fp16

                write_fp16(fp32 / MODEL, folder / MODEL)
            else:
                shutil.copyfile(fp32 / MODEL, folder / MODEL)
        shutil.copyfile(fp32 / TOKENIZER, folder / TOKENIZER)
        report = self._compared(self._load(folder, precision))
        return msgspec.structs.replace(report, not_gated=encoder_recipe.NOT_GATED[precision])

    def measure(self, folders: Mapping[Precision, Path]) -> dict[Precision, Speed]:
        """Texts/s of encoders that take turns."""
        encoders = {precision: TextEncoder(folder, verify=False) for precision, folder in folders.items()}
        with self._step("measure speed", fidelity.speed_rounds(len(encoders))) as advance:
            return fidelity.measure_speed(encoders, self.texts, advance)

    def write_report(
        self,
        folder: Path,
        report: EncoderReport,
        speeds: Mapping[Precision, Speed],
        candidates: Sequence[Candidate] = (),
    ) -> None:
        """Complete a report of `make_fp32` or `make_int8`, and write it and its page beside the encoder."""
        encoder, precision = TextEncoder(folder, verify=False), report.precision
        grid = report.grid
        if not grid:
            with quiet(), self._step(f"measure {precision} beside PyTorch"):
                from recserve_export.encoder.checks.speed import measure_grid

                grid = measure_grid(encoder, self.reference)
        if precision not in self.cosines:  # it was up to date
            self.cosines[precision] = fidelity.cosines_of(encoder.encode(self.texts.checked), self.expected)
        done = msgspec.structs.replace(
            report,
            gate=self.gate,
            speeds=dict(speeds),
            candidates=list(candidates),
            grid=grid,
            seconds={**report.seconds, **self.seconds},
        )
        encoder_page.write_page(folder, done, self.cosines[precision])
        write_file(folder / REPORT, msgspec.json.format(msgspec.json.encode(done), indent=2))

    @cached_property
    def texts(self) -> EncoderTexts:
        """The texts to calibrate, check and measure with."""
        return sample_texts(self.texts_file)

    @cached_property
    def reference(self) -> Reference:
        """The model in PyTorch."""
        with quiet():
            from recserve_export.encoder.checks.reference import Reference

            return Reference(self.source)

    @cached_property
    def expected(self) -> Vectors:
        """PyTorch's vectors of the texts to check, [texts, dim], as passages."""
        texts, parts = list(self.texts.checked), []
        with quiet(), self._step("encode with PyTorch", len(texts)) as advance:
            for rows in self.reference.vectors(texts):
                parts.append(rows)
                advance(len(rows))
        return np.concatenate(parts)

    @cached_property
    def expected_canonical(self) -> Vectors:
        """PyTorch's vectors of the canonical texts, [20, dim], as queries."""
        with quiet():
            return np.concatenate(list(self.reference.vectors(list(encoder_canonical.TEXTS), role="query")))

    @contextmanager
    def _step(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        begin = time.perf_counter()
        with self.stage(what, total) as advance:
            yield advance
        self.seconds[what] = round(time.perf_counter() - begin, 2)

    def _calibration(self, encoder: TextEncoder) -> Iterator[Ints]:
        tokens = encoder.tokenizer(self.texts.calibration, "passage")
        for ids, length in zip(tokens.ids, tokens.lengths, strict=True):
            yield ids[:length]

    def _load(self, folder: Path, precision: Precision) -> tuple[Path, TextEncoder]:
        """Write the manifest and load the encoder the way serving does."""
        manifest = EncoderManifest(
            name=self.source.name,
            precision=precision,
            dim=_dim_of(folder / MODEL),
            max_tokens=self.source.max_tokens,
            pooling=self.source.pooling,
            source_sha256=self.source_sha256,
            files={name: sha256_of(folder / name) for name in (MODEL, TOKENIZER)},
            versions=encoder_recipe.versions(precision),
            prompts=self.source.prompts,
            long_text=self.source.options.long_text,
        )
        write_file(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        return folder, TextEncoder(folder, verify=False)

    def _compared(self, loaded: tuple[Path, TextEncoder]) -> EncoderReport:
        folder, encoder = loaded
        manifest, texts, expected = encoder.manifest, self.texts, self.expected
        with self._step(f"encode with {manifest.precision}", len(texts.checked)) as advance:
            found = encoder.encode(texts.checked, chunk=_CHUNK, done=advance)
        truncated = encoder.truncated_texts
        self.cosines[manifest.precision] = fidelity.cosines_of(found, expected)
        with self._step(f"compare {manifest.precision} alone with batched", _ALONE) as advance:
            invariance = fidelity.measure_batch_invariance(encoder, texts.checked[-_ALONE:], advance)
        report = EncoderReport(
            name=manifest.name,
            precision=manifest.precision,
            fingerprint=encoder.fingerprint,
            texts=texts_name(self.texts_file),
            truncated_texts=truncated,
            agreement=fidelity.compare(found, expected),
            neighbours=fidelity.measure_neighbours(found, expected),
            worst=fidelity.worst_texts(texts.checked, found, expected),
            batch_invariance=invariance,
            gate=self.gate,
            speeds={},
            grid=[],
            candidates=[],
            machine=fidelity.machine(),
            sizes_bytes={name: (folder / name).stat().st_size for name in manifest.files},
            source_bytes=sum(path.stat().st_size for path in self.source.weights),
            seconds={},
            versions=manifest.versions,
            seed=SEED,
        )
        fidelity.check(report)
        vectors = encoder.encode(encoder_canonical.TEXTS, role="query")
        encoder_canonical.write_canonical(folder, manifest, vectors, self.expected_canonical)
        return report


def _dim_of(model: Path) -> int:
    import onnx

    output = onnx.load(model, load_external_data=False).graph.output[0]
    return int(output.type.tensor_type.shape.dim[1].dim_value)
