"""The home folder, where everything is on disk: by default `.recserve` in the current folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def store_place(place: str) -> Path | str:
    """A store from its name on a command line or in the settings: a URL, or else a file, also as sqlite:///FILE."""
    place = place.removeprefix("sqlite:///")
    return place if "://" in place else Path(place)


DEFAULT_HOME = Path(".recserve")


@dataclass(frozen=True)
class Workspace:
    """Paths under a home folder."""

    home: Path

    @property
    def encoder(self) -> Path:
        """Exported encoders: all are in `versions`, and a link for each precision (`fp32`, `int8`) names the newest."""
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
        """Key file of the pseudonyms."""
        return self.home / "pseudonym.key"

    @property
    def erasures(self) -> Path:
        """Ledger of the erasures, unless the settings name another; see `recserve_server_ext.interactions.ledger`."""
        return self.home / "erasures.jsonl"

    @property
    def api_keys(self) -> Path:
        """File of the API keys; see `recserve_server_ext.access.key_file`."""
        return self.home / "api-keys.json"

    def store_at(self, place: str) -> Path | str:
        """The catalogue store of this URL or file; for an empty name, the file in the home folder."""
        return store_place(place) if place else self.store

    @property
    def snapshots(self) -> Path:
        """Snapshots, a folder each, and `CURRENT`, which names the published one."""
        return self.home / "snapshots"

    @property
    def spaces(self) -> Path:
        """Trained spaces, a folder each; see `recserve_server_ext.index.trained`."""
        return self.home / "spaces"

    @property
    def tuned(self) -> Path:
        """Encoders that were trained on the log, a numbered folder each, to be exported."""
        return self.home / "tuned"

    @property
    def evaluation(self) -> Path:
        """What `recserve evaluate` found on the home's own log; see `recserve_server_ext.strategies.parts.chosen`."""
        return self.home / "evaluation.json"

    @property
    def imports(self) -> Path:
        """The last imports of interactions; see `recserve_export.interactions.import_log`."""
        return self.home / "imports.json"

    @property
    def experiments(self) -> Path:
        """The running experiments; see `recserve_server_ext.recommend.experiments.file`."""
        return self.home / "experiments.json"

    @property
    def encoding(self) -> Path:
        """Vectors that an unfinished index build has encoded, a folder for each encoder."""
        return self.home / "encoding"

    @property
    def run(self) -> Path:
        """Files of running servers: model repository, backends, log."""
        return self.home / "run"
