"""Statistics of activations over calibration texts: ranges for SmoothQuant, second moments for GPTQ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from recserve_server_ext.common.arrays import Floats, Ints, Vectors

#: Tokens whose moments are worked out together: a product of few tokens is all memory traffic.
_TOKENS: Final = 1024
#: Moments that are added up at a time; the calibration texts of larger encoders run several times.
_MOMENT_BYTES: Final = 1024**3


@dataclass
class ActivationStatistics:
    """One activation over all tokens of the calibration texts.

    Attributes:
        largest: [channels] largest magnitude.
        moments: [channels, channels] sum of x x' over the tokens x, complete after `finish`.
        tops: Largest value of each token, an array for each text.
        low: The least value.
    """

    largest: Vectors
    moments: Floats
    tops: list[Vectors] = field(default_factory=list)
    low: float = 0.0
    _waiting: list[Vectors] = field(default_factory=list)

    def add(self, values: Vectors) -> None:
        """Add the tokens of one text, [tokens, channels]."""
        self.largest = np.maximum(self.largest, np.abs(values).max(0))
        self.tops.append(values.max(1))
        self.low = min(self.low, float(values.min()))
        self._waiting.append(values)
        if sum(map(len, self._waiting)) >= _TOKENS:
            self.finish()

    def finish(self) -> None:
        """Add what waits to the moments."""
        if self._waiting:
            tokens = np.concatenate(self._waiting)
            self.moments += tokens.T @ tokens
            self._waiting.clear()


def activation_statistics(
    model: Any, widths: Mapping[str, int], calibration: Sequence[Ints], done: Callable[[int], None] = lambda _: None
) -> dict[str, ActivationStatistics]:
    """Statistics of a graph's activations, by name, over calibration texts.

    Args:
        model: The graph.
        widths: Channels of each activation, by name.
        calibration: Token ids [tokens] of each text.
        done: Called with 1 after each text, in the last pass over them.
    """
    found: dict[str, ActivationStatistics] = {}
    for names in _passes(widths):
        is_last = len(found) + len(names) == len(widths)
        for name in names:
            width = widths[name]
            found[name] = ActivationStatistics(np.zeros(width, np.float32), np.zeros((width, width)))
        session = _probe(model, names)
        for ids in calibration:
            feeds = {"input_ids": ids[None], "attention_mask": np.ones_like(ids)[None]}
            for name, values in zip(names, session.run(names, feeds), strict=True):
                found[name].add(values.reshape(-1, widths[name]))
            if is_last:
                done(1)
        for name in names:
            found[name].finish()
    return found


def _passes(widths: Mapping[str, int]) -> Iterator[list[str]]:
    """Names of activations whose moments fit into memory together."""
    names: list[str] = []
    size = 0
    for name, width in widths.items():
        if names and size + 8 * width**2 > _MOMENT_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += 8 * width**2
    if names:
        yield names


def _probe(model: Any, names: Sequence[str]) -> Any:
    """A session that also gives the named activations."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
