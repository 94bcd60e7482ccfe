"""`recserve bench encode`: texts, systems and the report, on the tiny encoder and figures made up here."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tokenizers import Tokenizer

from recserve_benchmarks.encode import bench as encode_bench
from recserve_benchmarks.encode import systems as encode_systems
from recserve_benchmarks.encode.bench import GRPC, OURS, PLAIN, RATIOS, TORCH, EncodeBench, compared, ratios
from recserve_benchmarks.encode.report import draw, notes, targets, title
from recserve_benchmarks.encode.systems import COMPARED, PEERS, SYSTEMS, EncodeJob, load, start, timed
from recserve_benchmarks.encode.texts import KINDS, description, film_texts
from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.report import installed, matrix, targets_table
from recserve_benchmarks.harness.run import Rounds, Run
from recserve_export.encoder.source.folder import default_folder
from recserve_server_ext.common import cpu
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.manifest import MANIFEST, TOKENIZER
from recserve_server_ext.encoder.text_encoder import TextEncoder
from support.exports import OTHER_SEED, Exports
from support.tiny_encoder import DIM

OWN = [system.__name__ for system in SYSTEMS if system.__name__ not in PEERS]
TEXTS = ["star wars", "alien", "a long night in the city of lost children", "heat"]


@pytest.fixture
def encoder(tiny_home: Path) -> Path:
    return tiny_home / "encoder" / "fp32"


def test_texts_are_distinct_and_follow_the_seed() -> None:
    texts = film_texts(300, 200, 1)
    assert {kind: len(texts[kind]) for kind in KINDS} == {"titles": 300, "descriptions": 200}
    assert all(len(set(texts[kind])) == len(texts[kind]) for kind in KINDS)
    assert texts == film_texts(300, 200, 1)
    assert texts["titles"] != film_texts(300, 200, 2)["titles"]


def test_descriptions_are_as_long_as_the_docs_say() -> None:
    tokenizer = Tokenizer.from_file(str(default_folder() / TOKENIZER))
    tokenizer.no_padding()
    rows = tokenizer.encode_batch(film_texts(1, 1000, 0)["descriptions"])
    assert 60 <= np.mean([len(row.ids) for row in rows]) <= 90


def test_more_texts_than_there_are_is_an_error() -> None:
    with pytest.raises(BenchmarkError, match="99,999 descriptions are wanted"):
        film_texts(10, 99_999, 0)


def test_a_description_has_the_films_own_fields() -> None:
    cast = ", ".join(f"Actor {number}" for number in range(20))
    row = {"Title": "Heat", "Genre": "Crime", "Director": "Mann", "Writer": "Mann", "Cast": cast, "Consensus": "Good"}
    assert description(row).startswith("Heat. Crime. Mann. Mann. Actor 0, ")
    assert description(row).endswith("Actor 14. Good")
    assert description({**row, "Writer": None, "Cast": None, "Consensus": None}) == "Heat. Crime. Mann"


def test_all_systems_make_the_vectors_of_the_encoder(encoder: Path, source: Path) -> None:
    expected = TextEncoder(encoder).encode(TEXTS)
    for name in OWN:
        np.testing.assert_allclose(load(name, encoder, source)(TEXTS, 2), expected, atol=2e-5, err_msg=name)


def with_prompt(encoder: Path, tmp_path: Path) -> Path:
    """A copy of an encoder that puts something before the texts of a history."""
    folder = shutil.copytree(encoder, tmp_path / "prompted")
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "prompts": {"query": "alien: ", "passage": ""}}))
    return folder


@pytest.mark.benches
@pytest.mark.parametrize("name", sorted(PEERS))
def test_a_peer_makes_the_vectors_of_the_encoder(name: str, encoder: Path, source: Path, tmp_path: Path) -> None:
    if installed(PEERS[name]) is None:
        pytest.skip(f"{PEERS[name]} is not installed")
    # The last one is longer than the encoder takes.
    texts = [*TEXTS, "a very long night " * 60]
    prompted = with_prompt(encoder, tmp_path)
    with start(name, prompted, source) as worker:
        found = worker.ask(EncodeJob(texts, 2)).vectors
    np.testing.assert_allclose(found, TextEncoder(prompted).encode(texts, role="query"), atol=2e-5)


def test_all_systems_put_the_same_prompt_before_a_text(encoder: Path, source: Path, tmp_path: Path) -> None:
    prompted = with_prompt(encoder, tmp_path)
    expected = TextEncoder(prompted).encode(TEXTS, role="query")
    assert np.abs(expected - TextEncoder(encoder).encode(TEXTS, role="query")).max() > 0.01
    for name in OWN:
        np.testing.assert_allclose(load(name, prompted, source)(TEXTS, 2), expected, atol=2e-5, err_msg=name)


def quick_run(home: Path, encoder: Path) -> Run:
    """A run that measures few texts and shows nothing."""
    return Run(workspace=Workspace(home), encoder=encoder, quick=True, show=lambda *_: None)


def test_a_peer_that_cannot_start_takes_no_part(
    tiny_home: Path, encoder: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "infinity_emb.py").write_text("raise ImportError('another version of something')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    monkeypatch.setattr(encode_bench, "installed", lambda package: "1" if "inf" in package else None)
    bench = EncodeBench(quick_run(tiny_home, encoder), source)
    with ExitStack() as stack:
        workers = bench.start(stack)
        assert set(workers) == {*OWN, "infinity"}
        assert set(bench.warm(workers)) == set(OWN) - {TORCH}
        assert "infinity" not in workers
    assert bench.absent["fastembed"] == "not installed"
    assert "infinity ended; its error is above" in bench.absent["infinity"]


def test_a_job_is_timed_and_brings_its_first_vectors(
    encoder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, DIM)).astype(np.float32)
    seen = []

    def encode(texts: Any, batch: int) -> Any:
        seen.append((list(texts), batch))
        end_s = time.process_time() + 0.05
        while time.process_time() < end_s:
            pass
        return vectors

    monkeypatch.setattr(encode_systems, "load", lambda *_: encode)
    cost = timed(TORCH, encoder, source)(EncodeJob(["x"] * 50, 7))
    assert seen == [(["x"] * 50, 7)]
    assert np.array_equal(cost.vectors, vectors[:COMPARED])
    assert 0.05e6 / 50 <= cost.cpu_us <= 0.06e6 / 50
    assert cost.texts_per_s <= 50 / 0.05


def test_a_system_works_in_a_process_of_its_own(encoder: Path, source: Path) -> None:
    with start("embedded_in_process", encoder, source) as worker:
        costs = [worker.ask(EncodeJob(texts, 32)) for texts in (TEXTS, TEXTS[:1])]
    assert [len(cost.vectors) for cost in costs] == [4, 1]
    assert all(cost.texts_per_s > 0 and cost.cpu_us > 0 for cost in costs)
    np.testing.assert_allclose(costs[0].vectors, TextEncoder(encoder).encode(TEXTS), atol=1e-6)


def test_a_system_that_cannot_start_is_an_error_that_names_it(tmp_path: Path) -> None:
    with (
        start("onnx_plain", tmp_path, tmp_path) as worker,
        pytest.raises(BenchmarkError, match="process of onnx_plain ended"),
    ):
        worker.ask(EncodeJob(TEXTS, 32))


def test_systems_whose_vectors_differ_are_not_compared() -> None:
    vectors = np.eye(4, dtype=np.float32)
    assert compared(PLAIN, vectors, vectors) == {"mean_cos": 1, "min_cos": 1}
    with pytest.raises(BenchmarkError, match="onnx_plain makes other vectors than torch"):
        compared(PLAIN, vectors[::-1], vectors)


def results_of(rates: dict[str, list[float]], peers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Results as a run of three rounds makes them, from titles/s; ten times as many as descriptions/s."""
    rounds = Rounds()
    for number in range(3):
        for kind, scale in (("titles", 1.0), ("descriptions", 0.1)):
            of_round = {name: scale * values[number] for name, values in rates.items()}
            for name, rate in of_round.items():
                rounds.add(f"systems.{name}", **{kind: rate})
                rounds.add(f"cpu_us.{name}", **{kind: 1e4 * (number + 1)})
            for name, ratio in ratios(of_round).items():
                rounds.add(f"ratios.{name}", **{kind: ratio})
            for model in ("embed", "encoder"):
                rounds.add(f"batch.{model}", **{kind: 12.5})
            rounds.add(f"latency_ms.{kind}", p50=12.5, p99=20.0)
    return {
        **rounds.results(),
        "start": {"first_vector_s": 1.5},
        "torch_batch": {"titles": 128, "descriptions": 32},
        "peers": peers,
        "texts": {kind: {"count": 4000, "tokens_mean": 66.8, "tokens_p90": 93.0, "tokens_most": 256} for kind in KINDS},
        "setup": {
            "cpu": "A CPU",
            "int8_arithmetic": "avx2",
            "cores": 2,
            "quick": False,
            "encoder": {"precision": "fp32"},
        },
    }


