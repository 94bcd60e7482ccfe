"""The report of a trained encoder, as JSON and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from recserve_export.training.encoder.fit import Fitted
from recserve_export.training.encoder.settings import EncoderSettings
from recserve_server_ext.common.files import write_file, write_json

#: Names of the files.
JSON: Final = "report.json"
MARKDOWN: Final = "report.md"


class System(msgspec.Struct, frozen=True, kw_only=True):
    """What one way to recommend reaches.

    Attributes:
        name: Name.
        ndcg: Mean NDCG@10 by question.
    """

    name: str
    ndcg: dict[str, float]


class Difference(msgspec.Struct, frozen=True):
    """The trained encoder less the first one, with the 95% interval of a paired bootstrap over users."""

    mean: float
    low: float
    high: float


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """What was read and what of it was trained on.

    Attributes:
        number: Number of the last interaction that was read.
        revision: Revision of the interaction store then.
        interactions: Positive interactions with items that were read.
        trained: Those that were trained on.
        pairs: Pairs of items among these.
        items: Items with a text.
        held_out: Items that were held out to judge by, and as many again to stop by.
        users: Users that were asked, by question.
        since: Begin of the range of time, or `None`.
        until: Its end, or `None`.
        rules: Version of the rules of histories.
    """

    number: int
    revision: int
    interactions: int
    trained: int
    pairs: int
    items: int
    held_out: int
    users: dict[str, int]
    since: str | None
    until: str | None
    rules: str


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True):
    """Content of `report.json`.

    Attributes:
        model: Folder or name of the model that was trained.
        source_sha256: Checksum of the first model; see `recserve_export.encoder.source.folder.EncoderSource.sha256`.
        data: What was read.
        settings: Settings of the training.
        course: Updates, looks and duration.
        versions: Versions of packages.
        systems: The first encoder, the trained one, each fused with `ease` and with a `text_head` over it, and the
            controls.
        differences: The trained encoder less the first one, by question.
        search: NDCG@10 of searches, first encoder and trained; `None` where items have one text field.
        keep: Rank correlation of the similarities of unrelated sentences with those of the first encoder.
        least_keep: Bound of `keep`.
        misses: What the gate found wrong; empty where it passed.
    """

    model: str
    source_sha256: str
    data: Data
    settings: EncoderSettings
    course: Fitted
    versions: dict[str, str]
    systems: list[System]
    differences: dict[str, Difference]
    search: tuple[float, float] | None
    keep: float
    least_keep: float
    misses: list[str]


def write(folder: Path, report: TrainingReport) -> None:
    """Write both files.

    Raises:
        OSError: One cannot be written.
    """
    write_json(folder / JSON, report)
    write_file(folder / MARKDOWN, markdown(report).encode())


def markdown(report: TrainingReport) -> str:
    """The report as a page."""
    data, course = report.data, report.course
    names = list(report.differences)
    lines = [
        f"# {report.model}, trained on the log",
        "",
        f"The log up to interaction {data.number:,}: {data.interactions:,} interactions, {data.trained:,} trained on, "
        f"{data.pairs:,} pairs of {data.items:,} items. {data.held_out:,} items were held out to judge by.",
        "",
        f"{course.steps:,} updates in {course.seconds:,.0f} s; the model is that after {course.best:,}.",
        "",
        "NDCG@10 of the strategy `text`, by what is to be found:",
        "",
        *_table(
            ["", *(one.name for one in report.systems)],
            [[name, *(f"{one.ndcg[name]:.4f}" for one in report.systems)] for name in names],
        ),
        *_table(
            ["trained less first", "mean", "95% interval", "users"],
            [
                [name, f"{of.mean:+.4f}", f"{of.low:+.4f} to {of.high:+.4f}", f"{data.users[name]:,}"]
                for name, of in report.differences.items()
            ],
        ),
        f"Similarity of unrelated sentences, rank correlation with the first encoder: {report.keep:.4f} "
        f"(at least {report.least_keep:g}).",
        "",
    ]
    if report.search is not None:
        lines += [f"Search by a text field, NDCG@10: {report.search[0]:.4f} first, {report.search[1]:.4f} trained.", ""]
    lines += [f"Gate: {'; '.join(report.misses) or 'passed'}.", ""]
    looks = [
        [f"{look.step:,}", f"{look.ndcg:.4f}", "" if look.loss is None else f"{look.loss:.3f}"] for look in course.looks
    ]
    lines += _table(["updates", "NDCG@10 of the look", "loss"], looks)
    settings: dict[str, Any] = msgspec.to_builtins(report.settings)
    lines += _table(["setting", "value"], [[f"`{name}`", str(value)] for name, value in settings.items()])
    return "\n".join(lines)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)] + [""]
