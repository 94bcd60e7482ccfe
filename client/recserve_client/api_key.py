"""The API key of a client: where it comes from, and how it is sent."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

#: Environment variable with the key of commands.
KEY_VARIABLE: Final = "RECSERVE_KEY"
_KEY: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,256}")


def key_from_environment(environment: Mapping[str, str] = os.environ) -> str:
    """The key in RECSERVE_KEY; empty where it is not set."""
    return environment.get(KEY_VARIABLE, "")


def check_key(key: str) -> str:
    """The key itself; raises ValueError, without the key, where it has characters that no key has."""
    if key and not _KEY.fullmatch(key):
        raise ValueError(f"the API key, of {len(key)} characters, is none: a key has letters, digits and ._~+/=- only")
    return key


def key_metadata(key: str) -> tuple[tuple[str, str], ...]:
    """gRPC metadata of a key; empty without one."""
    return (("authorization", f"Bearer {key}"),) if key else ()
