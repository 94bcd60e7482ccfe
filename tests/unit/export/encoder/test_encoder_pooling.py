"""Pooling, Dense and Normalize modules inside the graph, against sentence-transformers itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recserve_export.encoder.source.folder import SourceOptions, read_source
from recserve_export.errors import EncoderSourceError
from recserve_server_ext.encoder.manifest import Prompts
from recserve_server_ext.encoder.text_encoder import TextEncoder
from support.tiny_models import DIM, TEXTS, add_modules, make_tiny_model, quick_encoder

POOLINGS = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last", "weightedmean": "weighted_mean"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "tiny", "bert")


def by_sentence_transformers(folder: Path) -> NDArray[np.float32]:
    """Unit vectors [texts, dim] of `TEXTS`."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    vectors: NDArray[np.float32] = model.encode(list(TEXTS), normalize_embeddings=True, show_progress_bar=False)
    return vectors


def least_cosine(folder: Path, encoder: TextEncoder) -> float:
    """Of the graph, and of the reference of the export, with sentence-transformers."""
    from recserve_export.encoder.checks.reference import Reference

    expected = by_sentence_transformers(folder)
    found = encoder.encode(TEXTS)
    reference = Reference(read_source(folder)).vectors(list(TEXTS), batch=3)
    return float(min(np.einsum("td,td->t", one, expected).min() for one in (found, reference)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, TextEncoder]]:
    """The folder and the encoder of a pooling, each exported once."""

    @cache
    def export(theirs: str) -> tuple[Path, TextEncoder]:
        aside = tmp_path_factory.mktemp(theirs)
        folder = make_tiny_model(aside / "tiny", "bert")
        add_modules(folder, theirs, ("Normalize", {}))
        return folder, quick_encoder(folder, aside / "out")

    return export


