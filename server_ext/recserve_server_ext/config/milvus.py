"""Where Milvus is, and how it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from recserve_server_ext.common.errors import ConfigError


class MilvusSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where Milvus is, and how it is asked.

    Attributes:
        uri: `http://host:19530`, or `https`; `/name` behind it is a database other than the default one, and each
            catalogue needs one of its own. Empty without Milvus.
        token_file: File that holds `user:password` or an API key; empty where Milvus asks for none.
        consistency: Which deletes a search must have seen. A collection does not change otherwise, and what was deleted
            is left out of slates in any case, so a stronger level only saves searching a little wider.
        search_s: Deadline of a search. The supervisor's probes wait two seconds, so it is shorter.
        load_s: Deadline of each step of loading a snapshot: one insert, the flush, the index, the load into memory.
    """

    uri: str = ""
    token_file: str = ""
    consistency: Literal["Strong", "Bounded", "Eventually"] = "Bounded"
    search_s: Annotated[float, Meta(gt=0, le=1.5)] = 1.0
    load_s: Annotated[float, Meta(gt=0)] = 3600.0

    def token(self) -> str:
        """What the token file holds.

        Raises:
            ConfigError: It cannot be read.
        """
        if not self.token_file:
            return ""
        try:
            return Path(self.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the token of Milvus cannot be read from {self.token_file}: {error}") from error
