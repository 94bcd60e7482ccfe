"""`TextEncoder`: a text's vector never depends on its company, its place or the number of threads."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from recserve_export.encoder.checks.texts import sample_texts
from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.encoder.manifest import MODEL, TOKENIZER, read_manifest
from recserve_server_ext.encoder.text_encoder import _RUN_COST, TOKEN_BUDGET, TextEncoder, plan_runs
from recserve_server_ext.encoder.tokenizer import TextTokenizer
from support.examples import examples
from support.exports import Exports
from support.tiny_encoder import DIM, MAX_TOKENS

_UNICODE = [
    "Amélie",
    "千と千尋の神隠し",
    "Москва слезам не верит",
    "🎬🍿",
    "a\u0301e\u0301",
    "x\x00y",
    "\u202egnirts",
    "ﬁlm",
]


@pytest.fixture(scope="module")
def home(exports: Exports) -> Path:
    return exports.encoders("int8")


@pytest.fixture(scope="module")
def fp32(home: Path) -> TextEncoder:
    return TextEncoder(home / "encoder" / "fp32")


@pytest.fixture(scope="module")
def int8(home: Path) -> TextEncoder:
    return TextEncoder(home / "encoder" / "int8")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [*sample_texts().checked[-150:], "", " ", *_UNICODE]


def test_vectors_are_unit_float32(fp32: TextEncoder, int8: TextEncoder, texts: list[str]) -> None:
    for encoder in (fp32, int8):
        vectors = encoder.encode(texts)
        assert vectors.shape == (len(texts), DIM)
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_fp32_does_not_depend_on_company(fp32: TextEncoder, texts: list[str]) -> None:
    together = fp32.encode(texts)
    alone = np.concatenate([fp32.encode([text]) for text in texts])
    assert np.abs(together - alone).max() <= 1e-5


@given(st.lists(st.integers(1, 300), min_size=1, max_size=300), st.integers(1, 16))
def test_runs_hold_every_text_once_and_stay_within_the_budget(lengths: list[int], threads: int) -> None:
    tokens = np.array(lengths)
    runs = list(plan_runs(tokens, threads))
    assert sorted(np.concatenate(runs).tolist()) == list(range(len(lengths)))
    assert all(len(rows) == 1 or len(rows) * tokens[rows].max() <= TOKEN_BUDGET for rows in runs)


@pytest.mark.parametrize("texts", [20, 35, 160])
@pytest.mark.parametrize("threads", [2, 4])
def test_short_texts_give_every_thread_a_run(texts: int, threads: int) -> None:
    assert len(list(plan_runs(np.full(texts, 20), threads))) >= threads


def test_few_tokens_are_one_run_and_others_are_parted_where_lengths_are() -> None:
    assert [rows.tolist() for rows in plan_runs(np.array([9, 10, 8]), 8)] == [[1, 0, 2]]
    lengths = np.array([6, 60, 6, 62, 6, 6])
    assert [rows.tolist() for rows in plan_runs(lengths, 1)] == [[3, 1], [0, 2, 4, 5]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_no_other_runs_of_sorted_texts_are_cheaper(lengths: list[int]) -> None:
    tokens = np.array(lengths)

    def cost(runs: Iterable[Sequence[int]]) -> int:
        return sum(_RUN_COST + len(run) * max(run) for run in runs)

    falling = sorted(lengths, reverse=True)
    others = []
    for cuts in itertools.product([False, True], repeat=len(falling) - 1):
        bounds = [0, *(at for at, cut in enumerate(cuts, 1) if cut), len(falling)]
        runs = [falling[a:b] for a, b in itertools.pairwise(bounds)]
        if all(len(run) == 1 or len(run) * run[0] <= TOKEN_BUDGET for run in runs):
            others.append(cost(runs))
    assert cost(tokens[rows].tolist() for rows in plan_runs(tokens, 1)) == min(others)


def test_int8_is_bit_equal_in_any_company(int8: TextEncoder, texts: list[str]) -> None:
    together = int8.encode(texts)
    alone = np.concatenate([int8.encode([text]) for text in texts])
    assert together.tobytes() == alone.tobytes()


def test_int8_is_bit_equal_with_any_threads_and_chunks(home: Path, int8: TextEncoder, texts: list[str]) -> None:
    one_thread = TextEncoder(home / "encoder" / "int8", threads=1)
    assert one_thread.encode(texts, chunk=7).tobytes() == int8.encode(texts).tobytes()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@examples(20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_order_is_kept(
    precision: str, fp32: TextEncoder, int8: TextEncoder, texts: list[str], data: st.DataObject
) -> None:
    encoder = fp32 if precision == "fp32" else int8
    order = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=40))
    expected = encoder.encode(texts)[order]
    found = encoder.encode([texts[at] for at in order], chunk=data.draw(st.integers(1, 50)))
    assert np.abs(found - expected).max() <= (1e-5 if precision == "fp32" else 0)


def test_equals_a_straight_onnxruntime_run(home: Path, fp32: TextEncoder, int8: TextEncoder, texts: list[str]) -> None:
    for encoder, name in ((fp32, "fp32"), (int8, "int8")):
        folder = home / "encoder" / name
        session = onnxruntime.InferenceSession(str(folder / MODEL), providers=["CPUExecutionProvider"])
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        for text, vector in zip(texts, encoder.encode(texts), strict=True):
            ids = np.array([tokenizer.encode(text).ids], np.int64)
            expected = session.run(["vector"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
            assert np.abs(vector - expected).max() <= 1e-5


def test_no_texts_give_no_vectors(fp32: TextEncoder) -> None:
    assert fp32.encode([]).shape == (0, DIM)


def test_an_empty_text_has_a_vector(fp32: TextEncoder) -> None:
    vector = fp32.encode([""])[0]
    assert np.isfinite(vector).all()
    assert fp32.tokenizer([""]).lengths.tolist() == [2]


def test_long_texts_are_truncated(fp32: TextEncoder) -> None:
    text = "star " * 2000
    tokens = fp32.tokenizer([text, "star"])
    assert tokens.lengths.tolist() == [MAX_TOKENS, 3]
    assert tokens.ids.shape == (2, MAX_TOKENS)
    shorter = " ".join(["star"] * (MAX_TOKENS - 2))
    assert np.array_equal(fp32.encode([text]), fp32.encode([shorter]))


def test_tokens_are_padded_with_zeros_and_masked(home: Path) -> None:
    tokens = TextTokenizer(home / "encoder" / "fp32", MAX_TOKENS)(["star wars", "", "the star of the film"])
    assert tokens.mask.sum(1).tolist() == tokens.lengths.tolist()
    assert (tokens.ids[tokens.mask == 0] == 0).all()
    assert tokens.ids.dtype == tokens.mask.dtype == np.int64


def test_progress_counts_every_text(fp32: TextEncoder, texts: list[str]) -> None:
    counts: list[int] = []
    fp32.encode(texts, chunk=64, done=counts.append)
    assert sum(counts) == len(texts)
    assert max(counts) <= 64


def test_fingerprint_is_that_of_the_manifest(home: Path, fp32: TextEncoder, int8: TextEncoder) -> None:
    assert fp32.fingerprint == read_manifest(home / "encoder" / "fp32").fingerprint
    assert int8.fingerprint.startswith(read_manifest(home / "encoder" / "int8").fingerprint + "+")


def test_a_damaged_model_is_refused(home: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(home / "encoder" / "fp32", tmp_path / "fp32")
    model = folder / MODEL
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(EncoderError, match=r"model\.onnx is damaged"):
        TextEncoder(folder)
    with pytest.raises(EncoderError, match="onnxruntime cannot load"):
        TextEncoder(folder, verify=False)


def test_a_missing_encoder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="recserve export encoder"):
        TextEncoder(tmp_path / "none")
