"""`recserve train sentiment`: learns from rated comments of the log what a comment without a rating says."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from recserve_export.errors import TrainingError
from recserve_export.index.space_change import serve_versions
from recserve_export.one_thread import one_thread
from recserve_export.stages import Stage, silent
from recserve_export.training.base import TrainSettings
from recserve_export.training.publish import Range, text_vectors
from recserve_export.training.run.traces import remove_traces
from recserve_export.training.run.verdict import Verdict
from recserve_export.training.sentiment.comments import Comments, read_comments
from recserve_export.training.sentiment.proof import Effect, Separation, effect, separation
from recserve_server_ext.common.arrays import Ints, Mask, Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.encoder.versions import active
from recserve_server_ext.history.sentiment import NAME, Sentiment
from recserve_server_ext.index.model import Model
from recserve_server_ext.index.pointers import current, published
from recserve_server_ext.index.trained import Origin, publish_model
from recserve_server_ext.interactions.store import InteractionStore

#: Strengths of the inverse regularisation that a training chooses from.
_CHOICES: Final = (0.1, 1.0, 10.0)
_FOLDS: Final = 4
_SIGNIFICANT: Final = 0.05


class SentimentSettings(TrainSettings, frozen=True):
    """Settings of `sentiment`.

    Attributes:
        positive: Factor of the weight by a certainly positive comment.
        negative: Factor of the weight by a certainly negative comment; below 0 it pushes away.
        comments: Comments that are learned from at most, the newest.
        held_out: Share of the users whose comments are judged by and not learned from until then.
    """

    positive: Annotated[float, Meta(ge=0, le=10)] = 2.0
    negative: Annotated[float, Meta(ge=-10, le=10)] = -1.0
    comments: Annotated[int, Meta(ge=100, le=1_000_000)] = 20_000
    held_out: Annotated[float, Meta(ge=0.1, le=0.5)] = 0.3


@dataclass(frozen=True, kw_only=True)
class SentimentRequest:
    """What is asked of `train_sentiment`.

    Attributes:
        settings: Settings.
        rules: Say which types are ratings, and what the middle of their scale is.
        span: Interactions that are read.
        force: Whether what was learned serves even where it was not shown to help.
    """

    settings: SentimentSettings = field(default_factory=SentimentSettings)
    rules: HistoryRules = field(default_factory=HistoryRules)
    span: Range = field(default_factory=Range)
    force: bool = False


class Trained(NamedTuple):
    """A classifier that was published.

    Attributes:
        folder: Version in the home.
        comments: Numbers of positive and of negative comments that were learned from.
        separation: How well held out comments were told apart.
        effect: What it does to recommendations for held out users.
        seconds: Duration.
        verdict: Whether it serves, and why.
    """

    folder: Path
    comments: tuple[int, int]
    separation: Separation
    effect: Effect
    seconds: float
    verdict: Verdict


def settings_of(given: Mapping[str, Any]) -> SentimentSettings:
    """Validated settings; raises TrainingError for wrong ones."""
    try:
        return msgspec.convert(dict(given), SentimentSettings)
    except msgspec.ValidationError as error:
        raise TrainingError(f"settings of the training {NAME!r}: {error}") from None


def train_sentiment(
    workspace: Workspace, place: Path | str, request: SentimentRequest, *, stage: Stage = silent
) -> Trained:
    """Train a logistic regression on the vectors of rated comments, judge it, and serve it where it helps.

    The comments of some users are held out; on these it is judged. What is published then learned from all.

    Raises:
        TrainingError: There is no index, there are too few comments, or a setting is wrong.
        ServerError: The store, the encoder or the snapshot cannot be read.
    """
    start = time.perf_counter()
    if isinstance(place, Path) and not place.exists():
        raise TrainingError(f"there is nothing to train on: no {place}; run: recserve interactions import FILE")
    served = active(workspace) if published(workspace.snapshots) else None
    if served is None:
        raise TrainingError("the encoder of the index reads comments, and there is no index; run: recserve index build")
    settings = request.settings
    with InteractionStore(place) as store:
        found = read_comments(store, request.rules, request.span, settings.comments, stage)
        encoder = TextEncoder(served.folder)
        with stage("encode the comments", len(found.texts)) as advance:
            vectors = encoder.encode(found.texts, role="query", done=advance)
        with stage(f"train {NAME}", None), one_thread():
            judged = _judged(workspace, found, vectors, request)
            model = _fitted(vectors, found.is_positive, judged.inverse, settings)
        verdict = _verdict(judged, force=request.force)
        seconds = time.perf_counter() - start
        made_from = _made_from(workspace, found, judged, request, seconds) | {"judged": msgspec.to_builtins(verdict)}
        origin = Origin("", encoder.fingerprint, made_from)
        folder = publish_model(workspace.spaces, NAME, Model(model.arrays()), origin=origin, reads_text=True)
        if verdict.serves:
            serve_versions(workspace, {NAME: folder}, stage=stage)
            remove_traces(workspace, store, {NAME: folder})
    return Trained(folder, found.kinds, judged.separation, judged.effect, seconds, verdict)


class _Judged(NamedTuple):
    """What held out users say of a classifier.

    Attributes:
        inverse: The inverse regularisation, chosen without them.
    """

    inverse: float
    separation: Separation
    effect: Effect


def _judged(workspace: Workspace, found: Comments, vectors: Vectors, request: SentimentRequest) -> _Judged:
    """Learn from some of the users, and judge by the others."""
    held, user = _held_out(found, request.settings), found.columns.user
    inverse = _chosen(vectors[~held], found.is_positive[~held], user[~held])
    model = _fitted(vectors[~held], found.is_positive[~held], inverse, request.settings)
    verdicts = model.verdicts(vectors)
    asked = np.zeros(found.columns.users, np.bool_)
    asked[user[held]] = True
    items = text_vectors(workspace, found.columns.subjects)
    assert items is not None  # there is an index
    return _Judged(
        inverse,
        separation(verdicts.positive[held], found.is_positive[held]),
        effect(found.columns, found.is_positive, verdicts.factor, asked, items, request.rules),
    )


def _made_from(
    workspace: Workspace, found: Comments, judged: _Judged, request: SentimentRequest, seconds: float
) -> dict[str, Any]:
    return {
        "log": {
            "number": found.number,
            "revision": found.revision,
            "interactions": len(found.texts),
            "users": found.columns.users,
            "newest_us": int(found.columns.time_us.max()),
        },
        "since": request.span.since and request.span.since.isoformat(),
        "until": request.span.until and request.span.until.isoformat(),
        "rules": request.rules.version,
        "snapshot": current(workspace.snapshots).name,
        "settings": msgspec.to_builtins(request.settings),
        "figures": {
            "size": "{:,} positive and {:,} negative comments".format(*found.kinds),
            "seconds": round(seconds, 2),
            "inverse_regularisation": judged.inverse,
            "separation": judged.separation._asdict(),
            "effect": judged.effect._asdict(),
        },
    }


def _held_out(found: Comments, settings: SentimentSettings) -> Mask:
    """[comments] whether the user is held out; raises TrainingError where that leaves too few of a kind."""
    users = np.random.default_rng(settings.seed).permutation(found.columns.users)
    held: Mask = np.isin(found.columns.user, users[: round(settings.held_out * len(users))])
    for part in (held, ~held):
        kinds = np.bincount(found.is_positive[part], minlength=2)
        if kinds.min() < _FOLDS:
            raise TrainingError(
                f"of {found.columns.users} users, {settings.held_out:.0%} are held out to judge by, which leaves "
                f"{kinds[1]} positive and {kinds[0]} negative comments on one side: record more, or try another --set "
                "held_out or seed"
            )
    return held


def _chosen(vectors: Vectors, is_positive: Mask, users: Ints) -> float:
    """The inverse regularisation with the best area under the curve, on users that were not learned from."""
    # Here, since loading scikit-learn takes a while.
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_score

    folds = StratifiedGroupKFold(_FOLDS)
    scores = [
        cross_val_score(_regression(one), vectors, is_positive, groups=users, cv=folds, scoring="roc_auc").mean()
        for one in _CHOICES
    ]
    return _CHOICES[int(np.argmax(np.nan_to_num(scores)))]


def _fitted(vectors: Vectors, is_positive: Mask, inverse: float, settings: SentimentSettings) -> Sentiment:
    found = _regression(inverse).fit(vectors, is_positive)
    return Sentiment(
        found.coef_[0].astype(np.float64), float(found.intercept_[0]), (settings.positive, settings.negative)
    )


def _regression(inverse: float) -> Any:
    """A logistic regression in which positive and negative texts together have the same weight."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=inverse, class_weight="balanced", max_iter=1000)


def _verdict(judged: _Judged, *, force: bool) -> Verdict:
    of, auc = judged.effect, judged.separation.auc
    serves, why = True, f"it tells held out comments apart (area under the curve {auc:.3f})"
    if force:
        why = "forced"
    elif not judged.separation.p_value < _SIGNIFICANT:  # also for NaN
        serves, why = False, f"it does not tell held out comments apart (area under the curve {auc:.3f})"
    elif of.comments < of.plain:
        serves, why = False, f"its weights do not help ({of.low:+.4f} to {of.high:+.4f} NDCG@10)"
    return Verdict(
        serves=serves, why=why, users=of.users, ndcg=of.comments, champion_ndcg=of.plain, low=of.low, high=of.high
    )
