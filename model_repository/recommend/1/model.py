"""Triton model `recommend`: packed request -> packed slate. Converts tensors; the logic is in recserve_server_ext."""

from pathlib import Path

from recserve_server_ext import interaction_store
from recserve_server_ext.live_catalogue import open_live
from recserve_server_ext.packed_model import PackedModel
from recserve_server_ext.popularity import Popularity
from recserve_server_ext.pseudonyms import read_pseudonyms
from recserve_server_ext.recommender import Recommender
from recserve_server_ext.settings import rules_of
from recserve_server_ext.text_cache import TextCaches
from recserve_server_ext.triton_io import execute, model_settings, served_encoders, settle_memory
from recserve_server_ext.user_histories import UserHistories
from recserve_server_ext.user_recommender import UserRecommender
from recserve_server_ext.view_metrics import ViewMetrics


class TritonPythonModel:
    """Answers histories with slates."""

    def initialize(self, args):
        settings = model_settings(args)
        serve = settings.serve
        encoders, self._metrics = served_encoders(settings), ViewMetrics()
        live = open_live(settings, encoders, served_encoders(settings, role="passage"), self._metrics.show)
        caches = TextCaches(serve.text_cache)
        users, rules = serve.users, rules_of(serve.users)
        interactions = interaction_store.opener(settings.interactions, users.limits)
        popularity = Popularity(interactions, rules, window_s=users.popular_window_s, every_s=users.popular_every_s)
        popularity.ranking()  # now, so that no user waits for the first count
        recommender = UserRecommender(
            live.view,
            lambda newest, limits: Recommender(newest, caches, limits),
            serve.limits,
            pseudonyms=read_pseudonyms(Path(settings.pseudonym_key)),
            histories=UserHistories(interactions, rules),
            popularity=popularity,
            seen=users.limits.seen_per_user + users.limits.slack,
        )
        self._model = PackedModel(recommender, encoders, waiting=serve.waiting)
        settle_memory()

    def execute(self, requests):
        return execute(self._model, requests)

    def finalize(self):
        self._model.close()
