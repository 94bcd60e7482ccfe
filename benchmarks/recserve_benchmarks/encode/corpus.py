"""What `recserve bench encode` encodes: titles of the films, and descriptions made of their own fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.corpus import infer_requests
from recserve_client.contract import EmbedRequest, models, pack
from recserve_export.catalogue.films import FilmsSource, films_path

Kind = Literal["titles", "descriptions"]
KINDS: Final[tuple[Kind, ...]] = ("titles", "descriptions")
#: Names of the cast that go into a description: as many as make it 67 tokens long on average (MiniLM's tokenizer).
_CAST_NAMES: Final = 15
_CREDITS: Final = ("Title", "Genre", "Director", "Writer", "Cast")


def film_texts(titles: int, descriptions: int, seed: int) -> dict[Kind, list[str]]:
    """Distinct texts of the films, drawn with a seed, in random order.

    Args:
        titles: Number of titles.
        descriptions: Number of descriptions.
        seed: Of the draw.

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
    """Title, genre, director, writer and the first of the cast, and the critics' consensus where there is one.

    The films come without plots, and this year's data without the consensus.
    """
    cast = ", ".join((row["Cast"] or "").split(", ")[:_CAST_NAMES])
    parts = [*(row[name] for name in _CREDITS[:-1]), cast, row.get("Consensus")]
    return ". ".join(str(part) for part in parts if part)


def embed_requests(texts: Sequence[str]) -> list[bytes]:
    """Serialised requests for `embed`, one text each."""
    return list(infer_requests(models.EMBED, [pack(EmbedRequest([text])) for text in texts]))
