"""Settings of Milvus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import reading


class MilvusSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where Milvus is, and how it is asked.

    Attributes:
        uri: ``http://host:19530`` or ``https://...``, with ``/name`` for a database other than the default; each
            catalogue needs its own. Empty for no Milvus.
        token_file: File with ``user:password`` or an API key; empty where Milvus asks for none.
        consistency: Which deletes a search must have seen. Slates leave out deleted items in any case, so a stronger
            level only saves a slightly wider search.
        search_s: Deadline of a search, below the two seconds of the supervisor's probes.
        load_s: Deadline of each step of loading a snapshot: an insert, the flush, the index, the load into memory.
    """

    uri: str = ""
    token_file: str = ""
    consistency: Literal["Strong", "Bounded", "Eventually"] = "Bounded"
    search_s: Annotated[float, Meta(gt=0, le=1.5)] = 1.0
    load_s: Annotated[float, Meta(gt=0)] = 3600.0

    def token(self) -> str:
        """The content of the token file, empty without one; raises ConfigError where it cannot be read."""
        if not self.token_file:
            return ""
        path = Path(self.token_file)
        with reading(path, ConfigError, "name the file with the token of Milvus in token_file"):
            return path.read_text(encoding="utf-8").strip()
