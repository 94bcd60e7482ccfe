"""Which trained models may hold a trace of erased users, and until when."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from recserve_client.contract import ModelTrace
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import ModelSettings
from recserve_server_ext.history import sentiment
from recserve_server_ext.interactions.store import InteractionStore

if TYPE_CHECKING:
    from recserve_server_ext.index.trained_versions import KeptVersion


def traced_versions(spaces: Path, store: InteractionStore) -> list[KeptVersion]:
    """The versions of trained spaces that saw a user who was erased afterwards."""
    # Here, since no start of a server needs the files of spaces, only an erasure.
    from recserve_server_ext.index.trained_versions import kept_versions

    found = []
    for one in kept_versions(spaces):
        log = {} if one.manifest is None else one.manifest.made_from.get("log", {})
        if log and store.erasures_seen(log["number"], log["revision"]):
            found.append(one)
    return found


def tracer(settings: ModelSettings) -> Callable[[InteractionStore], list[ModelTrace]]:
    """A function that gives the models which may hold a trace of erased users of a store."""
    if not settings.spaces:
        return lambda _: []
    return partial(model_traces, Path(settings.spaces), train_every=settings.serve.train_every)


def model_traces(spaces: Path, store: InteractionStore, train_every: float) -> list[ModelTrace]:
    """The models of `traced_versions`, with the time of the next training, and encoders that were trained on a log.

    See `ServeSettings.train_every`; an encoder and the sentiment of comments are trained by hand.
    """
    from recserve_server_ext.index.trained_versions import last_training

    last = last_training(spaces)
    until = None if last is None or not train_every else last + train_every
    found = [
        ModelTrace(one.space, one.folder.name, None if one.space == sentiment.NAME else until)
        for one in traced_versions(spaces, store)
    ]
    return found + [ModelTrace("encoder", name, None) for name in _traced_encoders(spaces, store)]


class _Data(msgspec.Struct):
    number: int
    revision: int


class _Report(msgspec.Struct):
    data: _Data


def _traced_encoders(spaces: Path, store: InteractionStore) -> list[str]:
    """Names of the folders of trained encoders, beside the spaces, that saw a user who was erased afterwards.

    One whose report cannot be read may have.
    """
    found = []
    for path in sorted(Workspace(spaces.parent).tuned.glob("[0-9]*/report.json")):
        try:
            data = msgspec.json.decode(path.read_bytes(), type=_Report).data
            is_traced = bool(store.erasures_seen(data.number, data.revision))
        except (OSError, msgspec.MsgspecError):
            is_traced = True
        if is_traced:
            found.append(path.parent.name)
    return found
