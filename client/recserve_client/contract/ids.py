"""The type of item ids, in a file of its own because filters, rules and messages all need it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

ItemId = Annotated[str, Meta(min_length=1, max_length=512)]
