"""`recserve train sentiment`: learns what comments say, prints how well, and says whether it serves."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from recserve_client.cli.console import note
from recserve_export.cli.common import say, stage_bar
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.history import HistoryRules


def sentiment(
    workspace: Workspace,
    place: Path | str,
    given: Mapping[str, Any],
    rules: HistoryRules,
    span: tuple[datetime | None, datetime | None],
    *,
    force: bool,
) -> None:
    """Train, and print the figures."""
    from recserve_export.training.publish import Range
    from recserve_export.training.sentiment.home import SentimentRequest, settings_of, train_sentiment

    request = SentimentRequest(settings=settings_of(given), rules=rules, span=Range(*span), force=force)
    done = train_sentiment(workspace, place, request, stage=stage_bar)
    positive, negative = done.comments
    say(f"sentiment: {positive:,} positive and {negative:,} negative comments, {done.seconds:.1f} s, in {done.folder}")
    auc, _, (high, low) = done.separation
    say(f"held out users: area under the curve {auc:.3f}; right of positive comments {high:.1%}, of negative {low:.1%}")
    of = done.effect
    if of.users:
        say(
            f"NDCG@10 of {of.users:,} held out users by text: {of.plain:.4f} without comments, {of.comments:.4f} with "
            f"them ({of.low:+.4f} to {of.high:+.4f}), {of.ratings:.4f} with their ratings"
        )
    note(f"sentiment {'serves' if done.verdict.serves else 'does not serve'}: {done.verdict.why}")
