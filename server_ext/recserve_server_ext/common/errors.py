"""The errors of the server: one root, and a class for each thing that can be wrong.

A request that is refused raises `recserve_client.contract.RequestError` instead.
"""

from __future__ import annotations

from typing import Final

#: Advice for a snapshot that cannot be used.
REBUILD: Final = "rebuild it with: recserve index build"


class ServerError(Exception):
    """Root of these errors; the message says what was wrong, which value, and what to do."""


class EncoderError(ServerError):
    """An encoder folder is missing, damaged or made for another CPU."""


class SnapshotError(ServerError):
    """A snapshot is missing, damaged or made by another encoder."""


class SpaceError(SnapshotError):
    """A trained space is missing, damaged, of another layout, of another catalogue, or over another encoder."""


class ModelNotLoadedError(SnapshotError):
    """A model that a snapshot needs is not loaded, or not yet."""


class StoreError(ServerError):
    """A store cannot be read or written."""


class CatalogueError(StoreError):
    """The catalogue store cannot be read or written."""


class InteractionError(StoreError):
    """The interaction store cannot be read or written."""


class UserKeysError(InteractionError):
    """Other keys made the pseudonyms of the interaction store."""


class MilvusError(ServerError):
    """Milvus is away, refused, or did not answer in time.

    Attributes:
        is_away: Whether it did not answer or is not ready; false where it refused this one request.
    """

    def __init__(self, text: str, *, is_away: bool = False) -> None:
        super().__init__(text)
        self.is_away = is_away


class UserIdError(ServerError):
    """A user id cannot be made a pseudonym; the message never holds the id."""


class BackupError(ServerError):
    """A backup cannot be made, is damaged or incomplete, or does not fit this version, key or home."""


class ConfigError(ServerError):
    """A configuration value or file is wrong."""


class LaunchError(ServerError):
    """tritonserver cannot be found, started or kept running."""
