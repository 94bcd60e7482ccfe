"""Errors of this room.

::

    ServerError
    ├── EncoderError      an encoder folder is missing, damaged or made for another CPU
    ├── SnapshotError     a snapshot is missing, damaged or made by another encoder
    │   └── EncoderNotLoadedError  a server has not loaded what made a snapshot, or not yet
    ├── StoreError
    │   ├── CatalogueError    the catalogue store cannot be read or written
    │   └── InteractionError  the interaction store cannot be read or written
    │       └── UserKeysError  the keys at hand are not those that its pseudonyms were made by
    ├── MilvusError       Milvus is away, refused, or did not answer in time
    ├── UserIdError       a user id cannot be made a pseudonym
    ├── ConfigError       a configuration value or file is wrong
    └── LaunchError       tritonserver cannot be found, started or kept running

A request that is refused raises `recserve_client.contract.RequestError` instead.
"""

from __future__ import annotations

from typing import Final

#: What to do about a snapshot that cannot be used.
REBUILD: Final = "rebuild it with: recserve index build"


class ServerError(Exception):
    """Root of this room's errors; the message says what was wrong, which value, and what to do."""


class EncoderError(ServerError):
    """An encoder folder is missing, damaged or made for another CPU."""


class SnapshotError(ServerError):
    """A snapshot is missing, damaged or made by another encoder."""


class EncoderNotLoadedError(SnapshotError):
    """A server has not loaded the encoder that made a snapshot, or not yet."""


class StoreError(ServerError):
    """A store cannot be read or written."""


class CatalogueError(StoreError):
    """The catalogue store cannot be read or written."""


class InteractionError(StoreError):
    """The interaction store cannot be read or written."""


class UserKeysError(InteractionError):
    """The keys at hand are not those that the pseudonyms of the interaction store were made by."""


class MilvusError(ServerError):
    """Milvus is away, refused, or did not answer in time.

    Attributes:
        is_away: Whether it did not answer, or is not ready; no = it refused this one request.
    """

    is_away: bool = False


class UserIdError(ServerError):
    """A user id cannot be made a pseudonym; the message never holds the id."""


class ConfigError(ServerError):
    """A configuration value or file is wrong."""


class LaunchError(ServerError):
    """tritonserver cannot be found, started or kept running."""
