"""`report.html` and its two plots: the report of an encoder for people, in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np

from recserve_export.encoder.checks.fidelity import K, WorstText
from recserve_export.encoder.checks.speed import PYTORCH
from recserve_export.encoder.report.report import EncoderReport
from recserve_server_ext.common.arrays import Floats
from recserve_server_ext.common.files import write_file

PAGE: Final = "report.html"
COSINES: Final = "cosines.png"
SPEED: Final = "speed.png"

#: Below it 1 - cosine is rounding; a logarithmic axis has no zero.
_LEAST_LOSS: Final = 1e-15

_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .25em .8em; border-bottom: 1px solid #ddd }
th { text-align: left } td { vertical-align: top }
img { max-width: 100% } .miss { color: #b00020 } summary { cursor: pointer }
"""


def write_page(folder: Path, report: EncoderReport, cosines: Floats) -> None:
    """Write the page and its plots beside a report; `cosines` [texts] are those of the compared texts with PyTorch."""
    plots = {COSINES: _draw_cosines(report, cosines), SPEED: _draw_speed(report)}
    for name, png in plots.items():
        write_file(folder / name, png)
    write_file(folder / PAGE, _page(report, plots).encode())


def _page(report: EncoderReport, plots: dict[str, bytes]) -> str:
    misses = ", ".join(report.gate.misses(report.fidelity))
    images = {
        name: f'<p><img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'
        for name, png in plots.items()
    }
    parts = [
        f"<h1>{escape(report.name)}, {report.precision}</h1>",
        f"<p>Encoder {report.fingerprint}; {report.fidelity.texts:,} texts ({escape(report.texts)}), of which "
        f"{report.truncated_texts:,} are longer than it takes; against PyTorch in fp32.</p>",
        f'<p class="miss">Misses the gate: {escape(misses)}</p>' if misses else "<p>Passes the gate.</p>",
        f'<p class="miss">Not gated on this machine: {escape(report.not_gated)}.</p>' if report.not_gated else "",
        "<h2>Is it the same model?</h2>",
        _fidelity(report),
        f"<p>Tokenizer: {escape(report.tokenizer)}.</p>" if report.tokenizer else "",
        images[COSINES],
        "<h2>How fast?</h2>",
        images[SPEED],
        _speed(report),
        _candidates(report),
        "<h2>How large?</h2>",
        _sizes(report),
        "<h2>Measured on</h2>",
        _machine(report),
        "<h2>The texts that lost most</h2>",
        *map(_worst, report.worst),
    ]
    body = "\n".join(parts)
    title = f"{escape(report.name)} {report.precision}"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _fidelity(report: EncoderReport) -> str:
    found, gate, alone = report.fidelity, report.gate, report.batch_invariance
    same = "no bit" if alone.is_bit_equal else f"at most {alone.max_abs_difference:.2g}"
    figures = [
        ("mean cosine", f"{found.mean_cos:.6f}", f"{gate.mean_cos:g}"),
        ("1st percentile of the cosine", f"{found.p01_cos:.6f}", f"{gate.p01_cos:g}"),
        ("least cosine", f"{found.min_cos:.6f}", ""),
        (f"overlap@{K} of nearest neighbours", f"{found.overlap:.4f}", f"{gate.overlap:g}"),
        (f"Spearman of {found.pairs:,} pairs", f"{found.spearman:.5f}", f"{gate.spearman:g}"),
        (f"difference that a batch makes to {alone.texts:,} texts", same, ""),
    ]
    return _table(("figure", "measured", "gate"), figures)


def _speed(report: EncoderReport) -> str:
    """Texts/s and latency of the encoder beside PyTorch's, for each length and batch."""
    theirs = {(point.tokens, point.batch): point for point in report.grid if point.system == PYTORCH}
    ours = [(point, theirs[point.tokens, point.batch]) for point in report.grid if point.system != PYTORCH]
    rows = [
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
    of_ours = ("tokens of a text", "texts of a call", "texts/s", "ms a call")
    return _table((*of_ours, "PyTorch: texts/s", "ms a call", "times as fast"), rows)


def _sizes(report: EncoderReport) -> str:
    files = [(name, f"{size:,}") for name, size in sorted(report.sizes_bytes.items())]
    total, source = report.size_bytes, report.source_bytes
    rows = [*files, ("together", f"{total:,}"), ("weights it was exported from", f"{source:,}")]
    return _table(("file", "bytes"), rows) + f"<p>{total / source:.0%} of the weights it was exported from.</p>"


def _machine(report: EncoderReport) -> str:
    machine = report.machine
    rows = [
        ("CPU", f"{machine.cpu}, {machine.cores} cores"),
        ("int8 arithmetic", machine.int8_arithmetic),
        ("CPU flags", " ".join(machine.flags)),
        *sorted(report.versions.items()),
        ("seed", str(report.seed)),
    ]
    return _table(("", ""), rows)


def _candidates(report: EncoderReport) -> str:
    if not report.candidates:
        return ""
    rows = [
        (
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
        for one in report.candidates
    ]
    names = ("precision", "bytes", "mean cos", "1% cos", "overlap", "Spearman", "titles/s", "descriptions/s", "gate")
    return "<h3>Candidates, in turn</h3>" + _table(names, rows)


def _worst(one: WorstText) -> str:
    lists = zip(one.expected, one.found, strict=True)
    table = _table(
        ("nearest by PyTorch", "nearest by the encoder"), [(_cut(expected), _cut(found)) for expected, found in lists]
    )
    return f"<details><summary>{one.cos:.5f} {escape(_cut(one.text))}</summary>{table}</details>"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cut(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


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
