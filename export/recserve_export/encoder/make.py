"""The steps of one export: make the files, compare them with PyTorch, measure, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from recserve_export.encoder import recipe
from recserve_export.encoder.checks import canonical, fidelity, fidelity_gate, speed
from recserve_export.encoder.checks.fidelity_gate import Gate
from recserve_export.encoder.checks.speed import Speed, SpeedPoint
from recserve_export.encoder.checks.texts import SEED, EncoderTexts, sample_texts, texts_name
from recserve_export.encoder.report.page import write_page
from recserve_export.encoder.report.report import REPORT, Candidate, EncoderReport, Machine
from recserve_export.encoder.source.folder import EncoderSource
from recserve_export.stages import Stage, quiet
from recserve_server_ext.common.arrays import Floats, Ints, Vectors
from recserve_server_ext.common.files import sha256_of, write_json
from recserve_server_ext.encoder.manifest import INT8, MANIFEST, MODEL, TOKENIZER, EncoderManifest, Precision
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.encoder.tokenizer import TextTokenizer, TokenTable

if TYPE_CHECKING:
    from recserve_export.encoder.checks.reference import Reference
    from recserve_export.encoder.quantise.statistics import ActivationStatistics

#: Texts encoded one by one to see whether sharing a batch changes them.
_ALONE: Final = 100
#: Texts between two steps of a progress bar.
_CHUNK: Final = 256


@dataclass
class Maker:
    """Makes the encoder folders of one source.

    Attributes:
        source: What to export.
        source_sha256: Checksum of the source.
        exporter: What traces the model.
        gate: The least figures.
        texts_file: One text a line; `None` takes the films.
        stage: Shows progress.
        seconds: Time of each step, by name.
        cosines: [texts] cosines of the compared texts with PyTorch, by precision.
        calibration: Statistics of the activations, by name, once int8 is made.
    """

    source: EncoderSource
    source_sha256: str
    exporter: recipe.Exporter
    gate: Gate
    texts_file: Path | None
    stage: Stage
    seconds: dict[str, float] = field(default_factory=dict)
    cosines: dict[Precision, Floats] = field(default_factory=dict)
    calibration: dict[str, ActivationStatistics] = field(default_factory=dict)

    def make(self, folder: Path, precision: Precision, fp32: Path) -> EncoderReport:
        """Make the files of an encoder in an empty folder and compare it with PyTorch; the report has no speeds yet.

        `fp32` is the encoder folder that the other precisions are made from.

        Raises:
            ExportError: The source cannot be exported, or the export does not agree with it.
        """
        tokenizer = ""
        if precision == "fp32":
            tokenizer = self._export(folder)
        else:
            if precision in INT8:
                self._quantise(folder, precision, fp32)
            else:
                self._halve(folder, precision, fp32)
            shutil.copyfile(fp32 / TOKENIZER, folder / TOKENIZER)
        encoder = self._load(folder, precision)
        report = self._compared(folder, encoder)
        fidelity_gate.check_export(report.what, precision, report.fidelity, report.batch_invariance)
        vectors = encoder.encode(canonical.TEXTS, role="query")
        canonical.write_canonical(folder, encoder.manifest, vectors, self.expected_canonical)
        return msgspec.structs.replace(report, tokenizer=tokenizer, not_gated=recipe.NOT_GATED.get(precision, ""))

    def measure(self, folders: Mapping[Precision, Path]) -> dict[Precision, Speed]:
        """Texts/s of encoders that take turns."""
        encoders = {precision: TextEncoder(folder, verify=False) for precision, folder in folders.items()}
        with self._step("measure speed", speed.speed_calls(len(encoders))) as advance:
            return speed.measure_speed(encoders, self.texts, advance)

    def grids(self, folders: Mapping[Precision, Path]) -> dict[Precision, list[SpeedPoint]]:
        """Speed of encoders beside PyTorch, each with that of PyTorch.

        An encoder cuts a batch as serving does, on all cores; PyTorch runs it whole.
        """
        encoders = {precision: TextEncoder(folder, verify=False) for precision, folder in folders.items()}
        any_one = next(iter(encoders.values()))
        with quiet(), self._step("measure speed beside PyTorch"):
            systems: dict[str, Callable[[Ints], Vectors]] = {
                **{precision: partial(_run, encoder) for precision, encoder in encoders.items()},
                speed.PYTORCH: self.reference.run,
            }
            lengths = sorted({min(length, any_one.manifest.max_tokens) for length in speed.LENGTHS})
            points = speed.measure_grid(systems, any_one.tokenizer.vocabulary, lengths)
        return {
            precision: [point for point in points if point.system in (precision, speed.PYTORCH)]
            for precision in encoders
        }

    def write_report(
        self,
        folder: Path,
        report: EncoderReport,
        speeds: Mapping[Precision, Speed],
        candidates: Sequence[Candidate] = (),
        grid: Sequence[SpeedPoint] = (),
    ) -> None:
        """Complete a report of `make`, and write it and its page beside the encoder; a grid is measured if missing."""
        precision = report.precision
        if precision not in self.cosines:  # it was up to date
            found = TextEncoder(folder, verify=False).encode(self.texts.checked)
            self.cosines[precision] = fidelity.cosines_of(found, self.expected)
        done = msgspec.structs.replace(
            report,
            gate=self.gate,
            speeds=dict(speeds),
            candidates=list(candidates),
            grid=list(grid) or self.grids({precision: folder})[precision],
            seconds={**report.seconds, **self.seconds},
        )
        write_page(folder, done, self.cosines[precision])
        write_json(folder / REPORT, done)

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
        texts = list(self.texts.checked)
        with quiet(), self._step("encode with PyTorch", len(texts)) as advance:
            return self.reference.vectors(texts, done=advance)

    @cached_property
    def expected_canonical(self) -> Vectors:
        """PyTorch's vectors of the canonical texts, [20, dim], as queries."""
        with quiet():
            return self.reference.vectors(list(canonical.TEXTS), role="query")

    @contextmanager
    def _step(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        begin = time.perf_counter()
        with self.stage(what, total) as advance:
            yield advance
        self.seconds[what] = round(time.perf_counter() - begin, 2)

    def _export(self, folder: Path) -> str:
        """Write graph and tokenizer of fp32; returns what the tokenizer was compared with."""
        with quiet():
            with self._step("load torch"):
                from recserve_export.encoder.graph.onnx_export import write_onnx
                from recserve_export.encoder.source.tokenizer import write_tokenizer
            with self._step("export to ONNX"):
                vocabulary = write_onnx(self.source, folder / MODEL, self.exporter)
                return write_tokenizer(self.source, folder / TOKENIZER, vocabulary)

    def _quantise(self, folder: Path, precision: Precision, fp32: Path) -> None:
        from recserve_export.encoder.quantise.int8 import calibrated, write_int8

        if not self.calibration:  # the same for every recipe
            texts = self.texts.calibration
            with quiet(), self._step("calibrate int8", len(texts)) as advance:
                tokens = TextTokenizer(fp32, self.source.max_tokens)(texts, "passage")
                ids = [row[:length] for row, length in zip(tokens.ids, tokens.lengths, strict=True)]
                self.calibration.update(calibrated(fp32 / MODEL, ids, advance))
        with quiet(), self._step(f"quantise to {precision}"):
            write_int8(fp32 / MODEL, folder / MODEL, self.calibration, recipe.int8_recipe(precision))

    def _halve(self, folder: Path, precision: Precision, fp32: Path) -> None:
        with quiet(), self._step(f"convert to {precision}"):
            if precision == "fp16":
                from recserve_export.encoder.graph.fp16 import write_fp16

                write_fp16(fp32 / MODEL, folder / MODEL)
            else:
                shutil.copyfile(fp32 / MODEL, folder / MODEL)

    def _load(self, folder: Path, precision: Precision) -> TextEncoder:
        """Write the manifest and load the encoder the way serving does."""
        manifest = EncoderManifest(
            name=self.source.name,
            precision=precision,
            dim=_dim_of(folder / MODEL),
            max_tokens=self.source.max_tokens,
            pooling=self.source.pooling,
            source_sha256=self.source_sha256,
            files={name: sha256_of(folder / name) for name in (MODEL, TOKENIZER)},
            versions=recipe.versions(precision, self.exporter),
            prompts=self.source.prompts,
            long_text=self.source.options.long_text,
        )
        write_json(folder / MANIFEST, manifest)
        return TextEncoder(folder, verify=False)

    def _compared(self, folder: Path, encoder: TextEncoder) -> EncoderReport:
        manifest, checked, expected = encoder.manifest, self.texts.checked, self.expected
        with self._step(f"encode with {manifest.precision}", len(checked)) as advance:
            found = encoder.encode(checked, chunk=_CHUNK, done=advance)
        truncated = encoder.truncated_texts
        self.cosines[manifest.precision] = fidelity.cosines_of(found, expected)
        with self._step(f"compare {manifest.precision} alone with batched", _ALONE) as advance:
            invariance = fidelity.measure_batch_invariance(encoder, checked[-_ALONE:], advance)
        return EncoderReport(
            name=manifest.name,
            precision=manifest.precision,
            fingerprint=encoder.fingerprint,
            texts=texts_name(self.texts_file),
            truncated_texts=truncated,
            fidelity=fidelity.compare(found, expected),
            worst=fidelity.worst_texts(checked, found, expected),
            batch_invariance=invariance,
            gate=self.gate,
            machine=Machine.here(),
            sizes_bytes={name: (folder / name).stat().st_size for name in manifest.files},
            source_bytes=sum(path.stat().st_size for path in self.source.weights),
            versions=manifest.versions,
            seed=SEED,
        )


def _run(encoder: TextEncoder, ids: Ints) -> Vectors:
    return encoder.run(TokenTable(ids, np.full(len(ids), ids.shape[1])))


def _dim_of(model: Path) -> int:
    import onnx

    output = onnx.load(model, load_external_data=False).graph.output[0]
    return int(output.type.tensor_type.shape.dim[1].dim_value)
