"""The media encoder: an exported vision or audio model that turns files into vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnxruntime as ort

from recserve_export.errors import EncoderSourceError, first_line
from recserve_server_ext.common.arrays import Vectors

Kind = Literal["image", "audio"]
#: Seconds of a recording that are listened to, from its beginning.
MOST_SECONDS: Final = 30
#: Outputs that are a vector by name, as exporters call them.
_OUTPUTS: Final = ("image_embeds", "audio_embeds", "pooler_output", "sentence_embedding", "embeddings")
_SETTINGS: Final = "preprocessor_config.json"


class MediaEncoder:
    """Turns image or audio files into vectors, by an ONNX model and what prepares its inputs.

    Attributes:
        model: The file of the model.
    """

    def __init__(self, kind: Kind, folder: Path) -> None:
        """
        Args:
            kind: Of the files.
            folder: With one `.onnx` file and the `preprocessor_config.json` of transformers beside it.

        Raises:
            EncoderSourceError: A file is missing, or the model or its settings cannot be used.
        """
        found = sorted(folder.glob("*.onnx"))
        if len(found) != 1:
            raise EncoderSourceError(f"{folder} has {len(found)} .onnx files, one is needed")
        if not (folder / _SETTINGS).is_file():
            raise EncoderSourceError(f"{folder} has no {_SETTINGS}, which says how inputs of the model are prepared")
        self.model = found[0]
        try:
            self._prepare = _image_inputs(folder) if kind == "image" else _audio_inputs(folder)
            self._session = ort.InferenceSession(self.model, providers=["CPUExecutionProvider"])
        except Exception as error:  # transformers and onnxruntime raise any type
            raise EncoderSourceError(f"{folder} cannot be used: {first_line(error)}") from None
        outputs = [output.name for output in self._session.get_outputs()]
        named = [name for name in _OUTPUTS if name in outputs]
        flat = [output.name for output in self._session.get_outputs() if len(output.shape) == 2]
        self._output = [*named, *flat, *outputs][0]

    def inputs(self, file: Path) -> dict[str, Any]:
        """The inputs of the model for a file, [1, ...] each; raises OSError or ValueError for an unreadable one."""
        return self._prepare(file)

    def encode(self, inputs: Sequence[dict[str, Any]]) -> Vectors:
        """[files, dim] float32 vectors, not scaled. Outputs by position or by place in a picture become their mean.

        Args:
            inputs: Of each file; those of one call have equal shapes.

        Raises:
            EncoderSourceError: The model takes other inputs, or fails.
        """
        wanted = [item.name for item in self._session.get_inputs()]
        given = {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
        if len(wanted) == len(given) == 1:
            given = dict(zip(wanted, given.values(), strict=True))
        if missing := [name for name in wanted if name not in given]:
            raise EncoderSourceError(f"{self.model} needs the input {missing[0]!r}; prepared are {', '.join(given)}")
        try:
            found = np.asarray(self._session.run([self._output], {name: given[name] for name in wanted})[0])
        except Exception as error:  # onnxruntime raises any type
            raise EncoderSourceError(f"{self.model} fails: {first_line(error)}") from None
        if found.ndim == 4:
            found = found.mean(axis=(2, 3))
        vectors: Vectors = (found.mean(axis=1) if found.ndim == 3 else found).astype(np.float32)
        if vectors.ndim != 2 or len(vectors) != len(inputs):
            raise EncoderSourceError(f"{self.model} gives {found.shape} for {len(inputs)} files: no vector of each")
        return vectors


def _image_inputs(folder: Path) -> Callable[[Path], dict[str, Any]]:
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, use_fast=False, local_files_only=True)

    def prepare(file: Path) -> dict[str, Any]:
        try:
            with Image.open(file) as image:
                return dict(processor(image.convert("RGB"), return_tensors="np"))
        except Image.DecompressionBombError as error:
            raise ValueError(str(error)) from None

    return prepare


def _audio_inputs(folder: Path) -> Callable[[Path], dict[str, Any]]:
    import soundfile
    from scipy import signal
    from transformers import AutoFeatureExtractor

    extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    rate = int(extractor.sampling_rate)

    def prepare(file: Path) -> dict[str, Any]:
        try:
            with soundfile.SoundFile(file) as sound:
                own = sound.samplerate
                samples = sound.read(MOST_SECONDS * own, dtype="float32", always_2d=True).mean(axis=1)
        except soundfile.LibsndfileError as error:
            raise ValueError(str(error)) from None
        if not len(samples):
            raise ValueError("it is empty")
        if own != rate:
            factor = gcd(own, rate)
            samples = signal.resample_poly(samples, rate // factor, own // factor).astype(np.float32)
        return dict(extractor(samples, sampling_rate=rate, return_tensors="np"))

    return prepare
