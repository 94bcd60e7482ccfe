"""Speed of encoders: texts/s and latency, medians of rounds in which what is compared takes turns."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import numpy as np

from recserve_export.encoder.checks.texts import SEED, EncoderTexts
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.encoder.manifest import Precision

if TYPE_CHECKING:
    from recserve_server_ext.encoder.text_encoder import TextEncoder

T = TypeVar("T")

#: What a `SpeedPoint` calls the model in PyTorch.
PYTORCH: Final = "pytorch"
#: Lengths of texts that are measured, in tokens.
LENGTHS: Final = (8, 32, 128)
_BATCHES: Final = (1, 8, 32)
_ROUNDS: Final = 3
#: A call of a grid that has taken so long in all is not repeated.
_ENOUGH_S: Final = 0.5
#: The same for the encoding of a whole sample of texts.
_ENOUGH_SAMPLE_S: Final = 2.0
#: Texts that are encoded before anything is measured.
_WARM: Final = 16


class Speed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts encoded in a second on all usable cores.

    Attributes:
        titles: Short texts.
        descriptions: Longer texts.
    """

    titles: float
    descriptions: float


class SpeedPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts of one length in batches of one size.

    Attributes:
        system: The precision, `pytorch`, or a provider of onnxruntime.
        tokens: Tokens of each text.
        batch: Texts of one call.
        texts_per_s: On all usable cores.
        latency_ms: Median time of a call.
    """

    system: str
    tokens: int
    batch: int
    texts_per_s: float
    latency_ms: float


def measure_speed(
    encoders: Mapping[Precision, TextEncoder], texts: EncoderTexts, done: Callable[[int], None] = lambda _: None
) -> dict[Precision, Speed]:
    """Texts/s of encoders by precision; `done` gets 1 after each of at most `speed_calls` calls."""
    for encoder in encoders.values():  # memory
        encoder.encode(texts.longer[:_WARM])
    calls: dict[tuple[Precision, bool], Callable[[], object]] = {}
    for is_long, sample in ((False, texts.titles), (True, texts.longer)):
        for precision, encoder in encoders.items():
            calls[precision, is_long] = partial(encoder.encode, sample)
    seconds = _in_turns(calls, _ROUNDS, done, enough_s=_ENOUGH_SAMPLE_S)
    return {
        precision: Speed(
            titles=round(len(texts.titles) / seconds[precision, False], 1),
            descriptions=round(len(texts.longer) / seconds[precision, True], 1),
        )
        for precision in encoders
    }


def speed_calls(encoders: int) -> int:
    """Most calls of `measure_speed` for so many encoders."""
    return 2 * _ROUNDS * encoders


def measure_grid(
    systems: Mapping[str, Callable[[Ints], object]],
    vocabulary: int,
    lengths: Sequence[int],
    batches: Sequence[int] = _BATCHES,
    rounds: int | None = None,
) -> list[SpeedPoint]:
    """Speed by length and batch, after one call of each shape, which counts where it takes long.

    Args:
        systems: What runs token ids [texts, tokens], by name.
        vocabulary: Number of token ids.
        lengths: Tokens of a text.
        batches: Texts of a call.
        rounds: Calls of each shape that are measured; `None` takes three, or fewer where one takes long.
    """
    rng = np.random.default_rng(SEED)
    calls: dict[tuple[str, int, int], Callable[[], object]] = {}
    for length in lengths:
        for batch in batches:
            ids = rng.integers(0, vocabulary, (batch, length), np.int64)
            for name, run in systems.items():
                calls[name, length, batch] = partial(run, ids)
    enough_s = math.inf if rounds else _ENOUGH_S
    taken = _in_turns(calls, 1)  # memory, and on TensorRT the kernels
    quick = {shape: call for shape, call in calls.items() if taken[shape] < enough_s}
    taken |= _in_turns(quick, rounds or _ROUNDS, enough_s=enough_s)
    return [speed_point(*shape, call_s) for shape, call_s in taken.items()]


def speed_point(system: str, tokens: int, batch: int, call_s: float) -> SpeedPoint:
    """The point of a call that takes so many seconds."""
    return SpeedPoint(
        system=system,
        tokens=tokens,
        batch=batch,
        texts_per_s=round(batch / call_s, 1),
        latency_ms=round(call_s * 1e3, 3),
    )


def _in_turns(
    calls: Mapping[T, Callable[[], object]],
    rounds: int,
    done: Callable[[int], None] = lambda _: None,
    *,
    enough_s: float = math.inf,
) -> dict[T, float]:
    """Median seconds of each call in rounds in which all take turns, until it has taken `enough_s` in all."""
    seconds: dict[T, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, call in calls.items():
            if sum(seconds[name]) >= enough_s:
                continue
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
            done(1)
    return {name: median(found) for name, found in seconds.items()}
