"""Changes the served encoder to that of the published snapshot, by loading and unloading models of Triton.

1. `CURRENT` names a snapshot of another encoder. The encoder is tried in a process of its own. Then its models are
   loaded beside the serving ones and entered in the table of loaded encoders.
2. `recommend` sees the table, loads the snapshot and what changed since, and answers from both from one batch on. It
   names the encoder in the file `serving`, and `embed` and `items` follow.
3. The ensembles `encoder` and `recommend_text` lead to the new models. Requests in between go through the old models,
   and `recommend` encodes their texts again.
4. The old models are unloaded once no request can be on its way to them.

An encoder that cannot be loaded is unloaded at once and reported, and serving goes on. Nothing here waits: a thread
does the work, and `check` starts what is next.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import grpc

from recserve_server_ext.common.errors import EncoderError, ServerError
from recserve_server_ext.common.files import changed_at
from recserve_server_ext.config.server import ModelSettings
from recserve_server_ext.encoder.load_check import check_length, try_in_process
from recserve_server_ext.encoder.loaded import LoadedEncoder, read_serving, write_table
from recserve_server_ext.index.pointers import CURRENT
from recserve_server_ext.supervisor.event_log import EventLog
from recserve_server_ext.supervisor.network_switch import NetworkSwitch
from recserve_server_ext.triton.model_config import Model, encoder_models, ensembles
from recserve_server_ext.triton.probes import Admin
from recserve_server_ext.triton.repository import MODELS, write_model

_SHOWN: Final = 300
#: Deadline of loading or unloading one model.
_LOAD_S: Final = 120.0
#: Time after the longest call to an encoder before its models are unloaded.
_SLACK_S: Final = 5.0


class EncoderSwitch:
    """The encoders of one running server; the public models lead to `served`. Not for two threads at a time."""

    def __init__(
        self,
        settings: ModelSettings,
        first: LoadedEncoder,
        find: Callable[[], LoadedEncoder],
        networks: NetworkSwitch,
        log: EventLog,
    ) -> None:
        """
        Args:
            first: The encoder that it starts with, whose models are written.
            find: Finds the encoder of the published snapshot; raises ServerError where it cannot be served.
            networks: Does its work in the same thread.
        """
        self._folder = Path(settings.run)
        self._settings = settings
        self._current = Path(settings.snapshots, CURRENT)
        self._find = find
        self.networks = networks
        self._log = log
        self._loaded = [first]
        self.served = first
        self._stamp = changed_at(self._current)
        self._want: LoadedEncoder | None = first
        self._left_at: dict[str, float] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoders")
        self._work: Future[None] | None = None
        write_table(self._folder, self._loaded)

    @property
    def models(self) -> frozenset[str]:
        """Names of the models with a process that belong to an encoder or a network."""
        return self.networks.models | frozenset(
            model.name for one in list(self._loaded) for model in self._models(one) if model.has_process
        )

    def check(self, admin: Callable[[], Admin]) -> None:
        """Start what is next; never raises, never waits."""
        if self._work is not None and not self._work.done():
            return
        if (work := self._next() or self.networks.next()) is not None:
            self._work = self._thread.submit(self._run, work, admin)

    def settle(self) -> None:
        """Wait for the end of the work, which fails as the server has ended; the next start loads what works."""
        if self._work is not None:
            self._work.result()
        self._stamp = -1
        self.networks.forget()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True)

    def _next(self) -> Callable[[Admin], None] | None:
        self._look()
        serving = read_serving(self._folder)
        by_name = {one.fingerprint: one for one in self._loaded}
        if (want := self._want) is not None and want.fingerprint not in by_name:
            return lambda admin: self._load(want, admin)
        if (found := by_name.get(serving)) is not None and found != self.served:
            return lambda admin: self._lead_to(found, admin)
        needed = {self.served.fingerprint, serving, "" if self._want is None else self._want.fingerprint}
        now = time.monotonic()
        self._left_at = {one: self._left_at.get(one, now) for one in by_name if one not in needed}
        patience_s = self._settings.serve.encoder_timeout_s + _SLACK_S
        for name, left_at in self._left_at.items():
            if now - left_at > patience_s:
                return lambda admin: self._unload(by_name[name], admin)
        return None

    def _look(self) -> None:
        """Find the wanted encoder again where it may have changed."""
        if (stamp := changed_at(self._current)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._want = self._find()
        except ServerError as error:
            self._want = None
            self._log("encoder_refused", fault=str(error)[:_SHOWN])

    def _run(self, work: Callable[[Admin], None], admin: Callable[[], Admin]) -> None:
        with closing(admin()) as opened:
            try:
                work(opened)
            except (grpc.RpcError, OSError, ServerError) as error:
                self._log("encoder_switch_failed", fault=_said(error))

    def _load(self, encoder: LoadedEncoder, admin: Admin) -> None:
        start = time.monotonic()
        try:
            if self._settings.serve.encoder.target == "embedded":  # other targets may need what only the server has
                try_in_process(Path(encoder.folder), _LOAD_S)
        except EncoderError as error:
            self._refuse(encoder, error)
            return
        try:
            for model in self._models(encoder):
                write_model(self._folder, model)
                admin.load(model.name, _LOAD_S)
            check_length(admin.length_of_a_vector(encoder, _LOAD_S))
        except (grpc.RpcError, OSError, ServerError) as error:
            self._refuse(encoder, error)
            self._stand_in(encoder, admin)
            self._remove(encoder, admin)
            return
        self._loaded.append(encoder)
        write_table(self._folder, self._loaded)
        self._log("encoder_loaded", encoder=encoder.fingerprint, seconds=round(time.monotonic() - start, 2))

    def _lead_to(self, encoder: LoadedEncoder, admin: Admin) -> None:
        for model in ensembles(self._settings, encoder):
            write_model(self._folder, model)
            admin.load(model.name, _LOAD_S)
        self.served = encoder
        self._log("encoder_activated", encoder=encoder.fingerprint)

    def _unload(self, encoder: LoadedEncoder, admin: Admin) -> None:
        self._loaded.remove(encoder)
        write_table(self._folder, self._loaded)
        self._remove(encoder, admin)
        self._log("encoder_unloaded", encoder=encoder.fingerprint)

    def _refuse(self, encoder: LoadedEncoder, error: Exception) -> None:
        self._want = None
        self._log("encoder_refused", encoder=encoder.fingerprint, fault=_said(error))

    def _stand_in(self, refused: LoadedEncoder, admin: Admin) -> None:
        """Load an ensemble in the place of each model that failed.

        Triton is ready again only when every model that failed has been loaded and unloaded since.
        """
        stand_in, _ = ensembles(self._settings, self.served)
        with suppress(grpc.RpcError, OSError):
            for model in self._models(refused):
                shutil.rmtree(self._folder / MODELS / model.name, ignore_errors=True)
                write_model(self._folder, stand_in.renamed(model.name))
                admin.load(model.name, _LOAD_S)

    def _remove(self, encoder: LoadedEncoder, admin: Admin) -> None:
        for model in self._models(encoder):
            with suppress(grpc.RpcError):  # it may not be there
                admin.unload(model.name, _LOAD_S)
            shutil.rmtree(self._folder / MODELS / model.name, ignore_errors=True)

    def _models(self, encoder: LoadedEncoder) -> list[Model]:
        return encoder_models(self._settings, encoder)


def _said(error: Exception) -> str:
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name}: {error.details()}"[:_SHOWN]
    return str(error)[:_SHOWN]