def dense(folder: Path, at: int, outputs: int, *, inputs: int = DIM, bias: bool = True, seed: int = 0) -> None:
    """Weights of the Dense module number `at`."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(seed + at)
    tensors = {"linear.weight": rng.normal(size=(outputs, inputs)).astype(np.float32)}
    if bias:
        tensors["linear.bias"] = rng.normal(size=outputs).astype(np.float32)
    save_file(tensors, folder / f"{at}_Dense" / "model.safetensors")


def dense_config(outputs: int, *, inputs: int = DIM, **more: Any) -> dict[str, Any]:
    return {"in_features": inputs, "out_features": outputs, "bias": True, **more}


class TestPooling:
    @pytest.mark.parametrize("theirs", POOLINGS)
    def test_is_read_from_the_modules(self, theirs: str, exported: Callable[[str], tuple[Path, TextEncoder]]) -> None:
        folder, encoder = exported(theirs)
        assert read_source(folder).pooling == POOLINGS[theirs]
        assert least_cosine(folder, encoder) >= 0.9999

    def test_older_flags(self, folder: Path) -> None:
        add_modules(folder, "mean")
        path = folder / "1_Pooling" / "config.json"
        path.write_text(json.dumps({"word_embedding_dimension": DIM, "pooling_mode_weightedmean_tokens": True}))
        assert read_source(folder).pooling == "weighted_mean"

    def test_a_prompt_that_is_not_pooled_is_refused(self, folder: Path) -> None:
        add_modules(folder, "mean")
        path = folder / "1_Pooling" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "include_prompt": False}))
        assert read_source(folder).prompts == Prompts()
        with pytest.raises(EncoderSourceError, match="include_prompt is false"):
            read_source(folder, SourceOptions(query_prompt="search: "))

    def test_poolings_differ(self, exported: Callable[[str], tuple[Path, TextEncoder]]) -> None:
        found = {theirs: exported(theirs)[1].encode(TEXTS[2:3])[0] for theirs in POOLINGS}
        names = list(found)
        for at, one in enumerate(names):
            for other in names[at + 1 :]:
                assert found[one] @ found[other] < 0.999, (one, other)

    def test_the_caller_overrides(self, folder: Path, tmp_path: Path) -> None:
        add_modules(folder, "cls")
        for ours in POOLINGS.values():
            assert read_source(folder, SourceOptions(pooling=ours)).pooling == ours  # type: ignore[arg-type]
        encoder = quick_encoder(folder, tmp_path / "out", SourceOptions(pooling="max"))
        assert encoder.manifest.pooling == "max"
        add_modules_again(folder, "max")
        assert np.einsum("td,td->t", encoder.encode(TEXTS), by_sentence_transformers(folder)).min() >= 0.9999

    def test_a_causal_model_takes_its_last_token(self, tmp_path: Path) -> None:
        folder = make_tiny_model(tmp_path / "tiny", "qwen2")
        config = json.loads((folder / "config.json").read_text())
        assert read_source(folder).pooling == "mean"
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen2ForCausalLM"]}))
        assert read_source(folder).pooling == "last"

    @pytest.mark.parametrize("length", [8, 64])
    def test_the_length_of_a_model_that_was_saved_again(self, length: int, folder: Path, tmp_path: Path) -> None:
        from sentence_transformers import SentenceTransformer

        add_modules(folder, "mean")
        model = SentenceTransformer(str(folder), device="cpu")
        model.max_seq_length = length
        model.save_pretrained(str(tmp_path / "saved"))
        assert read_source(tmp_path / "saved").max_tokens == length
        assert least_cosine(tmp_path / "saved", quick_encoder(tmp_path / "saved", tmp_path / "out")) >= 0.9999

    def test_saved_by_sentence_transformers(self, folder: Path, tmp_path: Path) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
        from torch import nn

        transformer = Transformer(str(folder))
        modules = [transformer, Pooling(DIM, "lasttoken"), Normalize(), Dense(DIM, 20, activation_function=nn.GELU())]
        SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "saved"))
        source = read_source(tmp_path / "saved")
        assert (source.pooling, len(source.steps)) == ("last", 2)
        assert least_cosine(tmp_path / "saved", quick_encoder(tmp_path / "saved", tmp_path / "out")) >= 0.9999


class TestModules:
    @pytest.mark.parametrize(
        ("activation", "bias"),
        [
            *((name, True) for name in ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")),
            ("Identity", False),
            *(
                pytest.param(name, False, marks=pytest.mark.architectures)
                for name in ("Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
            ),
        ],
    )
    def test_dense(self, activation: str, bias: bool, folder: Path, tmp_path: Path) -> None:
        name = f"torch.nn.modules.activation.{activation}" if activation != "Identity" else "torch.nn.Identity"
        add_modules(folder, "mean", ("Dense", {**dense_config(12, activation_function=name), "bias": bias}))
        dense(folder, 2, 12, bias=bias)
        assert least_cosine(folder, quick_encoder(folder, tmp_path / "out")) >= 0.9999

    def test_two_dense_and_a_norm_between(self, folder: Path, tmp_path: Path) -> None:
        add_modules(
            folder, "mean", ("Dense", dense_config(64)), ("Normalize", {}), ("Dense", dense_config(8, inputs=64))
        )
        dense(folder, 2, 64)
        dense(folder, 4, 8, inputs=64)
        assert least_cosine(folder, quick_encoder(folder, tmp_path / "out")) >= 0.9999

    def test_weights_count(self, folder: Path) -> None:
        add_modules(folder, "mean", ("Dense", dense_config(8)))
        dense(folder, 2, 8)
        before = read_source(folder).sha256()
        dense(folder, 2, 8, seed=9)
        assert read_source(folder).sha256() != before

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (dense_config(8, activation_function="my.code.Swish"), "has the activation my.code.Swish; supported are"),
            (dense_config(8, activation_function="torch.nn.Softmax"), "has the activation torch.nn.Softmax"),
            (dense_config(8, module_input_name="token_embeddings"), "is a Dense module of token_embeddings"),
            ({"in_features": DIM, "out_features": "8"}, "Expected `int`, got `str` - at `\\$.out_features`"),
            ({"in_features": DIM, "out_features": 0}, "Expected `int` >= 1 - at `\\$.out_features`"),
            (dense_config(8, inputs=16), "takes vectors of 16 elements, what stands before gives 32"),
            (dense_config(9), "does not hold the weights that its config.json names"),
            ({**dense_config(8), "bias": False}, "does not hold the weights that its config.json names"),
        ],
    )
    def test_bad_dense(self, config: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
        add_modules(folder, "mean", ("Dense", config))
        dense(folder, 2, 8, inputs=config["in_features"])
        with pytest.raises(EncoderSourceError, match=message) as found:
            quick_encoder(folder, tmp_path / "out")
        assert "\n" not in str(found.value)

    @pytest.mark.parametrize(
        ("kinds", "message"),
        [
            (["sentence_transformers.models.Transformer", "sentence_transformers.models.LSTM"], "has the module LSTM"),
            (["custom_st.Transformer"], "has the module custom_st.Transformer, code of its own"),
            (["sentence_transformers.models.Pooling"], "has the modules Pooling; supported are Transformer, then Pool"),
            (
                [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Normalize", "Pooling")],
                "has the modules Transformer, Normalize, Pooling; supported are",
            ),
            ([], "has the modules none"),
        ],
    )
    def test_other_modules(self, kinds: list[str], message: str, folder: Path) -> None:
        (folder / "modules.json").write_text(json.dumps([{"type": kind, "path": ""} for kind in kinds]))
        with pytest.raises(EncoderSourceError, match=message):
            read_source(folder)


class TestDim:
    def test_is_cut_before_the_norm(self, folder: Path, tmp_path: Path) -> None:
        add_modules(folder, "mean")
        whole = by_sentence_transformers(folder)[:, :10]
        encoder = quick_encoder(folder, tmp_path / "out", SourceOptions(dim=10))
        assert encoder.dim == 10
        found = encoder.encode(TEXTS)
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
        assert np.einsum("td,td->t", found, expected).min() >= 0.9999

    @pytest.mark.parametrize("dim", [0, DIM + 1])
    def test_out_of_range(self, dim: int, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(EncoderSourceError, match=f"--dim {dim}: vectors of tiny have 32 elements; ask for 1 to 32"):
            quick_encoder(folder, tmp_path / "out", SourceOptions(dim=dim))


def add_modules_again(folder: Path, pooling: str) -> None:
    """Another pooling in place of the one that is there."""
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps({"embedding_dimension": DIM, "pooling_mode": pooling}))
