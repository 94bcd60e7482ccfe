"""`report.html` and its two plots: the report of an encoder for people, in one file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import numpy as np

from recserve_export.encoder.checks.fidelity import K
from recserve_export.encoder.checks.speed import PYTORCH
from recserve_export.encoder.report.report import Candidate, EncoderReport
from recserve_export.pages.page import png_url, render
from recserve_server_ext.common.arrays import Floats
from recserve_server_ext.common.files import write_file

PAGE: Final = "report.html"
COSINES: Final = "cosines.png"
SPEED: Final = "speed.png"

#: Below it 1 - cosine is rounding; a logarithmic axis has no zero.
_LEAST_LOSS: Final = 1e-15
#: Characters of a text.
_MOST_SHOWN: Final = 160
Row = tuple[str, ...]


def write_page(folder: Path, report: EncoderReport, cosines: Floats) -> None:
    """Write the page and its plots beside a report; `cosines` [texts] are those of the compared texts with PyTorch."""
    plots = {COSINES: _draw_cosines(report, cosines), SPEED: _draw_speed(report)}
    for name, png in plots.items():
        write_file(folder / name, png)
    page = render(
        "recserve_export.encoder.report",
        "page.html.j2",
        report=report,
        misses=", ".join(report.gate.misses(report.fidelity)),
        cosines=png_url(plots[COSINES]),
        speed=png_url(plots[SPEED]),
        fidelity=_fidelity(report),
        times=_times(report),
        candidates=[_candidate(one) for one in report.candidates],
        sizes=_sizes(report),
        machine=_machine(report),
        cut=_cut,
        zip=zip,
    )
    write_file(folder / PAGE, page)


def _fidelity(report: EncoderReport) -> list[Row]:
    found, gate, alone = report.fidelity, report.gate, report.batch_invariance
    same = "no bit" if alone.is_bit_equal else f"at most {alone.max_abs_difference:.2g}"
    return [
        ("mean cosine", f"{found.mean_cos:.6f}", f"{gate.mean_cos:g}"),
        ("1st percentile of the cosine", f"{found.p01_cos:.6f}", f"{gate.p01_cos:g}"),
        ("least cosine", f"{found.min_cos:.6f}", ""),
        (f"overlap@{K} of nearest neighbours", f"{found.overlap:.4f}", f"{gate.overlap:g}"),
        (f"Spearman of {found.pairs:,} pairs", f"{found.spearman:.5f}", f"{gate.spearman:g}"),
        (f"difference that a batch makes to {alone.texts:,} texts", same, ""),
    ]


def _times(report: EncoderReport) -> list[Row]:
    """Texts/s and latency of the encoder beside PyTorch's, for each length and batch."""
    theirs = {(point.tokens, point.batch): point for point in report.grid if point.system == PYTORCH}
    ours = [(point, theirs[point.tokens, point.batch]) for point in report.grid if point.system != PYTORCH]
    return [
        (
            f"{point.tokens}",
            f"{point.batch}",
            f"{point.texts_per_s:,.0f}",
            f"{point.latency_ms:.2f}",
            f"{other.texts_per_s:,.0f}",
            f"{other.latency_ms:.2f}",
            f"{point.texts_per_s / other.texts_per_s:.2f}",
        )
        for point, other in ours
    ]


def _sizes(report: EncoderReport) -> list[Row]:
    files = [(name, f"{size:,}") for name, size in sorted(report.sizes_bytes.items())]
    return [
        *files,
        ("together", f"{report.size_bytes:,}"),
        ("weights it was exported from", f"{report.source_bytes:,}"),
    ]


def _machine(report: EncoderReport) -> list[Row]:
    machine = report.machine
    return [
        ("CPU", f"{machine.cpu}, {machine.cores} cores"),
        ("int8 arithmetic", machine.int8_arithmetic),
        ("CPU flags", " ".join(machine.flags)),
        *sorted(report.versions.items()),
        ("seed", str(report.seed)),
    ]


def _candidate(one: Candidate) -> Row:
    return (
        one.precision,
        f"{one.size_bytes:,}",
        f"{one.fidelity.mean_cos:.4f}",
        f"{one.fidelity.p01_cos:.4f}",
        f"{one.fidelity.overlap:.3f}",
        f"{one.fidelity.spearman:.4f}",
        f"{one.speed.titles:,.0f}",
        f"{one.speed.descriptions:,.0f}",
        ", ".join(one.misses) or ("chosen" if one.is_chosen else "passes"),
    )


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}… ({len(text):,} characters)"


def _draw_cosines(report: EncoderReport, cosines: Floats) -> bytes:
    figure, (axes,) = _figure(1)
    loss = np.maximum(1 - cosines, _LEAST_LOSS)
    axes.hist(loss, bins=np.logspace(np.log10(loss.min()) - 0.05, np.log10(loss.max()) + 0.05, 40), color="C0")
    bounds = ((report.gate.mean_cos, "gate, mean", "--"), (report.gate.p01_cos, "gate, 1st percentile", ":"))
    for bound, name, line in bounds:
        if bound < 1:
            axes.axvline(1 - bound, color="grey", linestyle=line, label=f"{name}: {bound:g}")
    mean = max(1 - report.fidelity.mean_cos, _LEAST_LOSS)
    axes.axvline(mean, color="C3", label=f"mean: 1 - {mean:.1g}")
    title = f"{report.name}, {report.precision}: {len(cosines):,} texts"
    axes.set(xscale="log", xlabel="1 - cosine with PyTorch (left is better)", ylabel="texts", title=title)
    axes.legend(fontsize="small")
    return _png(figure)


def _draw_speed(report: EncoderReport) -> bytes:
    lengths = sorted({point.tokens for point in report.grid})
    figure, panels = _figure(len(lengths))
    for axes, length in zip(panels, lengths, strict=True):
        for number, system in enumerate(dict.fromkeys(point.system for point in report.grid)):
            points = [point for point in report.grid if (point.system, point.tokens) == (system, length)]
            places = np.arange(len(points)) + (number - 0.5) * 0.4
            bars = axes.bar(places, [point.texts_per_s for point in points], 0.4, label=system, color=f"C{number}")
            axes.bar_label(bars, fmt="{:,.0f}", fontsize=8)
            axes.set_xticks(range(len(points)), [str(point.batch) for point in points])
        axes.set(xlabel="texts of a call", title=f"{length} tokens")
        axes.margins(y=0.15)
    panels[0].set_ylabel("texts/s")
    panels[0].legend(fontsize="small", loc="upper left")
    return _png(figure)


def _figure(panels: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    return figure, [figure.add_subplot(1, panels, number + 1) for number in range(panels)]


def _png(figure: Any) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()
