"""Real texts of the films to calibrate, check and measure encoders with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from recserve_export.encoder_recipe import CALIBRATION_TEXTS
from recserve_export.films import FilmsSource, films_path

SEED: Final = 3
_CHECKED: Final = 500
_NEIGHBOURS: Final = 2000
_TITLES: Final = 500


@dataclass(frozen=True)
class EncoderTexts:
    """Disjoint samples, each half titles and half longer texts.

    Attributes:
        calibration: For SmoothQuant.
        checked: To compare the exported model with the original on; the last four are longer than most encoders take.
        neighbours: To compare nearest neighbours on.
        titles: Titles only, to measure speed on.
    """

    calibration: tuple[str, ...]
    checked: tuple[str, ...]
    neighbours: tuple[str, ...]
    titles: tuple[str, ...]


def sample_texts(seed: int = SEED) -> EncoderTexts:
    """The samples for a seed.

    Raises:
        SourceError: The films are not installed or cannot be read.
    """
    rows = [row for _, row in FilmsSource(films_path()).rows() if isinstance(row, dict)]
    rng = np.random.default_rng(seed)
    titles = _shuffled({row["Title"] for row in rows if row["Title"]}, rng)
    longer = _shuffled({row["Consensus"] or _credits(row) for row in rows}, rng)

    def take(count: int) -> tuple[str, ...]:
        return tuple(next(source) for _ in range(count // 2) for source in (titles, longer))

    calibration, checked, neighbours = take(CALIBRATION_TEXTS), take(_CHECKED), take(_NEIGHBOURS)
    endless = tuple(" ".join(next(longer) for _ in range(40)) for _ in range(4))
    speed = tuple(next(titles) for _ in range(_TITLES))
    return EncoderTexts(calibration, checked[: -len(endless)] + endless, neighbours, speed)


def _credits(row: dict[str, Any]) -> str:
    parts = [row[column] for column in ("Title", "Genre", "Director", "Writer", "CastText")]
    return ". ".join(str(part) for part in parts if part)


def _shuffled(texts: set[str], rng: np.random.Generator) -> Iterator[str]:
    ordered = sorted(texts)
    return iter([ordered[at] for at in rng.permutation(len(ordered))])
