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

import msgspec
import numpy as np
import pytest
from rich.console import Console
from tokenizers import Tokenizer
from tritonclient.grpc import service_pb2

from recserve_benchmarks.encode import systems as encode_systems
from recserve_benchmarks.encode.bench import (
    FAST_OURS,
    GRPC,
    RATIOS,
    SYSTEMS,
    TORCH,
    EncodeBench,
    EncodePlan,
    summary,
)
from recserve_benchmarks.encode.corpus import KINDS, description, embed_requests, film_texts
from recserve_benchmarks.encode.fast import FastEncoder
from recserve_benchmarks.encode.peers import PEERS
from recserve_benchmarks.encode.report import draw, machine_line, notes, systems_table, targets, targets_table
from recserve_benchmarks.encode.systems import COMPARED, EncodeCost, EncodeJob, load, start, timed
from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.contention import CpuContention
from recserve_benchmarks.harness.report import value_of
from recserve_benchmarks.harness.worker import Worker
from recserve_client.contract import EmbedRequest, Unpacker
from recserve_export.encoder.source.folder import default_folder
from recserve_server_ext.common import cpu
from recserve_server_ext.encoder.manifest import MANIFEST, TOKENIZER
from recserve_server_ext.encoder.text_encoder import TextEncoder
from support.exports import OTHER_SEED, Exports
from support.tiny_encoder import DIM

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


def test_every_request_to_embed_has_one_text() -> None:
    unpack = Unpacker(EmbedRequest)
    for text, blob in zip(TEXTS, embed_requests(TEXTS), strict=True):
        request = service_pb2.ModelInferRequest.FromString(blob)
        assert request.model_name == "embed"
        assert unpack(request.raw_input_contents[0][4:]).texts == [text]


def test_all_systems_make_the_vectors_of_the_encoder(encoder: Path, source: Path) -> None:
    expected = TextEncoder(encoder).encode(TEXTS)
    for name in encode_systems.SYSTEMS:
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
    pytest.importorskip(PEERS[name].module)
    assert PEERS[name].version()
    # The last one is longer than the encoder takes.
    texts = [*TEXTS, "a very long night " * 60]
    prompted = with_prompt(encoder, tmp_path)
    with start(name, prompted, source) as worker:
        cost = worker.ask(EncodeJob(texts, 2))
    found = np.frombuffer(cost.vectors, "<f4").reshape(-1, DIM)
    np.testing.assert_allclose(found, TextEncoder(prompted).encode(texts, role="query"), atol=2e-5)


def test_all_systems_put_the_same_prompt_before_a_text(encoder: Path, source: Path, tmp_path: Path) -> None:
    prompted = with_prompt(encoder, tmp_path)
    expected = TextEncoder(prompted).encode(TEXTS, role="query")
    assert np.abs(expected - TextEncoder(encoder).encode(TEXTS, role="query")).max() > 0.01
    for name in encode_systems.SYSTEMS:
        np.testing.assert_allclose(load(name, prompted, source)(TEXTS, 2), expected, atol=2e-5, err_msg=name)


def test_a_peer_that_cannot_start_takes_no_part(
    tiny_home: Path, encoder: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "infinity_emb.py").write_text("raise ImportError('another version of something')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(PEERS["fastembed"].__class__, "version", lambda peer: "1" if "inf" in peer.module else None)
    bench = EncodeBench(tiny_home, encoder, source, EncodePlan(titles=10, descriptions=10), lambda *_: None)
    with ExitStack() as stack:
        workers = bench._start(stack, FastEncoder(absent="not wanted"))
        assert set(workers) == {*SYSTEMS, "infinity"} - {GRPC}
        assert set(bench._warm(workers)) == set(SYSTEMS) - {TORCH, GRPC}
        assert "infinity" not in workers
    assert bench._absent["fastembed"] == "not installed"
    assert "infinity ended; its error is above" in bench._absent["infinity"]


def test_a_job_is_timed_and_brings_its_first_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, DIM)).astype(np.float32)
    seen = []

    def encode(texts: Any, batch: int) -> Any:
        seen.append((list(texts), batch))
        return vectors

    cost = timed(encode, EncodeJob(["x"] * 50, 7))
    assert seen == [(["x"] * 50, 7)]
    assert np.array_equal(np.frombuffer(cost.vectors, "<f4").reshape(-1, DIM), vectors[:COMPARED])
    assert EncodeCost(50, 2.0, 0.5, b"").texts_per_s == 100
    assert EncodeCost(50, 2.0, 0.5, b"").cpu_us == pytest.approx(40_000)


def test_a_system_works_in_a_process_of_its_own(encoder: Path, source: Path) -> None:
    with start("embedded_in_process", encoder, source) as worker:
        costs = [worker.ask(EncodeJob(texts, 32)) for texts in (TEXTS, TEXTS[:1])]
    assert [cost.texts for cost in costs] == [4, 1]
    assert all(cost.wall_s > 0 and cost.cpu_s > 0 for cost in costs)
    found = np.frombuffer(costs[0].vectors, "<f4").reshape(-1, DIM)
    np.testing.assert_allclose(found, TextEncoder(encoder).encode(TEXTS), atol=1e-6)


