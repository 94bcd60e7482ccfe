"""The model `recommend`, put together from the settings of its server."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from recserve_client.contract.models import ENCODER, RECOMMEND, SEQUENCE
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.batching.revision_wait import RevisionWaitQueue
from recserve_server_ext.catalogue.live import open_live
from recserve_server_ext.common.followed_file import FollowedFile
from recserve_server_ext.config.server import ModelSettings, rules_of
from recserve_server_ext.counts.counter import LogCounter
from recserve_server_ext.encoder.text_cache import TextCaches
from recserve_server_ext.history.user_histories import UserHistories
from recserve_server_ext.interactions import store as interaction_store
from recserve_server_ext.interactions.impressions.log import ImpressionLog
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.recommend.experiments.file import read_experiments
from recserve_server_ext.services.recommend import RecommendService
from recserve_server_ext.services.traces import Traces
from recserve_server_ext.strategies.parts.chosen import chosen_options
from recserve_server_ext.strategies.registry import GROUP
from recserve_server_ext.triton.backend import PackedModel, served_encoders
from recserve_server_ext.triton.metrics.catalogue import ViewMetrics
from recserve_server_ext.triton.metrics.experiments import ExperimentMetrics
from recserve_server_ext.triton.metrics.models import (
    AnswerMetrics,
    LogMetrics,
    OutcomeMetrics,
    WaitMetrics,
    recommend_metrics,
)
from recserve_server_ext.triton.network_calls import served_networks


class RecommendModel(PackedModel):
    """Recommends items for histories and users: packed request -> packed slate."""

    name = RECOMMEND

    def batcher(self, settings: ModelSettings) -> Batcher[Any]:
        """See `PackedModel.batcher`."""
        if not entry_points(group=GROUP):  # strategies of others may work with pandas
            leave_pandas_out()
        serve, users, rules = settings.serve, settings.serve.users, rules_of(settings.serve.users)
        encoders, networks = served_encoders(settings), served_networks(settings)
        live = open_live(settings, encoders, networks, served_encoders(settings, role="passage"), ViewMetrics().show)
        keys = UserKeys(lambda: read_pseudonyms(Path(settings.pseudonym_key)))
        interactions = interaction_store.opener(settings.interactions, users.limits, keys)
        log = ImpressionLog(interactions, users.log, show=LogMetrics().show)
        traces = Traces(serve.traces)
        counter = LogCounter(interactions, rules, users.counts)
        service = RecommendService(
            live.view, TextCaches(serve.text_cache), serve, keys=keys, histories=UserHistories(interactions, rules),
            counter=counter, log=log, traces=traces,
            chosen=FollowedFile(Path(settings.evaluation), chosen_options).content,
            experiments=FollowedFile(Path(settings.experiments), read_experiments).content,
        )  # fmt: skip
        self.closing += [
            log,
            traces,
            recommend_metrics(live, log, service.named_interactions, counter.counted_at),
            AnswerMetrics(service.counts),
            OutcomeMetrics(interactions),
            ExperimentMetrics(lambda: service.experiments),
        ]
        limits = serve.limits
        waits = RevisionWaitQueue(limits.revision_wait_ms / 1000, limits.revision_waiting, show=WaitMetrics().show)
        return Batcher(
            service, {ENCODER: encoders, SEQUENCE: networks}, at_once=serve.encoding, max_batch=serve.batch,
            in_run=[SEQUENCE], run_batch=serve.batch, revision_queue=waits,
        )  # fmt: skip


def leave_pandas_out() -> None:
    """Let pyarrow look for pandas now and find none: it imports it with the first array, where it is installed.

    That would take a fifth of the start, and 28 MiB.
    """
    if "pandas" in sys.modules:
        return

    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)

    finder: Any = SimpleNamespace(find_spec=find_spec)
    sys.meta_path.insert(0, finder)
    pa.array([])
    sys.meta_path.remove(finder)
