"""Where everything lies on disk: one folder, `.recserve` in the current folder unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def store_place(place: str) -> Path | str:
    """A store as it is named on a command line or in a configuration: a URL stays one, anything else is a file."""
    return place if "://" in place else Path(place)


DEFAULT_HOME = Path(".recserve")


@dataclass(frozen=True)
class Workspace:
    """Paths under one home folder.

    Attributes:
        home: The folder itself.
    """

    home: Path

    @property
    def encoder(self) -> Path:
        """Exported encoders: `versions` holds them all, and a link per precision (`fp32`, `int8`) names the newest."""
        return self.home / "encoder"

    @property
    def store(self) -> Path:
        """SQLite file of the catalogue store."""
        return self.home / "catalogue.db"

    @property
    def interactions(self) -> Path:
        """SQLite file of the interaction store."""
        return self.home / "interactions.db"

    @property
    def pseudonym_key(self) -> Path:
        """Key that user ids become pseudonyms with."""
        return self.home / "pseudonym.key"

    def store_at(self, place: str) -> Path | str:
        """The catalogue store: that of a URL or file, or, where none is named, the file in the home."""
        return store_place(place) if place else self.store

    @property
    def snapshots(self) -> Path:
        """Published snapshots, one folder each, and `CURRENT`, which names the one to serve."""
        return self.home / "snapshots"

    @property
    def spaces(self) -> Path:
        """Trained spaces, a folder each; see `recserve_server_ext.index.trained`."""
        return self.home / "spaces"

    @property
    def encoding(self) -> Path:
        """What an index build that goes on has encoded so far, a folder for its encoder."""
        return self.home / "encoding"

    @property
    def run(self) -> Path:
        """What a running server made for itself: model repository, backend, log."""
        return self.home / "run"
