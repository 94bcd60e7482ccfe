"""What `recserve bench strategies` shows: a table of each size, and a plot of the cost by strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import RenderableType

from recserve_benchmarks.harness.report import cautions, horizontal_bars, matrix, picture, title


def parts(results: dict[str, Any]) -> list[RenderableType]:
    """Lines and tables, at most 100 columns wide."""
    lines: list[RenderableType] = [title(results)]
    for size, of in results["sizes"].items():
        lines += [f"{int(size):,} items; echo {of['echo']['cpu_us']:.0f} us", matrix(of["strategies"], "strategy")]
    contention = {
        "rounds": {"contention": [share for of in results["sizes"].values() for share in of["rounds"]["contention"]]}
    }
    return [*lines, *cautions({"setup": results["setup"], **contention})]


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot the CPU of a user above the echo, by strategy, for each size."""
    sizes = results["sizes"]
    with picture(path, f"recserve, {title(results)}", 1, len(sizes), (6 * len(sizes), 6)) as panels:
        for axes, (size, of) in zip(panels, sizes.items(), strict=True):
            bars = {}
            for name, figures in of["strategies"].items():
                least, most = of["spread"][f"strategies.{name}.cpu_us_per_user"]
                bars[name] = least, figures["cpu_us_per_user"], most
            horizontal_bars(axes, bars, ["tab:blue"] * len(bars))
            axes.set(xlabel="CPU above the echo, us a user", title=f"{int(size):,} items")
