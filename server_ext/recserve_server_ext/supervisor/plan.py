"""Everything that is decided before a server starts: settings, models, ports, and the folder to run from.

What takes long to import, and the server does not wait for, is imported where it is used: the stores and the engines.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from recserve_server_ext.access.key_file import read_keys
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.workspace import Workspace, store_place
from recserve_server_ext.config.server import ModelSettings, ServeSettings, rules_of
from recserve_server_ext.history.weights import weigh
from recserve_server_ext.index.space import MILVUS
from recserve_server_ext.interactions.columns import interaction_columns
from recserve_server_ext.recommend.experiments.assignment import Experiments
from recserve_server_ext.recommend.experiments.file import read_experiments
from recserve_server_ext.services.traces import check_traces
from recserve_server_ext.strategies.parts.chosen import chosen_options, with_chosen
from recserve_server_ext.strategies.registry import Registry
from recserve_server_ext.supervisor.certificate_files import CertificateFiles
from recserve_server_ext.supervisor.compactor import Compactor, compact_command
from recserve_server_ext.supervisor.encoder_switch import EncoderSwitch
from recserve_server_ext.supervisor.event_log import EventLog
from recserve_server_ext.supervisor.network_switch import NetworkSwitch
from recserve_server_ext.supervisor.run_folder import RunFolder, take_run_folder
from recserve_server_ext.supervisor.served_pair import Pair, first_pair, published_pair
from recserve_server_ext.triton.binary import TritonBinary
from recserve_server_ext.triton.encoder_target import find_backend
from recserve_server_ext.triton.model_config import all_models
from recserve_server_ext.triton.probes import ProbeSubject
from recserve_server_ext.triton.process import Endpoint, endpoint_of
from recserve_server_ext.triton.repository import assemble

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.store import CatalogueStore
    from recserve_server_ext.supervisor.trainer import Trainer


@dataclass(frozen=True)
class Plan:
    """Everything decided before a server starts.

    Attributes:
        folder: Folder it runs from, held until the supervisor stops.
        subject: What the probes ask about. To be called while the server loads its models: it opens the stores first,
            and raises ServerError where the server cannot serve them.
        python_models: Names of the models with a process, whichever encoder is served.
        compactor: Makes new snapshots; `None` without a store or without compaction.
        trainer: Trains again now and then; `None` without.
        switch: Changes the encoder with the published snapshot; `None` where the encoder stays.
        certificates: The files of TLS, which may be renewed; `None` without TLS.
    """

    binary: TritonBinary
    folder: RunFolder
    endpoint: Endpoint
    subject: Callable[[], ProbeSubject]
    python_models: frozenset[str]
    compactor: Compactor | None
    trainer: Trainer | None = None
    switch: EncoderSwitch | None = None
    certificates: CertificateFiles | None = None


def prepare(workspace: Workspace, settings: ServeSettings, binary: TritonBinary, log: EventLog) -> Plan:
    """Check settings, encoder and snapshot, claim the ports, and write the folder to run from.

    Raises:
        ServerError: Encoder or snapshot is missing, damaged or does not fit the other; a setting does not fit; a port
            is taken; an interaction store that is not there cannot be made.
    """
    first = first_pair(workspace, settings)
    backend = find_backend(binary, settings.encoder)
    if first.snapshot.text.engine.name == MILVUS and not settings.milvus.uri:
        raise ConfigError(
            f"snapshot {first.snapshot.id} is searched by Milvus: set uri in the table [milvus] of the settings"
        )
    endpoint = endpoint_of(settings)
    store = settings.store or (str(workspace.store.resolve()) if workspace.store.is_file() else "")
    folder = take_run_folder(workspace.run, str(endpoint.grpc_port))
    _check_settings(workspace, settings)
    interactions = settings.users.store or str(workspace.interactions.resolve())
    if not Path(interactions).is_file():  # models would report a missing one, and look again much later
        _open_interactions(interactions, workspace, settings)
    own_key = secrets.token_urlsafe(32) if settings.auth.required else ""
    handed = ModelSettings(
        run=str(folder.path),
        snapshots=str(workspace.snapshots.resolve()),
        store=store,
        serve=settings,
        interactions=interactions,
        pseudonym_key=str(workspace.pseudonym_key.resolve()),
        erasures=settings.users.erasures or str(workspace.erasures.resolve()),
        evaluation=str(workspace.evaluation.resolve()),
        experiments=str(workspace.experiments.resolve()),
        spaces=str(workspace.spaces.resolve()),
        api_keys=_api_keys(workspace, settings),
        own_key=own_key,
    )
    models = all_models(handed, first.encoder, first.networks)
    assemble(folder.path, models, binary, backend)
    networks = NetworkSwitch(handed, first.networks, log)
    switch = EncoderSwitch(handed, first.encoder, lambda: published_pair(workspace, settings).encoder, networks, log)
    certificates = CertificateFiles(settings.tls, folder.path, log)
    endpoint = replace(endpoint, tls=certificates.read(), own_key=own_key)
    opened = _opener(store)
    python_models = frozenset(model.name for model in models if model.has_process)
    return Plan(
        binary=binary,
        folder=folder,
        endpoint=endpoint,
        subject=partial(_subject, first, networks, handed, workspace, opened),
        python_models=python_models - switch.models,
        compactor=_compactor(workspace, settings, store, opened, log),
        trainer=_trainer(workspace, settings, handed.interactions, log),
        switch=switch,
        certificates=certificates if endpoint.tls is not None else None,
    )


def _subject(
    first: Pair,
    networks: NetworkSwitch,
    handed: ModelSettings,
    workspace: Workspace,
    opened: Callable[[], CatalogueStore],
) -> ProbeSubject:
    """See `Plan.subject`."""
    if Path(handed.interactions).is_file():  # any other store was opened before
        _open_interactions(handed.interactions, workspace, handed.serve)
    if handed.store:
        opened().check_known(first.snapshot.revision)
    return ProbeSubject(first.item(), first.encoder, bool(handed.store), networks.loaded)


def _opener(store: str) -> Callable[[], CatalogueStore]:
    """As `recserve_server_ext.catalogue.store.opener`, which is imported at the first call."""

    @cache
    def opened() -> CatalogueStore:
        from recserve_server_ext.catalogue.store import opener

        return opener(store)()

    return opened


def _compactor(
    workspace: Workspace, settings: ServeSettings, store: str, opened: Callable[[], CatalogueStore], log: EventLog
) -> Compactor | None:
    if not store or not settings.compact_after:
        return None
    command = compact_command(workspace.home.resolve(), store, settings.milvus)
    return Compactor(workspace.snapshots, opened, command, settings.compact_after, log)


def _trainer(workspace: Workspace, settings: ServeSettings, interactions: str, log: EventLog) -> Trainer | None:
    if not settings.train_every:
        return None
    from recserve_server_ext.supervisor.trainer import Trainer, train_command

    command = train_command(workspace.home.resolve(), interactions, settings.users.rules, settings.trainings)
    return Trainer(workspace.spaces, command, settings.train_every, log)


def api_keys_of(workspace: Workspace, settings: ServeSettings) -> Path:
    """The file of the API keys."""
    return Path(settings.auth.file) if settings.auth.file else workspace.api_keys


def _api_keys(workspace: Workspace, settings: ServeSettings) -> str:
    """The file of the API keys; empty where none is asked for. Raises ConfigError where it cannot be used."""
    if not settings.auth.required:
        return ""
    path = api_keys_of(workspace, settings)
    read_keys(path)
    return str(path.absolute())  # a link is followed anew each time


def _open_interactions(where: str, workspace: Workspace, settings: ServeSettings) -> None:
    """Open the interaction store once; a missing store or key is made.

    Raises:
        ServerError: The store or the key cannot be opened or made, or they do not belong together.
    """
    from recserve_server_ext.interactions.key_file import read_pseudonyms
    from recserve_server_ext.interactions.keys import UserKeys
    from recserve_server_ext.interactions.store import InteractionStore

    keys = UserKeys(lambda: read_pseudonyms(workspace.pseudonym_key))
    with InteractionStore(store_place(where), settings.users.limits, create=True) as store:
        keys.settle(store.database)


def _check_settings(workspace: Workspace, settings: ServeSettings) -> None:
    """Raise ConfigError where rules, strategies, traces or experiments do not fit."""
    weigh(interaction_columns([]), rules_of(settings.users))
    strategies = Registry(with_chosen(settings.strategies, chosen_options(workspace.evaluation)))
    check_traces(settings.traces)
    Experiments(read_experiments(workspace.experiments), settings.limits, strategies)
    for name in (settings.strategy, settings.fallback):
        if name not in strategies.names:
            raise ConfigError(f"there is no strategy {name!r}; there are: {', '.join(strategies.names)}")
