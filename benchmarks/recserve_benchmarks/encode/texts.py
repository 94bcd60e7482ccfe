"""The texts that are encoded: titles of the films, and descriptions made of the films' own fields."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_export.catalogue.films import FilmsSource, films_path

Kind = Literal["titles", "descriptions"]
KINDS: Final[tuple[Kind, ...]] = ("titles", "descriptions")
#: Names of the cast in a description: they make it 67 tokens long on average (MiniLM's tokenizer).
_CAST_NAMES: Final = 15
_CREDITS: Final = ("Title", "Genre", "Director", "Writer", "Cast")


def film_texts(titles: int, descriptions: int, seed: int) -> dict[Kind, list[str]]:
    """Distinct texts of the films, drawn with a seed, in random order.

    Raises:
        BenchmarkError: There are not as many.
        SourceError: The films are not installed or cannot be read.
    """
    rows = [row for _, row in FilmsSource(films_path()).rows() if isinstance(row, dict)]
    random = np.random.default_rng([seed, 78])
    pools: dict[Kind, list[str]] = {
        "titles": sorted({row["Title"] for row in rows if row["Title"]}),
        "descriptions": sorted({description(row) for row in rows if all(row[name] for name in _CREDITS)}),
    }
    wanted: dict[Kind, int] = {"titles": titles, "descriptions": descriptions}
    for kind, count in wanted.items():
        if count > len(pools[kind]):
            raise BenchmarkError(f"{count:,} {kind} are wanted, the films have {len(pools[kind]):,}; ask for fewer")
    return {
        kind: [pools[kind][at] for at in random.permutation(len(pools[kind]))[:count]] for kind, count in wanted.items()
    }


def description(row: dict[str, Any]) -> str:
    """Title, genre, director, writer, the first of the cast, and the critics' consensus where there is one.

    The films come without plots.
    """
    cast = ", ".join((row["Cast"] or "").split(", ")[:_CAST_NAMES])
    parts = [*(row[name] for name in _CREDITS[:-1]), cast, row.get("Consensus")]
    return ". ".join(str(part) for part in parts if part)