RATES: dict[str, list[float]] = {
    TORCH: [100, 100, 400],
    PLAIN: [150, 150, 150],
    OURS: [200, 190, 210],
    GRPC: [180, 171, 190],
}


@pytest.fixture
def results() -> dict[str, Any]:
    """Of recserve, torch and onnxruntime."""
    return results_of(RATES, {name: {"version": None, "absent": "not installed"} for name in PEERS})


@pytest.fixture
def more_results() -> dict[str, Any]:
    """With both peers."""
    peers: dict[str, list[float]] = {"fastembed": [50] * 3, "infinity": [80] * 3}
    return results_of({**RATES, **peers}, {name: {"version": "1.2", "absent": ""} for name in PEERS})


def test_ratios_are_those_of_the_systems_that_are_measured(
    results: dict[str, Any], more_results: dict[str, Any]
) -> None:
    assert set(results["ratios"]) == {"in_process_to_torch", "in_process_to_onnx_plain", "grpc_to_in_process"}
    assert set(more_results["ratios"]) == set(RATIOS)
    assert results["ratios"]["in_process_to_torch"]["titles"] == 1.9
    assert results["spread"]["ratios.in_process_to_torch.titles"] == (210 / 400, 2)
    assert results["ratios"]["grpc_to_in_process"]["descriptions"] == pytest.approx(0.9)
    assert more_results["ratios"]["in_process_to_fastembed"]["titles"] == pytest.approx(4)


