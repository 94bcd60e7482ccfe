"""The steps of one export: make the files, compare, measure, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from recserve_export import encoder_recipe, fidelity
from recserve_export.encoder_quiet import quiet
from recserve_export.encoder_recipe import Stage
from recserve_export.encoder_report import REPORT, Agreement, EncoderReport, Neighbours
from recserve_export.encoder_source import EncoderSource
from recserve_export.encoder_texts import SEED, EncoderTexts, sample_texts
from recserve_server_ext.durable import sha256_of, write_file
from recserve_server_ext.encoder_manifest import MANIFEST, MODEL, TOKENIZER, EncoderManifest, Precision
from recserve_server_ext.text_encoder import TextEncoder, TokenIds

#: Texts encoded one by one to see whether company changes them.
_ALONE: Final = 100
#: Texts between two steps of a progress bar.
_CHUNK: Final = 256


@dataclass
class Maker:
    """Makes one encoder folder.

    Attributes:
        source: What to export.
        source_sha256: Its checksum.
        folder: Empty; receives the files.
        stage: Shows progress.
        seconds: Time of each step.
    """

    source: EncoderSource
    source_sha256: str
    folder: Path
    stage: Stage
    seconds: dict[str, float] = field(default_factory=dict)

    def make_fp32(self) -> None:
        """Export through optimum and compare with PyTorch.

        Raises:
            ExportError: The source cannot be exported, or the export does not agree with it.
        """
        with quiet():
            with self._step("load torch and optimum"):
                from recserve_export import pooled_model, tokenizer_file
                from recserve_export.encoder_reference import reference_vectors
            with self._step("export to ONNX"):
                vocabulary = pooled_model.write_onnx(self.source, self.folder / MODEL)
                tokenizer_file.write_tokenizer(self.source, self.folder / TOKENIZER, vocabulary)
            encoder = self._finish("fp32")
            texts = list(self.texts.checked)
            with self._step("compare with PyTorch", 2 * len(texts)) as advance:
                expected = np.empty((len(texts), encoder.dim), np.float32)
                done = 0
                for rows in reference_vectors(self.source, texts):
                    expected[done : done + len(rows)] = rows
                    done += len(rows)
                    advance(len(rows))
                agreement = fidelity.compare(encoder.encode(texts, done=advance), expected, "pytorch")
        self._report(encoder, [encoder], agreement, None)

    def make_int8(self, fp32: Path) -> None:
        """Quantise an fp32 encoder and compare with it.

        Args:
            fp32: Its folder.

        Raises:
            FidelityError: The result is too far from it.
        """
        plain = TextEncoder(fp32)
        with self._step("quantise to int8", encoder_recipe.CALIBRATION_TEXTS) as advance:
            from recserve_export.quantise import write_int8

            with quiet():
                write_int8(
                    fp32 / MODEL,
                    self.folder / MODEL,
                    self._calibration(plain),
                    alpha=encoder_recipe.ALPHA,
                    weight_bits=encoder_recipe.weight_bits(),
                    done=advance,
                )
        shutil.copyfile(fp32 / TOKENIZER, self.folder / TOKENIZER)
        encoder = self._finish("int8")
        texts = self.texts.neighbours
        with self._step("compare with fp32", 2 * len(texts)) as advance:
            expected, found = (one.encode(texts, chunk=_CHUNK, done=advance) for one in (plain, encoder))
            agreement = fidelity.compare(found, expected, "fp32")
            neighbours = fidelity.measure_neighbours(found, expected)
        self._report(encoder, [plain, encoder], agreement, neighbours)

    @cached_property
    def texts(self) -> EncoderTexts:
        """The films' texts."""
        return sample_texts()

    @contextmanager
    def _step(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        begin = time.perf_counter()
        with self.stage(what, total) as advance:
            yield advance
        self.seconds[what] = round(time.perf_counter() - begin, 2)

    def _calibration(self, encoder: TextEncoder) -> Iterator[TokenIds]:
        tokens = encoder.tokenizer(self.texts.calibration)
        for ids, length in zip(tokens.ids, tokens.lengths, strict=True):
            yield ids[:length]

    def _finish(self, precision: Precision) -> TextEncoder:
        """Write the manifest and load the encoder the way serving does."""
        manifest = EncoderManifest(
            name=self.source.name,
            precision=precision,
            dim=_dim_of(self.folder / MODEL),
            max_tokens=self.source.max_tokens,
            pooling=self.source.pooling,
            source_sha256=self.source_sha256,
            files={name: sha256_of(self.folder / name) for name in (MODEL, TOKENIZER)},
            versions=encoder_recipe.versions(precision),
        )
        write_file(self.folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        return TextEncoder(self.folder, verify=False)

    def _report(
        self,
        encoder: TextEncoder,
        speeds_of: Sequence[TextEncoder],
        agreement: Agreement,
        neighbours: Neighbours | None,
    ) -> None:
        manifest = encoder.manifest
        with self._step("compare alone with batched", _ALONE) as advance:
            invariance = fidelity.measure_batch_invariance(encoder, self.texts.checked[-_ALONE:], advance)
        with self._step("measure speed", fidelity.speed_rounds(len(speeds_of))) as advance:
            texts_per_s = fidelity.measure_speed(speeds_of, self.texts.titles, advance)
        report = EncoderReport(
            name=manifest.name,
            precision=manifest.precision,
            fingerprint=encoder.fingerprint,
            agreement=agreement,
            batch_invariance=invariance,
            neighbours=neighbours,
            texts_per_s=texts_per_s,
            machine=fidelity.machine(),
            sizes_bytes={name: (self.folder / name).stat().st_size for name in manifest.files},
            seconds=self.seconds,
            versions=manifest.versions,
            seed=SEED,
        )
        fidelity.check(report, is_default=self.source.is_default)
        write_file(self.folder / REPORT, msgspec.json.format(msgspec.json.encode(report), indent=2))


def _dim_of(model: Path) -> int:
    import onnx

    output = onnx.load(model, load_external_data=False).graph.output[0]
    return int(output.type.tensor_type.shape.dim[1].dim_value)
