"""Texts to calibrate, check and measure encoders with: of the films, or of a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from recserve_export.catalogue.films import FilmsSource, films_path
from recserve_export.encoder.recipe import CALIBRATION_TEXTS
from recserve_export.errors import SourceError
from recserve_server_ext.common.files import sha256_of

SEED: Final = 3
#: Name of the default texts in a report.
FILMS: Final = "films"
_CHECKED: Final = 2000
_TITLES: Final = 500
_LONGER: Final = 100
#: Distinct lines of a file: with fewer, ten neighbours are a large part of all and say little.
LEAST_LINES: Final = 1000
_MOST_FILE_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True)
class EncoderTexts:
    """Disjoint samples; the first two are half titles and half longer texts.

    Attributes:
        calibration: Texts to calibrate int8 with.
        checked: Texts to compare with PyTorch on; the last four are longer than most encoders take.
        titles: Short texts, to measure speed on.
        longer: Longer texts, to measure speed on.
    """

    calibration: tuple[str, ...]
    checked: tuple[str, ...]
    titles: tuple[str, ...]
    longer: tuple[str, ...]


def sample_texts(path: Path | None = None, seed: int = SEED) -> EncoderTexts:
    """The samples for a seed.

    Args:
        path: A UTF-8 file with one text a line; `None` takes the films.
        seed: Seed of the sample.

    Raises:
        SourceError: The texts are missing, cannot be read, or are too few.
    """
    rng = np.random.default_rng(seed)
    if path is not None:
        return _sample_lines(path, rng)
    rows = [row for _, row in FilmsSource(films_path()).rows() if isinstance(row, dict)]
    titles = _shuffled({row["Title"] for row in rows if row["Title"]}, rng)
    longer = _shuffled({row["Consensus"] or _credits(row) for row in rows}, rng)
    return _split(titles, longer, (CALIBRATION_TEXTS, _CHECKED, _TITLES, _LONGER))


def texts_name(path: Path | None) -> str:
    """Names the texts in a report: `films`, or a file and its checksum.

    Raises:
        SourceError: The file cannot be read.
    """
    if path is None:
        return FILMS
    try:
        return f"{path.name} {sha256_of(path)[:16]}"
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error


def _sample_lines(path: Path, rng: np.random.Generator) -> EncoderTexts:
    try:
        if path.stat().st_size > _MOST_FILE_BYTES:
            raise SourceError(f"{path} has more than {_MOST_FILE_BYTES >> 20} MB; give a sample of its lines")
        found = {line.strip() for line in path.read_text(encoding="utf-8").splitlines()} - {""}
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8: {error}") from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(found) < LEAST_LINES:
        raise SourceError(f"{path} has {len(found):,} distinct lines; at least {LEAST_LINES:,} texts are needed")
    by_length = sorted(found, key=lambda text: (len(text), text))
    half = len(by_length) // 2
    short, longer = (_shuffled(set(part), rng) for part in (by_length[:half], by_length[half:]))
    scale = min(1.0, half / (CALIBRATION_TEXTS / 2 + _CHECKED / 2 + 200 + _TITLES))
    sizes = (2 * int(scale * count / 2) for count in (CALIBRATION_TEXTS, _CHECKED, _TITLES, _LONGER))
    return _split(short, longer, tuple(sizes))


def _split(titles: Iterator[str], longer: Iterator[str], sizes: tuple[int, ...]) -> EncoderTexts:
    """Samples of these sizes, in the order of `EncoderTexts`."""

    def take(count: int) -> tuple[str, ...]:
        return tuple(next(source) for _ in range(count // 2) for source in (titles, longer))

    calibration, checked = take(sizes[0]), take(sizes[1])
    endless = tuple(" ".join(next(longer) for _ in range(40)) for _ in range(4))
    return EncoderTexts(
        calibration=calibration,
        checked=checked[: -len(endless)] + endless,
        titles=tuple(next(titles) for _ in range(sizes[2])),
        longer=tuple(next(longer) for _ in range(sizes[3])),
    )


def _credits(row: dict[str, Any]) -> str:
    parts = [row[column] for column in ("Title", "Genre", "Director", "Writer", "CastText")]
    return ". ".join(str(part) for part in parts if part)


def _shuffled(texts: set[str], rng: np.random.Generator) -> Iterator[str]:
    ordered = sorted(texts)
    return iter([ordered[at] for at in rng.permutation(len(ordered))])
