"""Judges a training: the newest slice of the log, which nobody was trained on, compares it with what serves now."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from scipy import stats

from recserve_client.contract import RecommendRequest
from recserve_export.training.base import Learned
from recserve_export.training.memory import Networks, in_memory
from recserve_export.training.ndcg import ndcg
from recserve_export.training.ranking.past import histories_at
from recserve_export.training.run.verdict import Verdict
from recserve_server_ext.attributes.view import LiveFilters
from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Vectors
from recserve_server_ext.common.errors import SpaceError
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.server import Limits
from recserve_server_ext.counts.counts import no_counts
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.item_ids import places_of
from recserve_server_ext.index.matrix import is_matrix
from recserve_server_ext.index.model import is_model
from recserve_server_ext.index.trained import TrainedManifest, TrainedMatrix, TrainedSpace
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.recommend.job import Job
from recserve_server_ext.recommend.paging import RankingCache
from recserve_server_ext.recommend.pipeline import Pipeline
from recserve_server_ext.recommend.profile import profile_of_user
from recserve_server_ext.recommend.query import build_query
from recserve_server_ext.strategies.base import Data
from recserve_server_ext.strategies.parts.counts_view import CountsView
from recserve_server_ext.strategies.registry import Registry

#: Length of the lists that are compared.
_K: Final = 10
#: Users asked at most, and the fewest that can tell.
_MOST_USERS, _LEAST_USERS = 1000, 20
#: The newest slice is half of what came since the training that serves, and at most this share of the log.
_SLICE: Final = 0.1
_RESAMPLES: Final = 2000
_BATCH: Final = 64


class Champion(NamedTuple):
    """What serves now, over the items of a log.

    Attributes:
        manifest: Its manifest.
        newest_us: Time of the newest interaction that it was trained on, in microseconds since 1970.
        learned: What was learned.
    """

    manifest: TrainedManifest
    newest_us: int
    learned: Learned


def champion_of(folder: Path | None, items: list[str]) -> Champion | str:
    """What a folder holds, to be compared with; else why there is nothing to compare with."""
    if folder is None:
        return "nothing was trained before"
    if is_model(folder):
        return "models are not judged by themselves"
    place_of = {item: place for place, item in enumerate(items)}
    try:
        found = TrainedMatrix.load(folder) if is_matrix(folder) else TrainedSpace.load(folder)
    except SpaceError as error:
        return f"the version before cannot be read: {error}"
    newest_us = found.manifest.made_from.get("log", {}).get("newest_us")
    if newest_us is None:
        return "the version before does not say what it was trained on"
    places = places_of(found.ids, place_of)
    if isinstance(found, TrainedMatrix):
        learned = Learned(items=np.arange(len(items)), matrix=found.matrix.renumbered(places, len(items)))
        return Champion(found.manifest, newest_us, learned)
    known = np.flatnonzero(places >= 0)
    known = known[np.argsort(places[known])]
    learned = Learned(
        items=places[known],
        vectors=found.vectors[known],
        inputs=None if found.inputs is None else found.inputs[known],
        text_map=found.text_map,
        parameters=found.manifest.parameters,
        network=found.network,
    )
    return Champion(found.manifest, newest_us, learned)


def newest_slice(columns: InteractionColumns, champion: Champion) -> int | None:
    """Where the slice begins that neither side is trained on, in microseconds; `None` where nothing came since."""
    unseen = columns.time_us[columns.time_us > champion.newest_us]
    if not len(unseen):
        return None
    return int(max(np.median(unseen), np.quantile(columns.time_us, 1.0 - _SLICE), columns.time_us.min() + 1))


@dataclass(frozen=True, eq=False)
class Slice:
    """The newest slice of a log, as a question.

    Attributes:
        columns: The whole log.
        since_us: Where the slice begins, in microseconds since 1970.
        text: [items, dim] text vectors; `None` without.
        rules: How interactions become weights.
    """

    columns: InteractionColumns
    since_us: int
    text: Vectors | None
    rules: HistoryRules

    @cached_property
    def is_known(self) -> Any:
        """[interactions] whether both sides may know it."""
        return self.columns.time_us < self.since_us

    @cached_property
    def seen(self) -> dict[int, Ints]:
        """Items that each user asked about had before."""
        return self._items_of(self.is_known)

    @cached_property
    def targets(self) -> dict[int, Ints]:
        """Items that users with a history turned to in the slice for the first time: of at most 1,000 users."""
        before = set(np.unique(self.columns.user[self.is_known]).tolist())
        new = {user: items for user, items in self._items_of(~self.is_known).items() if user in before}
        known = self.seen
        new = {user: np.setdiff1d(items, known[user]) for user, items in new.items()}
        users = sorted(user for user, items in new.items() if len(items))
        if len(users) > _MOST_USERS:
            users = sorted(np.random.default_rng(0).choice(users, _MOST_USERS, replace=False).tolist())
        return {user: new[user] for user in users}

    def _items_of(self, chosen: Any) -> dict[int, Ints]:
        pairs = np.unique(self.columns.user[chosen] * len(self.columns.subjects) + self.columns.subject[chosen])
        user, item = np.divmod(pairs, len(self.columns.subjects))
        users, starts = np.unique(user, return_index=True)
        ends = [*starts[1:].tolist(), len(item)]
        return {of: item[start:end] for of, start, end in zip(users.tolist(), starts.tolist(), ends, strict=True)}


def judged(name: str, challenger: Learned, champion: Champion, of: Slice) -> Verdict:
    """Compare two trainings by NDCG@10 of the strategy of that name, served as requests by user id are.

    The challenger serves unless the whole 95% interval of the difference, by a paired bootstrap over users, is below 0.
    """
    version = champion.manifest.version
    strategy, options = Registry().choose(name, {}) if name in Registry().names else (None, None)
    if strategy is None or strategy.trainings(options) != {name}:
        return Verdict(serves=True, why="no strategy reads it alone", champion=version)
    if len(of.targets) < _LEAST_USERS:
        why = f"only {len(of.targets)} users have something new since the version before"
        return Verdict(serves=True, why=why, champion=version, since_us=of.since_us, users=len(of.targets))
    new, old = (_ndcg(name, learned, of) for learned in (challenger, champion.learned))
    low, high = interval(new - old)
    why = "it is significantly worse on the newest slice" if high < 0 else "it is not significantly worse"
    return Verdict(
        serves=bool(high >= 0), why=why, champion=version, since_us=of.since_us, users=len(new),
        ndcg=float(new.mean()), champion_ndcg=float(old.mean()), low=low, high=high,
    )  # fmt: skip


def interval(differences: Floats) -> tuple[float, float]:
    """The 95% interval of the mean of differences between users, by a bootstrap."""
    if not differences.any():
        return 0.0, 0.0
    found = stats.bootstrap(
        (differences,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


def _ndcg(name: str, learned: Learned, of: Slice) -> Floats:
    """[users] NDCG@10 of the users of the slice."""
    ids = of.columns.subjects
    text = np.zeros((len(ids), 1), np.float32) if of.text is None else of.text
    view = view_over(text, ExactEngine(text), ids, None, *in_memory({name: learned}, text, ids))
    data = Data(view, LiveFilters(view).of(view), CountsView(no_counts(), view))
    registry = Registry()
    configured = registry.choose(name, {})
    pipeline = Pipeline(registry.choose("popular", {}), RankingCache(1))
    request = RecommendRequest(user_id="", k=_K, strategy=name, explain=False, on_cold="error")
    users, hits, networks = list(of.targets), list[Mask](), Networks()
    for start in range(0, len(users), _BATCH):
        some = users[start : start + _BATCH]
        jobs = []
        for history in histories_at(of.columns, np.array(some), np.full(len(some), of.since_us), of.rules):
            job = Job(request, configured, data, "")
            build_query(job, profile_of_user(request, history, data.view, Limits(), of.since_us))
            jobs.append(job)
        networks.answer(pipeline, jobs, data)
        pipeline.run(jobs)
        hits += [_hits(job.ranked, of.targets[user]) for job, user in zip(jobs, some, strict=True)]
    return ndcg(np.array(hits, np.bool_).reshape(-1, _K), np.array([len(of.targets[user]) for user in users]))


def _hits(ranked: Any, targets: Ints) -> Mask:
    """[k] whether the item at each place is a target; a short list has none at its last places."""
    found = np.zeros(_K, np.bool_)
    if ranked is not None:
        rows = ranked.rows[:_K]
        found[: len(rows)] = np.isin(rows, targets)
    return found