def test_a_system_that_cannot_start_is_an_error_that_names_it(tmp_path: Path) -> None:
    with (
        start("onnx_plain", tmp_path, tmp_path) as worker,
        pytest.raises(BenchmarkError, match="systems onnx_plain ended"),
    ):
        worker.ask(EncodeJob(TEXTS, 32))


def test_what_a_process_prints_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chatty.py").write_text(
        "import msgspec\n"
        "from recserve_benchmarks.harness.worker import work_on_jobs\n"
        "class Number(msgspec.Struct):\n    value: float\n"
        "def work(job):\n    print('advice of a library', flush=True)\n    return Number(2 * job.value)\n"
        "work_on_jobs(Number, work)\n"
    )

    class Number(msgspec.Struct):
        value: float

    path = ":".join([str(tmp_path), *filter(None, sys.path)])
    with Worker("chatty", answer=Number, environment={"PYTHONPATH": path}) as worker:
        assert [worker.ask(Number(value)).value for value in (1.0, 2.0)] == [2.0, 4.0]


def test_company_is_a_share() -> None:
    contention, start_s = CpuContention(), time.process_time()
    while time.process_time() - start_s < 0.3:  # the kernel counts in hundredths: a moment has any share
        pass
    # Own time is not counted: alone on the machine it is near 0, and never more than all cores and that rounding.
    assert 0 <= contention.share() <= 1.2


def rounds(**more: list[float]) -> dict[str, list[float]]:
    """Figures of three rounds: torch 100, 100, 400 titles/s, then 200, 250 and 190 for the others, and so on."""
    found: dict[str, list[float]] = {}
    rates_of: dict[str, list[float]] = dict(
        zip(SYSTEMS, ([100, 100, 400], [150] * 3, [200, 190, 210], [180, 170, 190]), strict=True)
    )
    for kind, scale in (("titles", 1.0), ("descriptions", 0.1)):
        for name, rates in {**rates_of, **more}.items():
            found[f"texts_per_s.{name}.{kind}"] = [scale * value for value in rates]
            found[f"cpu_us.{name}.{kind}"] = [1e4, 2e4, 3e4]
        for name in ("batch.embed", "batch.encoder", "p50_ms", "p99_ms"):
            found[f"{name}.{kind}"] = [12.5] * 3
    return found


def results_of(rounds: dict[str, list[float]]) -> dict[str, Any]:
    """Results as a run makes them."""
    return {
        **summary(rounds),
        "start": {"first_vector_s": 1.5, "starts_s": [1.4, 1.5, 2.5]},
        "contention": [0.01, 0.02, 0.01],
        "torch_batch": {"titles": 128, "descriptions": 32},
        "rounds": rounds,
        "int8_fast": {"absent": "this CPU has no int8 dot products"},
        "peers": {name: {"version": None, "absent": "not installed"} for name in PEERS},
        "texts": {kind: {"count": 4000, "tokens_mean": 66.8, "tokens_p90": 93.0, "tokens_most": 256} for kind in KINDS},
        "hardware": {"cpu": "A CPU", "int8_arithmetic": "avx2", "cores": 2},
        "setup": {"quick": False, "encoder": {"precision": "fp32"}},
    }


@pytest.fixture
def results() -> dict[str, Any]:
    """Of the four systems."""
    return results_of(rounds())


@pytest.fixture
def more_results() -> dict[str, Any]:
    """With the faster int8 encoder, a little more than five times as fast as torch, and both peers."""
    more: dict[str, list[float]] = {FAST_OURS: [510, 500, 520], "fastembed": [50] * 3, "infinity": [80] * 3}
    found = results_of(rounds(**more))
    found["int8_fast"] = {"mean_cos": 0.9988, "overlap": 0.941}
    found["peers"] = {name: {"version": "1.2", "absent": ""} for name in PEERS}
    return found


def test_ratios_are_those_of_the_medians_and_their_range_that_of_the_rounds(results: dict[str, Any]) -> None:
    assert results["systems"]["torch_sentence_transformers"]["titles"] == 100
    assert results["ratios"]["in_process_to_torch"]["titles"] == 2
    assert results["ratios"]["grpc_to_in_process"]["descriptions"] == pytest.approx(0.9)
    assert results["spread"]["ratios.in_process_to_torch.titles"] == (210 / 400, 2)
    assert set(results["ratios"]) == {"in_process_to_torch", "in_process_to_onnx_plain", "grpc_to_in_process"}


