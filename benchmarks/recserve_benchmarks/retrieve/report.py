"""Tables of `recserve bench retrieve`."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from recserve_benchmarks.harness.report import Target
from recserve_benchmarks.retrieve.candidates import WANTED

#: Parameters that are shown, and how: a table has 100 columns.
_SHOWN = {"M": "M", "ef": "ef", "lists": "L", "codes": "C", "nprobe": "P", "rescored": "R"}


def targets(results: dict[str, Any]) -> list[Target]:
    """What has to be reached."""
    found = [
        Target("user_vectors.best_to_hnsw", 4, 8, at_least=True),
        Target("ratio_to_raw.no_delta", 0.9, None, at_least=True),
        Target("ratio_to_raw.delta_1pct", 0.7, None, at_least=True),
    ]
    for share in results["filtered"]:
        found.append(Target(f"filtered.{share}.recall_at_10", 0.98, None, at_least=True))
        found.append(Target(f"filtered.{share}.ratio_to_unfiltered", 0.25, None, at_least=True))
    if "swap_under_load" in results:
        found += [
            Target("swap_under_load.failed", 0, None, at_least=False),
            Target("swap_under_load.p99_ratio", 3, None, at_least=False),
        ]
    return found


def curves_table(results: dict[str, Any]) -> Table:
    """Every engine and its parameters: recall by kind of user, users/s of `interests` by batch; at most 100 columns."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("engine", "parameters"):
        table.add_column(name)
    for name in ("interests", "random", "users/s", "by 8", "by 32", "random,\nby 32"):
        table.add_column(name, justify="right")
    table.add_column("")
    for engine, kinds in results["engines"].items():
        for point, other in zip(kinds["interests"], kinds["random"], strict=True):
            speeds = [f"{point['users_per_s'][batch]:,.0f}" for batch in ("1", "8", "32")]
            recalls = [f"{one['recall_at_10']:.4f}" for one in (point, other)]
            last = f"{other['users_per_s']['32']:,.0f}"
            table.add_row(engine, _shown(point["parameters"]), *recalls, *speeds, last, _mark(point))
    return table


def comparison_table(results: dict[str, Any]) -> Table:
    """What auto chose against hnswlib's best setting, for `interests` alone and for both kinds; 100 columns at most."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("wanted", "", "parameters"):
        table.add_column(name)
    for name in ("recall@10", "32 users/s", "CPU us/user", "times hnsw", "by CPU"):
        table.add_column(name, justify="right")
    compared = results["user_vectors"]
    for wanted in WANTED:
        for what in ("hnsw", "chosen"):
            if (of := compared[wanted][what]) is None:
                table.add_row(wanted, what, "no graph reaches it")
                continue
            ratios = [f"{compared[wanted][name]:.2f}" for name in ("best_to_hnsw", "cpu_hnsw_to_best")]
            table.add_row(
                wanted,
                of["engine"],
                _shown(of["parameters"]),
                f"{min(of['recall_at_10'].values()):.4f}",
                f"{of['users_per_s']:,.0f}",
                f"{of['cpu_us_per_user']:,.0f}",
                *(ratios if what == "chosen" else ()),
            )
    return table


def _shown(parameters: dict[str, int]) -> str:
    return " ".join(f"{short} {parameters[name]}" for name, short in _SHOWN.items() if name in parameters)


def _mark(point: dict[str, Any]) -> str:
    """Which comparisons a point is part of: * chosen by auto, = hnswlib's smallest ef."""
    marks = [f"*{name}" for name in point["chosen_for"]] + [f"={name}" for name in point["least_ef_for"]]
    return " ".join(marks)


def scale_table(results: dict[str, Any]) -> Table:
    """Growth with the number of items, every engine with what would be served; at most 100 columns wide."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("items", "engine", "parameters"):
        table.add_column(name, justify="right" if name == "items" else "left")
    for name in ("recall", "users/s", "CPU us/user", "at equal recall", "build s"):
        table.add_column(name, justify="right")
    table.add_column("")
    for point in results["scale"]["points"]:
        for name, of in point["engines"].items():
            table.add_row(
                f"{point['items']:,}",
                name,
                _shown(of["parameters"]),
                f"{min(of['recall_at_10'].values()):.4f}{'' if of['reached'] else ' misses'}",
                f"{of['users_per_s']:,.0f}",
                f"{of['cpu_us_per_user']:,.0f}",
                "" if of["cpu_us_at_recall"] is None else f"{of['cpu_us_at_recall']:,.0f}",
                "" if of["build_s"] is None else f"{of['build_s']:.1f}",
                "chosen" if point["chosen"] == name else "",
            )
    return table


def scale_notes(scale: dict[str, Any]) -> list[str]:
    """Starts, memory, growth, and what was left out."""
    lines = []
    for point in scale["points"]:
        lines.append(
            f"{point['items']:,} items ({point['synthetic']:,} synthetic): starts in {point['start_s']:.2f} s, "
            f"with cold files {point['cold_start_s']:.2f} s"
        )
        lines.append(
            f"  {point['anonymous_mb']:,.0f} MiB of its own and {point['mapped_mb']:,.0f} MiB of mapped files touched; "
            f"{point['disk_mb']:,.0f} MiB on disk"
        )
        left_out = point["left_out"]
        if graph := left_out.get("hnsw"):
            lines.append(
                f"  left out: hnsw, predicted to build {graph['predicted_build_s']:,.0f} s, "
                f"budget {scale['graph_budget_s']:,.0f} s (--graph-budget)"
            )
    for step in scale["cpu_growth"]:
        grown = [f"{name} {step[name]:.1f} times" for name in ("hnsw", "scan", "exact") if step[name] is not None]
        lines.append(f"CPU a user at equal recall, {step['from']:,} to {step['to']:,} items: {', '.join(grown)}")
    return lines


def notes(results: dict[str, Any]) -> list[str]:
    """What the tables leave out."""
    ratio = results["ratio_to_raw"]
    lines = [
        "of scan: L lists, C codes an item, P lists probed, R items rescored where ten are wanted",
        "* = chosen by auto for these users; = the graph's smallest ef with recall@10 "
        f"{results['user_vectors']['recall']} for them",
        f"retrieval over the bare engine ({ratio['width']} items asked for): {ratio['no_delta']:.3f}; "
        f"with a delta of 1%: {ratio['delta_1pct']:.3f}",
        f"retrieval over a bare call for ten items: {ratio['no_delta_to_ten']:.3f}",
    ]
    if swap := results.get("swap_under_load"):
        lines.append(
            f"swap: p99 {swap['p99_before_ms']:.1f} ms before, {swap['p99_during_ms']:.1f} during "
            f"{swap['compaction_s']:.1f} s of compaction, longest {swap['longest_during_ms']:.0f}"
        )
        lines.append(f"swap: {swap['requests']:,} requests, {swap['failed']} failed; {swap['upserts']:,} upserts")
    lines += scale_notes(results["scale"])
    setup = results["setup"]
    if setup["items"] < 60_000 or setup["quick"]:
        lines.append(f"a trial, not to be quoted: {setup['items']:,} items{', few users' if setup['quick'] else ''}")
    return lines
