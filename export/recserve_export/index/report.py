"""`report.json` of a space: what its engine and parameters were chosen from; as JSON, table and plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import RenderableType

from recserve_client.cli.tables import table
from recserve_export.index.recall import Choice, CurvePoint
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import sha256_of
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.space import REPORT, TEXT, space_folder

#: Parameters that are the same for all points of a report.
_FIXED = ("ef_construction", "codes")


class RecallReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine and its parameters were chosen from.

    Attributes:
        cpu: Name of the CPU.
        cpu_flags: Vector extensions that searching uses.
        threads: Threads of a search.
        items: Number of items.
        dim: Length of a vector.
        k: Items searched for.
        users: User vectors of each kind.
        users_from: `means of neighbours` (kinds `interests` and `random`), or `logged histories (n users)` (kind
            `logged`).
        seed: Seed of the users.
        engine: The engine that was asked for.
        thorough: Whether every engine was measured over all items.
        target: Recall wanted.
        choice: The point that was chosen.
        points: All that was measured. The chosen one is of all items; others may be of samples.
        from_last: Whether the choice is that of the snapshot before, verified again.
        seconds: Time of each part of the choice: `sample`, `build` and `verify`.
        encoded_texts: Distinct texts of the catalogue that were encoded for this index; the others were known.
        truncated_texts: Of those, the ones that are longer than the encoder takes, and so were cut off.
    """

    cpu: str
    cpu_flags: list[str]
    threads: int
    items: int
    dim: int
    k: int
    users: int
    users_from: str
    seed: int
    engine: str
    thorough: bool
    target: float
    choice: Choice
    points: list[CurvePoint]
    from_last: bool = False
    seconds: dict[str, float] = {}
    encoded_texts: int = 0
    truncated_texts: int = 0

    @property
    def chosen(self) -> CurvePoint:
        """The point that was chosen."""
        return self.points[self.choice.point]

    @property
    def how(self) -> str:
        """What the engine was chosen by, and the time that took, in words."""
        if self.thorough:
            return "every engine was measured over all items"
        sampled = {point.items for point in self.points} - {self.items}
        if self.from_last:
            by = "taken over from the snapshot before"
        elif sampled:
            by = f"chosen over a sample of {max(sampled):,} items"
        else:
            by = "chosen over all items"
        spent = {"sample": by, "build": "built", "verify": "verified"}
        return ", ".join(
            f"{what} in {self.seconds[part]:.1f} s" if self.seconds.get(part) else what
            for part, what in spent.items()
            if self.seconds.get(part) or part == "sample"
        )

    @property
    def cut(self) -> str:
        """How many texts were cut off, in words."""
        return (
            f"{self.truncated_texts:,} of {self.encoded_texts:,} texts that were encoded are longer than the encoder "
            "takes and were cut off"
        )


def read_report(folder: Path, space: str = TEXT) -> RecallReport:
    """The report of a space of a snapshot.

    Raises:
        SnapshotError: There is none, or it is damaged.
    """
    manifest = read_manifest(folder, verify=False)
    if space not in manifest.spaces:
        raise SnapshotError(f"snapshot {folder} has no space {space!r}; it has: {', '.join(manifest.spaces)}")
    path = space_folder(folder, space) / REPORT
    expected = manifest.files.get(path.relative_to(folder).as_posix())
    if expected is None:
        raise SnapshotError(f"snapshot {folder} was made without a report; {REBUILD} --force")
    if (found := sha256_of(path)) != expected:
        raise SnapshotError(f"{path} is damaged: SHA-256 {found[:12]}, manifest says {expected[:12]}; {REBUILD}")
    try:
        return msgspec.json.decode(path.read_bytes(), type=RecallReport)
    except msgspec.MsgspecError as error:
        raise SnapshotError(f"{path} cannot be read: {error}; {REBUILD} --force") from error


def shown(report: RecallReport) -> Iterator[RenderableType]:
    """The report as a table and lines."""
    kinds = list(report.points[0].recall)
    rows = []
    for point in report.points:
        parameters = " ".join(f"{name} {value}" for name, value in point.parameters.items() if name not in _FIXED)
        recalls = [f"{point.recall[kind]:.4f}" for kind in kinds]
        costs = [f"{point.users_per_s:,.0f}", f"{point.cpu_us_per_user:,.0f}"]
        rows.append([point.engine, parameters, *recalls, *costs, "chosen" if point is report.chosen else ""])
    right = (*kinds, "users/s", "CPU us/user")
    if any(point.items < report.items for point in report.points):
        right = ("items", *right)
        rows = [[*row[:2], f"{point.items:,}", *row[2:]] for row, point in zip(rows, report.points, strict=True)]
    title = f"recall@{report.k} for user vectors against exact search"
    yield table(("engine", "parameters", *right, ""), rows, right=right, title=title)
    yield f"{report.items:,} items of {report.dim} dimensions, {report.chosen.name}"
    yield (
        f"{report.users_from}: {report.users} users of each kind, seed {report.seed}, {report.threads} threads, "
        f"{report.cpu} ({', '.join(report.cpu_flags)})"
    )
    missed = "" if report.choice.reached else ": not reached, the nearest was chosen"
    yield f"target {report.target:g} for the worse kind, by its lower 95% bound{missed}"
    yield report.how
    yield report.cut


def draw(report: RecallReport, path: Path) -> None:
    """Plot recall by speed into a PNG: the best points of each index, and the others as faint dots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for number, (index, items) in enumerate(dict.fromkeys((point.index, point.items) for point in report.points)):
        points = [point for point in report.points if (point.index, point.items) == (index, items)]
        name = index if items == report.items else f"{index} of {items:,} items"
        for kind, line in zip(points[0].recall, ("-", "--", ":"), strict=False):
            axes.plot(*_axes_of(points, kind), "o", color=f"C{number}", markersize=3, alpha=0.5)
            axes.plot(*_axes_of(_front(points, kind), kind), f"o{line}", color=f"C{number}", label=f"{name}, {kind}")
    speed = report.chosen.users_per_s
    axes.axhline(report.target, color="grey", linewidth=1, label=f"target {report.target:g}")
    axes.axvline(speed, color="grey", linewidth=1, linestyle=":", label=f"chosen: {report.chosen.name}")
    axes.set(
        xscale="log",
        xlabel=f"users/s ({report.threads} threads, {report.cpu})",
        ylabel=f"recall@{report.k}",
        title=f"{report.items:,} items, {report.users_from}",
    )
    axes.legend(fontsize="small")
    figure.savefig(path, format="png", dpi=120)


def _axes_of(points: list[CurvePoint], kind: str) -> tuple[list[float], list[float]]:
    return [point.users_per_s for point in points], [point.recall[kind] for point in points]


def _front(points: list[CurvePoint], kind: str) -> list[CurvePoint]:
    """The points that no other one beats in both speed and recall, by falling speed."""
    front: list[CurvePoint] = []
    for point in sorted(points, key=lambda point: -point.users_per_s):
        if not front or point.recall[kind] > front[-1].recall[kind]:
            front.append(point)
    return front
