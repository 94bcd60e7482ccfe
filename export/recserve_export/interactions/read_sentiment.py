"""What comments say, by the encoder and the classifier that a home serves."""

from __future__ import annotations

from collections.abc import Callable

from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.encoder.versions import active
from recserve_server_ext.history.sentiment import NAME, Sentiment, Verdicts
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.pointers import current, published
from recserve_server_ext.index.snapshot import load_model


def sentiment_of(workspace: Workspace) -> Callable[[list[str]], Verdicts] | None:
    """A function that says what comments mean; `None` where nothing weighs them.

    The encoder is loaded when it is called first.

    Raises:
        SnapshotError: The published snapshot is damaged.
    """
    if not published(workspace.snapshots):
        return None
    folder = current(workspace.snapshots)
    manifest, served = read_manifest(folder, verify=False), active(workspace)
    if served is None or NAME not in manifest.models:
        return None
    sentiment = Sentiment.of_model(load_model(folder, NAME, manifest.models[NAME]))
    return lambda texts: sentiment.verdicts(TextEncoder(served.folder).encode(texts, role="query"))
