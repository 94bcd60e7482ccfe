"""`recserve train`: reads the log, trains, judges, and publishes what was learned in the home."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from recserve_export.errors import TrainingError
from recserve_export.index.space_change import serve_versions
from recserve_export.stages import Stage, silent
from recserve_export.training.base import Learned, TrainingLog, Work, check_trainable, training_log
from recserve_export.training.registry import TRAINERS, settings_of, trainer_of
from recserve_export.training.run.journal import Journal
from recserve_export.training.run.judge import Slice, champion_of, judged, newest_slice
from recserve_export.training.run.traces import remove_traces
from recserve_export.training.run.verdict import Verdict
from recserve_export.training.store_log import StoreLog, check_memory, read_log
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.history.features import select
from recserve_server_ext.index.item_ids import places_of
from recserve_server_ext.index.manifest import SnapshotManifest, read_manifest
from recserve_server_ext.index.model import Model
from recserve_server_ext.index.pointers import current, published, published_encoder
from recserve_server_ext.index.snapshot import SnapshotVectors
from recserve_server_ext.index.trained import Origin, publish_matrix, publish_model, publish_space, trained_manifest
from recserve_server_ext.index.trained_versions import current_spaces
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.services.model_traces import traced_versions

#: Name on the command line for all trainings that are worth serving.
ALL = "all"
_TRACED: Final = "the version before may hold a trace of erased users"


class Published(NamedTuple):
    """A training that was published.

    Attributes:
        name: Name of the training.
        folder: Version in the home.
        size: What was learned, in words.
        seconds: Duration.
        verdict: Whether it serves, and why.
    """

    name: str
    folder: Path
    size: str
    seconds: float
    verdict: Verdict


class Done(NamedTuple):
    """What `train_home` did.

    Attributes:
        published: The trainings, in their order; also those that a killed command had finished.
        snapshot: Name of the snapshot that serves them; empty where no index is published.
        left: Names of trainings that the budget left out; the same command goes on with them.
    """

    published: list[Published]
    snapshot: str
    left: list[str]


class Range(NamedTuple):
    """A range of time in UTC; `None` where it has no such end."""

    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of `train_home`.

    Attributes:
        names: Trainings.
        settings: Settings of each training, by name.
        rules: How interactions become weights.
        span: Interactions that are read.
        budget_s: Seconds after which no further training is started; `None` for no bound.
        force: Whether what was learned serves even where it is worse than what serves now.
    """

    names: Sequence[str]
    settings: Mapping[str, Mapping[str, Any]]
    rules: HistoryRules = field(default_factory=HistoryRules)
    span: Range = field(default_factory=Range)
    budget_s: float | None = None
    force: bool = False


def names_of(name: str, *, has_text: bool = True) -> list[str]:
    """The trainings of a name on the command line; raises TrainingError for an unknown one.

    Without text vectors, `all` leaves out those that need them.
    """
    if name == ALL:
        return [known for known, of in TRAINERS.items() if of.is_for_all and (has_text or not of.needs_text)]
    # A name is written with a hyphen or an underscore.
    name = name.replace("-", "_")
    trainer_of(name)
    return [name]


def train_home(
    workspace: Workspace,
    place: Path | str,
    request: Request,
    *,
    stage: Stage = silent,
    clock: Callable[[], float] = time.monotonic,
) -> Done:
    """Train on the log of a home, and serve what is not significantly worse than what serves now.

    A command that was killed goes on where it was: it reads the log as of the same interaction and does not train
    again what is finished, unless a user was erased meanwhile.

    Args:
        workspace: The home.
        place: The interaction store.
        request: What to train.
        stage: Shows progress.
        clock: Seconds, for the budget.

    Raises:
        TrainingError: A setting is wrong, there is nothing to train on, or it does not fit into memory.
        ServerError: The store or the published snapshot cannot be read, or what was learned cannot be served.
    """
    start = clock()
    prepared = {name: settings_of(name, request.settings.get(name, {})) for name in request.names}
    if isinstance(place, Path) and not place.exists():
        raise TrainingError(f"there is nothing to train on: no {place}; run: recserve interactions import FILE")
    with InteractionStore(place) as store, Journal.of(workspace.spaces, _key(request, prepared)) as journal:
        journal.check(store, workspace.spaces)
        run = _Run.begun(workspace, request, read_log(store, *request.span, last=journal.number, stage=stage), store)
        for name, own in prepared.items():
            if name not in journal.finished:
                check_memory(trainer_of(name).needed_bytes(run.log(None), own), f"the training {name!r}")
        journal.begin(run.read.number, run.read.revision)
        left = []
        for name, own in prepared.items():
            if name in journal.finished:
                continue
            if request.budget_s is not None and clock() - start >= request.budget_s:
                left.append(name)
                continue
            with stage(f"train {name}", None) as advance:
                journal.finish(name, run.trained(name, own, advance).name)
        done = [_described(workspace.spaces / name / version) for name, version in journal.finished.items()]
        serving = {one.name: one.folder for one in done if one.verdict.serves}
        snapshot = serve_versions(workspace, serving, stage=stage)
        remove_traces(workspace, store, serving)
        if not left:
            journal.forget()
    return Done(done, snapshot, left)


