"""Triton model `recommend`: packed request -> packed slate. Converts tensors; the logic is in recserve_server_ext."""

from pathlib import Path

from recserve_client.contract.models import ENCODER, SEQUENCE
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.batching.revision_wait import RevisionWaitQueue
from recserve_server_ext.catalogue.live import open_live
from recserve_server_ext.common.followed_file import FollowedFile
from recserve_server_ext.config.server import rules_of
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
from recserve_server_ext.triton.backend import (
    door_of,
    execute,
    model_settings,
    refusals_of,
    served_encoders,
    settle_memory,
)
from recserve_server_ext.triton.metrics.catalogue import ViewMetrics
from recserve_server_ext.triton.metrics.experiments import ExperimentMetrics
from recserve_server_ext.triton.metrics.models import (
    AdmissionMetrics,
    AnswerMetrics,
    LogMetrics,
    OutcomeMetrics,
    WaitMetrics,
    recommend_metrics,
    release_metrics,
)  # fmt: skip
from recserve_server_ext.triton.network_calls import served_networks


class TritonPythonModel:
    """Recommends items for histories and users."""

    def initialize(self, args):
        settings = model_settings(args)
        serve, users, rules = settings.serve, settings.serve.users, rules_of(settings.serve.users)
        encoders, networks = served_encoders(settings), served_networks(settings)
        live = open_live(settings, encoders, networks, served_encoders(settings, role="passage"), ViewMetrics().show)
        keys = UserKeys(lambda: read_pseudonyms(Path(settings.pseudonym_key)))
        interactions = interaction_store.opener(settings.interactions, users.limits, keys)
        self._log = ImpressionLog(interactions, users.log, show=LogMetrics().show)
        self._traces = Traces(serve.traces)
        counter = LogCounter(interactions, rules, users.counts)
        service = RecommendService(
            live.view, TextCaches(serve.text_cache), serve, keys=keys, histories=UserHistories(interactions, rules),
            counter=counter, log=self._log, traces=self._traces,
            chosen=FollowedFile(Path(settings.evaluation), chosen_options).content,
            experiments=FollowedFile(Path(settings.experiments), read_experiments).content,
        )  # fmt: skip
        self._sampled = recommend_metrics(live, self._log, service.named_interactions, counter.counted_at)
        self._answered, self._outcomes = AnswerMetrics(service.counts), OutcomeMetrics(interactions)
        self._experiments = ExperimentMetrics(lambda: service.experiments)
        limits = serve.limits
        waits = RevisionWaitQueue(limits.revision_wait_ms / 1000, limits.revision_waiting, show=WaitMetrics().show)
        self._model = Batcher(
            service, {ENCODER: encoders, SEQUENCE: networks}, at_once=serve.encoding, max_batch=serve.batch,
            in_run=[SEQUENCE], run_batch=serve.batch, revision_queue=waits,
        )  # fmt: skip
        self._admissions = AdmissionMetrics("recommend", self._model)
        self._door = door_of(args, settings, "recommend")
        self._refusals = refusals_of(settings, "recommend")
        settle_memory()

    def execute(self, requests):
        return execute(self._model, requests, self._door, self._refusals)

    def finalize(self):
        self._model.close()
        self._log.close()
        self._traces.close()
        self._sampled.close()
        self._answered.close()
        self._outcomes.close()
        self._experiments.close()
        self._admissions.close()
        self._refusals.close()
        release_metrics()
