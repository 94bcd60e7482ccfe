"""Loads and unloads the networks of learned spaces on Triton, as snapshots with other networks are published.

A network of the published snapshot is loaded beside the others and entered in the table of loaded networks. `recommend`
sees the table, and answers from the snapshot from then on. A network that neither the published snapshot has nor
`recommend` answers with is unloaded once no request can be on its way to it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import grpc

from recserve_server_ext.common.errors import ServerError
from recserve_server_ext.common.files import changed_at
from recserve_server_ext.config.server import ModelSettings
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.pointers import CURRENT, current
from recserve_server_ext.networks.load_check import try_in_process
from recserve_server_ext.networks.loaded import LoadedNetwork, read_serving, write_table
from recserve_server_ext.supervisor.event_log import EventLog
from recserve_server_ext.triton.model_config import network_model
from recserve_server_ext.triton.network_config import SnapshotNetwork, networks_of, runs_natively
from recserve_server_ext.triton.probes import Admin
from recserve_server_ext.triton.repository import MODELS, write_model

_SHOWN: Final = 500
#: Deadline of loading or unloading one model.
_LOAD_S: Final = 60.0
#: Time after the longest call to a network before its model is unloaded.
_SLACK_S: Final = 5.0


class NetworkSwitch:
    """The networks of one running server. Its work is done by one thread at a time."""

    def __init__(self, settings: ModelSettings, first: Sequence[SnapshotNetwork], log: EventLog) -> None:
        """
        Args:
            settings: Settings of the models.
            first: The networks that it starts with, whose models are written.
            log: Where events go.
        """
        self._settings = settings
        self._folder = Path(settings.run)
        self._log = log
        self._loaded = list(first)
        self._wanted = list(first)
        self._refused: set[str] = set()
        self._left_at: dict[str, float] = {}
        self._snapshots = Path(settings.snapshots)
        self._stamp = changed_at(self._snapshots / CURRENT)
        self._write_table()

    @property
    def loaded(self) -> tuple[SnapshotNetwork, ...]:
        """The loaded networks."""
        return tuple(self._loaded)

    @property
    def models(self) -> frozenset[str]:
        """Names of the models with a process."""
        return frozenset() if runs_natively(self._settings.serve) else frozenset(one.model for one in self.loaded)

    def forget(self) -> None:
        """Look at the published snapshot again."""
        self._stamp = -1

    def next(self) -> Callable[[Admin], None] | None:
        """What is to be done next; `None` for nothing."""
        self._look()
        names = {one.model for one in self._loaded} | self._refused
        if missing := [one for one in self._wanted if one.model not in names]:
            return lambda admin: self._load(missing[0], admin)
        serving = set(read_serving(self._folder))
        needed = {one.model for one in self._wanted}
        idle = [one for one in self._loaded if one.model not in needed and one.manifest.fingerprint not in serving]
        now = time.monotonic()
        self._left_at = {one.model: self._left_at.get(one.model, now) for one in idle}
        patience_s = self._settings.serve.encoder_timeout_s + _SLACK_S
        for one in idle:
            if now - self._left_at[one.model] > patience_s:
                return lambda admin: self._unload(one, admin)
        return None

    def _look(self) -> None:
        """Read the networks of the published snapshot again where it may have changed."""
        if (stamp := changed_at(self._snapshots / CURRENT)) == self._stamp:
            return
        self._stamp = stamp
        self._refused.clear()
        with suppress(ServerError):  # the switch of the encoder says so
            folder = current(self._snapshots)
            self._wanted = networks_of(folder, read_manifest(folder, verify=False))

    def _load(self, network: SnapshotNetwork, admin: Admin) -> None:
        start = time.monotonic()
        try:
            try_in_process(network.file.parent, network.manifest, _LOAD_S)
            write_model(self._folder, network_model(network, self._settings))
            admin.load(network.model, _LOAD_S)
        except (grpc.RpcError, OSError, ServerError) as error:
            self._refused.add(network.model)
            self._remove(network, admin)
            self._log("network_refused", model=network.model, fault=str(error)[:_SHOWN])
            return
        self._loaded.append(network)
        self._write_table()
        self._log("network_loaded", model=network.model, seconds=round(time.monotonic() - start, 2))

    def _unload(self, network: SnapshotNetwork, admin: Admin) -> None:
        self._loaded.remove(network)
        self._write_table()
        self._remove(network, admin)
        self._log("network_unloaded", model=network.model)

    def _remove(self, network: SnapshotNetwork, admin: Admin) -> None:
        with suppress(grpc.RpcError):  # it may not be there
            admin.unload(network.model, _LOAD_S)
        shutil.rmtree(self._folder / MODELS / network.model, ignore_errors=True)

    def _write_table(self) -> None:
        write_table(self._folder, [LoadedNetwork(one.model, one.manifest) for one in self._loaded])
