"""Fields and attributes of a catalogue, from a sample of its items: which one is the title, what to filter by."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Final

from recserve_client.client import AsyncClient
from recserve_client.errors import RecserveError

_SAMPLE: Final = 400
_FRESH_S: Final = 60.0
#: Values of an attribute that are suggested.
_MOST_VALUES: Final = 200
#: Longer texts are descriptions, not values to filter by.
_LONGEST: Final = 60
_TITLES: Final = ("title", "name")


class Schema:
    """What a sample of the catalogue tells. After a minute it is read again, while the sample before still serves.

    Attributes:
        title: Field that names an item; empty before the first `refresh`, and where items have no texts.
        values: Some values of each attribute, the most frequent first.
        texts: Names of the text fields.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._reading: asyncio.Task[None] | None = None
        self._read_s = float("-inf")
        self.title = ""
        self.values: dict[str, list[Any]] = {}
        self._lists: set[str] = set()
        self.texts: list[str] = []

    async def refresh(self) -> None:
        """Read the first sample, or have a stale one read beside the caller.

        Raises:
            RecserveError: There is no sample yet, and the server does not answer.
        """
        if time.monotonic() - self._read_s < _FRESH_S:
            return
        if self._read_s == float("-inf"):
            await self._read()
        elif self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_again())

    async def _read_again(self) -> None:
        with suppress(RecserveError):
            await self._read()

    async def _read(self) -> None:
        found = await self._client.items.list(limit=_SAMPLE)
        counts: dict[str, Counter[Any]] = {}
        lists = set()
        texts: Counter[str] = Counter()
        for item in found.items:
            texts.update(item.texts.keys())
            for name, value in item.attributes.items():
                if isinstance(value, list):
                    lists.add(name)
                several = value if isinstance(value, list) else [value]
                counts.setdefault(name, Counter()).update(
                    one for one in several if not isinstance(one, str) or len(one) <= _LONGEST
                )
        self._lists, self.texts = lists, list(texts)
        self.title = title_field(self.texts)
        self.values = {
            name: [value for value, _ in counted.most_common(_MOST_VALUES)] for name, counted in sorted(counts.items())
        }
        self._read_s = time.monotonic()

    def is_list(self, attribute: str) -> bool:
        """Whether an attribute is a list of values."""
        return attribute in self._lists


def title_field(texts: list[str]) -> str:
    """The field that names an item: `title` or `name`, else one that ends so, else the first; empty without any."""
    for wanted in _TITLES:
        if wanted in texts:
            return wanted
    ends = (name for name in texts if name.lower().endswith(_TITLES))
    return next(ends, texts[0] if texts else "")
