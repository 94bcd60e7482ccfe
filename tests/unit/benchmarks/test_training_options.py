"""`recserve bench training` over a small home: every variant by question, on what is no test data, and its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recserve_benchmarks.training.options import ASKED, OptionsRun
from recserve_benchmarks.training.report import lines
from recserve_export.encoder.source.folder import read_source
from recserve_export.training.base import training_log
from recserve_export.training.encoder.split import split
from recserve_export.training.store_log import read_log
from recserve_server_ext.interactions.store import InteractionStore
from support.genres import make_genre_home


def test_variants_are_measured_on_validation_data(source: Path, tmp_path: Path) -> None:
    workspace, kept = make_genre_home(tmp_path, source), list[dict[str, Any]]()
    run = OptionsRun(
        workspace=workspace,
        seeds=2,
        head_steps=5,
        steps=2,
        heads=({}, {"noise": 0.0}),
        encoders=({"hard": 1, "pairs": 8},),
        show=lambda *_: None,
        keep=kept.append,
    )
    vars(run)["source"] = read_source(source)
    with InteractionStore(workspace.interactions) as store:
        log = training_log(read_log(store).columns)
    judged = split(log, np.ones(len(log.items), np.bool_), 0.1, 0)
    # No item, and no interaction, that the report of a training judges by.
    tested = {log.items[n] for n in np.flatnonzero(judged.cold).tolist()}
    assert tested
    one, other = run.asked
    assert (one.cold != other.cold).any()
    left = one.train.columns
    assert tested.isdisjoint({left.subjects[n] for n in left.subject.tolist()})
    assert len(left.time_us) <= len(judged.train.item)
    results = run.measure()
    assert len(kept) == 3
    assert [row["settings"] for row in results["text_head"]] == [{}, {"noise": 0.0}]
    assert all(len(row["figures"][name]) == 2 for row in results["text_head"] for name in (*ASKED, "cpu_s"))
    (encoder,) = results["encoder"]
    assert len(encoder["figures"]["agreement"]) == len(encoder["figures"]["search"]) == 2
    assert all(len(of[name]) == 2 for of in results["controls"].values() for name in ASKED)
    table = lines(results)
    assert len(table) == 2 + 3 + 2 + 1
    assert {line.count("|") for line in table} == {7}
    assert any(line.startswith("| `text_head` `noise=0` |") and "(" in line for line in table)
