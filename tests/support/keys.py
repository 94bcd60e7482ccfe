"""API keys of tests: a home with a key for each scope."""

from __future__ import annotations

from pathlib import Path

from recserve_server_ext.access.key_file import create_key
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.workspace import Workspace

#: Settings of a server that asks for keys.
REQUIRED = "[auth]\nrequired = true\n"


def keys_of(home: Path) -> dict[str, str]:
    """A new key for each scope."""
    return {str(scope): create_key(Workspace(home).api_keys, f"test {scope}", [scope])[1] for scope in Scope}
