"""What the reports of the benchmarks are made of: the machine, targets, tables and pictures."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.table import Table

from recserve_benchmarks.harness.run import CONTENTION, Run
from recserve_server_ext.common import cpu

#: Fewer items than this are a trial.
LEAST_ITEMS: Final = 60_000
#: More CPU contention than this share of the cores makes figures doubtful.
_MUCH_CONTENTION: Final = 0.05
_PACKAGES: Final = (
    "recserve", "faiss-cpu", "fastembed", "hnswlib", "infinity-emb", "numpy", "nvidia-pytriton", "onnx",
    "onnxruntime", "pymilvus", "scipy", "sentence-transformers", "sqlalchemy", "statsmodels", "tokenizers",
    "torch", "transformers", "tritonclient",
)  # fmt: skip


class Target(NamedTuple):
    """A figure to reach.

    Attributes:
        name: Dotted path of the figure in the results.
        bound: What it has to reach.
        goal: What it should reach one day, or `None`.
        at_least: Whether more is better.
    """

    name: str
    bound: float
    goal: float | None = None
    at_least: bool = True

    def met(self, value: float) -> bool:
        """Whether a value reaches the bound."""
        return value >= self.bound if self.at_least else value <= self.bound


def value_of(results: Mapping[str, Any], name: str) -> float:
    """The figure at a path such as ``known.ratio_to_raw``."""
    return float(reduce(lambda group, key: group[key], name.split("."), results))  # type: ignore[arg-type]


def machine() -> dict[str, Any]:
    """The command, the hardware, versions, and the commit: with `+` where files differ, `None` outside a checkout."""
    return {
        "command": " ".join(["recserve", *sys.argv[1:]]),
        "cpu": cpu.model_name(),
        "cores": cpu.usable_cores(),
        "int8_arithmetic": cpu.int8_arithmetic(),
        "cpu_flags": cpu.vector_flags(),
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := installed(name)) is not None},
        "commit": _commit(),
    }


def setup(run: Run, **more: Any) -> dict[str, Any]:
    """What a benchmark ran with, on which machine, and its CPU contention; call it when the servers have ended."""
    encoder = {"name": run.manifest.name, "precision": run.manifest.precision}
    return {
        **machine(),
        "encoder": {**encoder, "fingerprint": run.manifest.runtime_fingerprint},
        "rounds": run.rounds,
        "quick": run.quick,
        "seed": run.seed,
        "contention": {} if run.contention is None else run.contention.shares(),
        **more,
    }


def installed(package: str) -> str | None:
    """The installed version of a package, or `None`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def title(results: Mapping[str, Any]) -> str:
    """The CPU, its arithmetic, cores, and the number of items."""
    of = results["setup"]
    items = f"; {of['items']:,} items" if "items" in of else ""
    return f"{of['cpu']}, {of['int8_arithmetic']}, {of['cores']} cores{items}"


def cautions(results: Mapping[str, Any]) -> list[str]:
    """Why the figures are not to be quoted: CPU contention, or too few items, users or texts."""
    of, lines = results["setup"], []
    shares = {"in a round": max(results.get("rounds", {}).get(CONTENTION, [0.0])), **of.get("contention", {})}
    when = max(shares, key=lambda name: shares[name])
    if shares[when] > _MUCH_CONTENTION:
        lines.append(f"other programs used up to {shares[when]:.0%} of the cores, {when}: measure again without them")
    if of["quick"] or of.get("items", LEAST_ITEMS) < LEAST_ITEMS:
        lines.append(f"a trial, not to be quoted: {'--quick' if of['quick'] else format(of['items'], ',') + ' items'}")
    return lines


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1, title: str | None = None) -> Table:
    """A table of texts and figures; the first columns, as many as `texts`, are to the left."""
    found = Table(box=None, header_style="bold", pad_edge=False, title=title, title_justify="left")
    for place, heading in enumerate(headings):
        found.add_column(heading, justify="left" if place < texts or not heading else "right")
    for row in rows:
        found.add_row(*row)
    return found


def matrix(values: Mapping[str, Mapping[str, float]], corner: str = "") -> Table:
    """A table of figures by row and column, with the names that they have in the JSON."""
    columns = list(dict.fromkeys(column for of in values.values() for column in of))
    rows = [(row, *(number(of[name]) if name in of else "" for name in columns)) for row, of in values.items()]
    return table((corner, *columns), rows)


def number(value: float) -> str:
    """A figure with three digits at least."""
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 3}f}"


def targets_table(results: Mapping[str, Any], wanted: Iterable[Target]) -> Table:
    """Targets, whether they are met, and the range of each figure over the rounds."""
    rows = []
    for target in wanted:
        value = value_of(results, target.name)
        met = "[green]yes[/]" if target.met(value) else "[bold red]no[/]"
        bound = f"{'>=' if target.at_least else '<='} {target.bound:.4g}"
        goal = "" if target.goal is None else f"{target.goal:g}"
        rounds = "-".join(map(number, results.get("spread", {}).get(target.name, ())))
        rows.append((target.name, number(value), rounds, bound, goal, met))
    return table(("figure", "measured", "rounds", "target", "goal", "met"), rows)


@contextmanager
def picture(path: Path, title: str, rows: int, columns: int, size: tuple[float, float]) -> Iterator[list[Any]]:
    """Draw rows and columns of panels into a PNG of this size (inches); yields their axes, row by row."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    yield list(panels.flat)
    for axes in panels.flat:
        axes.grid(visible=True, alpha=0.3)
        axes.set_axisbelow(True)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def horizontal_bars(axes: Any, values: Mapping[str, Sequence[float]], colours: Sequence[str]) -> None:
    """A bar for the middle of each sequence (least, middle, greatest), the first on top, with whiskers to the ends."""
    least, middle, most = np.array(list(values.values())).T
    whiskers = (middle - least, most - middle)
    axes.barh(list(values), middle, color=colours, xerr=whiskers, error_kw={"capsize": 2, "alpha": 0.6})
    axes.set_xlim(left=0)
    axes.invert_yaxis()


def _commit() -> str | None:
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+" if changed else commit