def test_what_takes_part_besides_has_figures_and_ratios(more_results: dict[str, Any]) -> None:
    assert list(more_results["systems"]) == [*SYSTEMS, FAST_OURS, *PEERS]
    assert set(more_results["ratios"]) == set(RATIOS)
    assert more_results["ratios"]["int8_fast_to_torch"]["titles"] == pytest.approx(5.1)
    assert more_results["ratios"]["in_process_to_fastembed"]["titles"] == pytest.approx(4)
    lines = printed(systems_table(more_results))
    assert len(lines) == 1 + len(SYSTEMS) + 1 + len(PEERS)
    assert max(map(len, lines)) <= 100


def test_what_is_absent_is_told(results: dict[str, Any], more_results: dict[str, Any]) -> None:
    said = "\n".join(notes(results))
    assert "int8-fast is not measured: this CPU has no int8 dot products" in said
    assert "fastembed is not measured: not installed" in said
    assert "infinity is not measured: not installed" in said
    said = "\n".join(notes(more_results))
    assert "not measured" not in said
    assert "int8-fast: mean cosine 0.9988 with PyTorch, overlap 0.941" in said
    assert "infinity 1.2: in process 2.50 times as fast with titles, 2.50 with descriptions" in said


@pytest.mark.parametrize(("has_dot_product", "rows"), [(True, 2), (False, 0)])
def test_int8_fast_is_held_against_the_target_where_the_served_one_misses(
    more_results: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, has_dot_product: bool, rows: int
) -> None:
    monkeypatch.setattr(cpu, "has_int8_dot_product", lambda: has_dot_product)
    if not has_dot_product:  # 2 >= 1.8 and 1.3: met
        more_results["ratios"]["int8_fast_to_torch"] = {"titles": 9.0, "descriptions": 9.0}
    lines = [line.split() for line in printed(targets_table(more_results)) if "int8_fast" in line]
    assert [line[-1] for line in lines] == ["yes"] * rows


@pytest.mark.parametrize(("has_dot_product", "titles", "descriptions"), [(False, 1.8, 1.3), (True, 5, 5)])
def test_the_targets_are_those_of_the_cpu(
    results: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    *,
    has_dot_product: bool,
    titles: float,
    descriptions: float,
) -> None:
    monkeypatch.setattr(cpu, "has_int8_dot_product", lambda: has_dot_product)
    assert [(target.name, target.bound, target.goal, target.at_least) for target in targets(results)] == [
        ("ratios.in_process_to_torch.titles", titles, None, True),
        ("ratios.in_process_to_torch.descriptions", descriptions, None, True),
        ("ratios.grpc_to_in_process.titles", 0.85, 0.95, True),
        ("ratios.grpc_to_in_process.descriptions", 0.85, 0.95, True),
        ("start.first_vector_s", 2, None, False),
    ]


def printed(part: object) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_tables_fit_and_say_what_is_met(results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "has_int8_dot_product", lambda: False)
    systems, goals = printed(systems_table(results)), printed(targets_table(results))
    assert max(len(line) for line in systems + goals) <= 100
    assert len(systems) == 1 + len(SYSTEMS)
    assert [line.split()[-1] for line in goals[1:]] == ["yes"] * 5
    results["ratios"]["grpc_to_in_process"]["titles"] = 0.8
    assert [line.split()[-1] for line in printed(targets_table(results))[1:]] == ["yes", "yes", "no", "yes", "yes"]


def test_a_figure_is_found_at_its_path(results: dict[str, Any]) -> None:
    assert value_of(results, "ratios.grpc_to_in_process.titles") == 0.9
    assert value_of(results, "start.first_vector_s") == 1.5


def test_company_and_trials_are_told(results: dict[str, Any]) -> None:
    assert "67 tokens" in machine_line(results)
    assert "128 for titles" in notes(results)[0]
    assert not any("other programs" in line or "trial" in line for line in notes(results))
    results["contention"][1], results["setup"]["quick"] = 0.4, True
    assert "up to 40% of the cores" in notes(results)[-2]
    assert "trial" in notes(results)[-1]


def test_the_plot_is_a_picture(results: dict[str, Any], more_results: dict[str, Any], tmp_path: Path) -> None:
    heights = []
    for found in (results, more_results):
        draw(found, tmp_path / "plot.png", "title")
        content = (tmp_path / "plot.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        heights.append(int.from_bytes(content[20:24], "big"))
    assert heights[0] < heights[1]  # a bar for each system


def test_an_encoder_of_another_source_is_refused(tiny_home: Path, encoder: Path, exports: Exports) -> None:
    other = exports.source(OTHER_SEED)
    with pytest.raises(BenchmarkError, match="was not exported from"):
        EncodeBench(tiny_home, encoder, other, EncodePlan(titles=10, descriptions=10), lambda *_: None)


def test_a_plan_is_the_one_that_was_asked_for() -> None:
    plan = EncodePlan()
    assert (plan.rounds, plan.titles, plan.descriptions) == (5, 4000, 1000)