@dataclass(frozen=True, eq=False)
class _Run:
    """What the trainings of one command share."""

    workspace: Workspace
    request: Request
    read: StoreLog
    index: SnapshotManifest | None
    traced: frozenset[Path]
    logs: dict[int | None, TrainingLog] = field(default_factory=dict)

    @classmethod
    def begun(cls, workspace: Workspace, request: Request, read: StoreLog, store: InteractionStore) -> _Run:
        is_published = bool(published(workspace.snapshots))
        index = read_manifest(current(workspace.snapshots), verify=False) if is_published else None
        traced = frozenset(one.folder for one in traced_versions(workspace.spaces, store))
        run = cls(workspace, request, read, index, traced)
        check_trainable(run.log(None))
        return run

    def log(self, before_us: int | None) -> TrainingLog:
        """What is trained on: the whole log, or the part before a moment."""
        if before_us not in self.logs:
            columns, answers = self.read.columns, self.read.answers
            if before_us is not None:
                columns = select(columns, np.flatnonzero(columns.time_us < before_us))
                answers = answers.between(0, before_us)
            self.logs[before_us] = training_log(columns, self.request.rules, answers)
        return self.logs[before_us]

    @cached_property
    def text(self) -> Vectors | None:
        return text_vectors(self.workspace, self.read.columns.subjects)

    def trained(self, name: str, settings: Any, advance: Callable[[int], None]) -> Path:
        """Train, judge and publish; the folder of the version."""
        start, columns = time.perf_counter(), self.read.columns
        folder = current_spaces(self.workspace.spaces).get(name)
        champion = champion_of(folder, columns.subjects) if folder not in self.traced else _TRACED
        since_us = None if isinstance(champion, str) or self.request.force else newest_slice(columns, champion)
        if since_us is not None and not len(self.log(since_us).item):
            since_us = None
        log = self.log(since_us)
        learned = trainer_of(name).work(log, self.text, settings, Work(advance, self.workspace.spaces / name))
        seconds = time.perf_counter() - start
        if self.request.force:
            verdict = Verdict(serves=True, why="forced")
        elif isinstance(champion, str):
            verdict = Verdict(serves=True, why=champion)
        elif since_us is None:
            verdict = Verdict(
                serves=True, why="nothing came since the version before", champion=champion.manifest.version
            )
        else:
            verdict = judged(name, learned, champion, Slice(columns, since_us, self.text, self.request.rules))
        made_from = self._made_from(log, learned, settings, seconds, verdict)
        source, encoder = ("", "") if self.index is None else (self.index.source, self.index.encoder)
        return publish(self.workspace.spaces, name, log, learned, Origin(source, encoder, made_from))

    def _made_from(
        self, log: TrainingLog, learned: Learned, settings: Any, seconds: float, verdict: Verdict
    ) -> dict[str, Any]:
        read, span = self.read, self.request.span
        return {
            "log": {
                "number": read.number,
                "revision": read.revision,
                "interactions": len(log.item),
                "users": log.users,
                "newest_us": int(log.time_us.max()),
            },
            "since": span.since and span.since.isoformat(),
            "until": span.until and span.until.isoformat(),
            "rules": self.request.rules.version,
            "snapshot": "" if self.index is None else self.index.id,
            "settings": msgspec.to_builtins(settings),
            "figures": {**learned.figures, "size": _size(learned), "seconds": round(seconds, 2)},
            "judged": msgspec.to_builtins(verdict),
        }


def _key(request: Request, prepared: Mapping[str, Any]) -> str:
    """What makes a command the same as another one."""
    of = msgspec.json.encode([prepared, request.span, request.rules.version, request.force], enc_hook=str)
    return hashlib.sha256(of).hexdigest()


def _described(folder: Path) -> Published:
    of = trained_manifest(folder).made_from
    verdict = msgspec.convert(of["judged"], Verdict)
    return Published(folder.parent.name, folder, of["figures"]["size"], of["figures"]["seconds"], verdict)


def publish(spaces: Path, name: str, log: TrainingLog, learned: Learned, origin: Origin) -> Path:
    """Publish what was learned of the items of a log, not served yet; the folder of the version."""
    if learned.matrix is not None:
        return publish_matrix(spaces, name, log.items, learned.matrix, origin=origin)
    ids = [log.items[item] for item in learned.items.tolist()]
    if learned.model is not None:
        return publish_model(spaces, name, Model(learned.model, ids), origin=origin)
    assert learned.vectors is not None
    return publish_space(
        spaces,
        name,
        ids,
        learned.vectors,
        inputs=learned.inputs,
        text_map=learned.text_map,
        parameters=learned.parameters,
        network=learned.network,
        origin=origin,
    )


def text_vectors(workspace: Workspace, items: Sequence[str]) -> Vectors | None:
    """[items, dim] text vectors in the published index, zeros for items that it lacks; `None` without an index."""
    encoder = published_encoder(workspace.snapshots)
    if not encoder:
        return None
    stored = SnapshotVectors.load(current(workspace.snapshots), encoder=encoder)
    rows = places_of(items, stored.row_of)
    vectors: Vectors = np.where((rows >= 0)[:, None], stored.vectors[rows], np.float32(0.0))
    return vectors


def _size(learned: Learned) -> str:
    if learned.matrix is not None:
        return f"{len(learned.matrix.columns):,} weights between {learned.matrix.items:,} items"
    if learned.model is not None:
        return ", ".join(f"{value:,} {what}" for what, value in learned.figures.items() if isinstance(value, int))
    assert learned.vectors is not None
    return f"{len(learned.vectors):,} items, {learned.vectors.shape[1]} dimensions"