def test_what_is_absent_is_told(results: dict[str, Any], more_results: dict[str, Any]) -> None:
    said = "\n".join(notes(results))
    assert "fastembed is not measured: not installed" in said
    assert "infinity is not measured: not installed" in said
    assert "not measured" not in "\n".join(notes(more_results))


@pytest.mark.parametrize(("has_dot_product", "titles", "descriptions"), [(False, 1.8, 1.3), (True, 5, 5)])
def test_the_targets_are_those_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, *, has_dot_product: bool, titles: float, descriptions: float
) -> None:
    monkeypatch.setattr(cpu, "has_int8_dot_product", lambda: has_dot_product)
    assert [(target.name, target.bound, target.goal, target.at_least) for target in targets()] == [
        ("ratios.in_process_to_torch.titles", titles, None, True),
        ("ratios.in_process_to_torch.descriptions", descriptions, None, True),
        ("ratios.grpc_to_in_process.titles", 0.5, None, True),
        ("ratios.grpc_to_in_process.descriptions", 0.9, None, True),
        ("start.first_vector_s", 1.5, None, False),
    ]


def printed(part: object) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_tables_fit_and_say_what_is_met(
    results: dict[str, Any], more_results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "has_int8_dot_product", lambda: False)
    systems, goals = printed(matrix(results["systems"])), printed(targets_table(results, targets()))
    more = printed(matrix(more_results["systems"]))
    assert max(len(line) for line in systems + goals + more) <= 100
    assert len(systems) == 1 + len(RATES)
    assert len(more) == 1 + len(RATES) + len(PEERS)
    assert [line.split()[-1] for line in goals[1:]] == ["yes"] * 5
    results["ratios"]["grpc_to_in_process"]["titles"] = 0.4
    goals = printed(targets_table(results, targets()))
    assert [line.split()[-1] for line in goals[1:]] == ["yes", "yes", "no", "yes", "yes"]


def test_texts_and_trials_are_told(results: dict[str, Any]) -> None:
    assert "67 tokens" in title(results)
    assert "128 for titles" in notes(results)[0]
    assert not any("trial" in line for line in notes(results))
    results["setup"]["quick"] = True
    assert "trial" in notes(results)[-1]


def test_the_plot_is_a_picture(results: dict[str, Any], more_results: dict[str, Any], tmp_path: Path) -> None:
    heights = []
    for found in (results, more_results):
        draw(found, tmp_path / "plot.png")
        content = (tmp_path / "plot.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        heights.append(int.from_bytes(content[20:24], "big"))
    assert heights[0] < heights[1]  # a bar for each system


def test_an_encoder_of_another_source_is_refused(tiny_home: Path, encoder: Path, exports: Exports) -> None:
    other = exports.source(OTHER_SEED)
    with pytest.raises(BenchmarkError, match="was not exported from"):
        EncodeBench(quick_run(tiny_home, encoder), other)
