"""`recserve train encoder`: fine-tunes the encoder, prints the proof, and says how to serve it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from recserve_client.cli.console import fail, note, out
from recserve_client.cli.tables import table
from recserve_export.cli.common import say, stage_bar
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.history import HistoryRules

if TYPE_CHECKING:
    from recserve_export.training.encoder.report import TrainingReport


def encoder(
    workspace: Workspace,
    place: Path | str,
    given: Mapping[str, Any],
    rules: HistoryRules,
    span: tuple[datetime | None, datetime | None],
    model: str | None,
    budget_s: float | None,
    keep: float,
) -> None:
    """Train, print the report; exit code 1 where the gate found something wrong."""
    from recserve_export.training.encoder.home import EncoderRequest, settings_of, train_encoder
    from recserve_export.training.publish import Range

    _yield_to_others()
    request = EncoderRequest(
        model=model, settings=settings_of(given), rules=rules, span=Range(*span), budget_s=budget_s, keep=keep
    )
    done = train_encoder(workspace, place, request, stage=stage_bar)
    _print(done.report)
    say(f"the encoder is in {done.model}, the report in {done.folder}")
    if done.report.misses:
        fail(f"not to be served: {'; '.join(done.report.misses)}")
    note(f"serve it with: recserve export encoder {done.model}, then: recserve encoder activate VERSION --reindex")


def _print(report: TrainingReport) -> None:
    """Print the figures."""
    names = list(report.differences)
    rows = [[name, *(f"{one.ndcg[name]:.4f}" for one in report.systems)] for name in names]
    out.print(table(["NDCG@10", *(one.name for one in report.systems)], rows))
    cold = report.differences[names[0]]
    say(
        f"{report.course.steps:,} updates in {report.course.seconds:,.0f} s, the best after {report.course.best:,}; "
        f"{names[0]}: {cold.mean:+.4f} ({cold.low:+.4f} to {cold.high:+.4f})"
    )
    if report.search is not None:
        say(f"search by a text field: {report.search[0]:.4f} before, {report.search[1]:.4f} now")
    say(f"agreement on unrelated sentences: {report.keep:.4f}, at least {report.least_keep:g}")


def _yield_to_others() -> None:
    """Give way to what serves beside it: below everything else in the use of the CPU, and of the disk."""
    process = psutil.Process()
    with suppress(psutil.Error, AttributeError, OSError):  # no such priorities here
        process.nice(max(process.nice(), 10))
        process.ionice(psutil.IOPRIO_CLASS_IDLE)
