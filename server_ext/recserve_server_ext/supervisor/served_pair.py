"""Snapshot and encoder as a pair: a snapshot is served only with the encoder that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from recserve_server_ext.common.errors import EncoderError, SnapshotError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.encoder.loaded import LoadedEncoder
from recserve_server_ext.encoder.manifest import EncoderManifest, read_manifest
from recserve_server_ext.encoder.selection import choose_encoder
from recserve_server_ext.encoder.versions import made_by
from recserve_server_ext.index.manifest import SnapshotManifest
from recserve_server_ext.index.manifest import read_manifest as read_snapshot_manifest
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot_versions import first_usable
from recserve_server_ext.networks.load_check import try_in_process
from recserve_server_ext.triton.encoder_target import fitted
from recserve_server_ext.triton.network_config import SnapshotNetwork, networks_of

#: Deadline of trying a network.
_TRY_S: Final = 60.0


class Pair(NamedTuple):
    """What is served together: a snapshot in its folder, the encoder that made it, and its networks."""

    folder: Path
    snapshot: SnapshotManifest
    encoder: LoadedEncoder
    networks: list[SnapshotNetwork]

    def item(self) -> str:
        """The id of one of its items; any id where they cannot be read: `recommend` then serves another snapshot."""
        # Here, since nothing that comes before the start of a server needs the engines.
        from recserve_server_ext.index.snapshot import first_id

        try:
            return first_id(self.folder)
        except SnapshotError:
            return self.snapshot.id


def first_pair(workspace: Workspace, serve: ServeSettings) -> Pair:
    """The published snapshot with its encoder, or the newest pair without damage; raises ServerError without one.

    Networks are tried: they must give what they gave where they were trained.
    """
    choose_encoder(workspace, serve.precision)  # a missing encoder is the first thing to report

    def tried(folder: Path) -> Pair:
        pair = _pair(workspace, serve, folder)
        for network in pair.networks:
            try_in_process(network.file.parent, network.manifest, _TRY_S)
        return pair

    return first_usable(workspace.snapshots, tried)


def published_pair(workspace: Workspace, serve: ServeSettings) -> Pair:
    """The published snapshot with its encoder; raises ServerError where one is missing or of another precision."""
    return _pair(workspace, serve, current(workspace.snapshots))


def described(folder: Path, manifest: EncoderManifest, serve: ServeSettings) -> LoadedEncoder:
    """An encoder folder as an entry of the table of loaded encoders; raises EncoderError without its target."""
    folder = folder.resolve()
    batch = fitted(folder, manifest, serve).encoder_batch
    return LoadedEncoder(manifest.runtime_fingerprint, str(folder), manifest, batch)


def _pair(workspace: Workspace, serve: ServeSettings, folder: Path) -> Pair:
    precision = serve.precision
    snapshot = read_snapshot_manifest(folder, verify=False)
    version = made_by(workspace.encoder, snapshot.encoder)
    if version is None or precision not in ("auto", version.usable().precision):
        chosen = choose_encoder(workspace, precision)
        option = "" if precision == "auto" else f" --precision {precision}"
        raise SnapshotError(
            f"{folder} was made by encoder {snapshot.encoder}, but {chosen} is "
            f"{read_manifest(chosen, verify=False).runtime_fingerprint}; rebuild it with: recserve index build{option}"
        )
    try:
        manifest = read_manifest(version.folder)
    except EncoderError as error:
        raise SnapshotError(f"the encoder of snapshot {snapshot.id} cannot be served: {error}") from error
    return Pair(folder, snapshot, described(version.folder, manifest, serve), networks_of(folder, snapshot))
