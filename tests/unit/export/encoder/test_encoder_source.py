"""The folder an export begins from: what is read of it, what is refused, and what has to be allowed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from recserve_export.cli.encoder import app
from recserve_export.encoder.export import export_encoder
from recserve_export.encoder.source.folder import default_folder, read_source
from recserve_export.errors import EncoderSourceError
from recserve_server_ext.common.files import LOCK
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.text_encoder import TextEncoder
from support.tiny_encoder import MAX_TOKENS


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def change(path: Path, **values: Any) -> None:
    write(path, {**json.loads(path.read_text(encoding="utf-8")), **values})


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def _list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def _unknown_architecture(folder: Path) -> None:
    change(folder / "config.json", model_type="no-such-architecture")


def _truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def _truncated_shard(folder: Path) -> None:
    whole = (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors").read_bytes()
    (folder / "model-00002-of-00002.safetensors").write_bytes(whole[: len(whole) // 2])


def _lacking_weights(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _other_size(folder: Path) -> None:
    change(folder / "config.json", intermediate_size=48)


def _small_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"] |= {f"added{at}": 5000 + at for at in range(9)}
    write(path, content)


def _odd_pooling(folder: Path) -> None:
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_sqrt_len_tokens": True})


def _two_poolings(folder: Path) -> None:
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})


def _dense_module(folder: Path) -> None:
    write(folder / "modules.json", [{"type": "sentence_transformers.models.Dense"}])


def _no_length(folder: Path) -> None:
    write(folder / "sentence_bert_config.json", {"max_seq_length": "long"})


class TestRefusals:
    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (_no_weights, "has no weights: model.safetensors is missing"),
            (_pickle_only, "pytorch_model.bin is pickled, and a pickle can carry code: allow it with --allow-pickle"),
            (_no_config, "has no config.json"),
            (_broken_config, "config.json cannot be read"),
            (_list_config, "cannot be read: Expected `object`, got `array`"),
            (_unknown_architecture, "no-such-architecture"),
            (_truncated_weights, "model.safetensors is damaged or truncated"),
            (_empty_weights, "model.safetensors is damaged or truncated"),
            (_truncated_shard, "model-00002-of-00002.safetensors is damaged or truncated"),
            (_lacking_weights, "lacks 1 weights that config.json asks for, such as encoder.layer.1.output.dense"),
            (_other_size, "transformers cannot load"),
            (_small_vocabulary, "they do not belong together"),
            (_odd_pooling, "asks for pooling pooling_mode_mean_sqrt_len_tokens; choose one of mean, cls, max, last"),
            (_two_poolings, "asks for pooling mean, cls"),
            (_dense_module, "has the modules Dense; supported are Transformer, then Pooling"),
            (
                _no_length,
                "config.json cannot be read: Expected `int | null`, got `str` - at `$.max_seq_length`",
            ),
        ],
    )
    def test_bad_source(self, spoil: Callable[[Path], None], message: str, copied: Path, tmp_path: Path) -> None:
        spoil(copied)
        found = CliRunner().invoke(app, ["encoder", str(copied), "--home", str(tmp_path / "home")])
        assert found.exit_code == 1, found.output
        assert isinstance(found.exception, SystemExit)
        lines = [line for line in found.stderr.splitlines() if "error:" in line]
        assert len(lines) == 1
        assert message in lines[0]
        assert [path.name for path in tmp_path.rglob("home/encoder/*") if path.name != LOCK] == []

    def test_missing_source(self, tmp_path: Path) -> None:
        found = CliRunner().invoke(app, ["encoder", str(tmp_path / "none"), "--home", str(tmp_path / "home")])
        assert found.exit_code == 1
        assert "none is not a folder" in found.stderr


class TestSource:
    def test_default_is_found_without_importing_it(self) -> None:
        found = read_source()
        assert found.name == "all-MiniLM-L6-v2"
        assert (found.pooling, found.max_tokens) == ("mean", 256)
        assert read_source(default_folder()) == found

    def test_defaults_without_sentence_transformers_files(self, copied: Path) -> None:
        shutil.rmtree(copied / "1_Pooling")
        (copied / "sentence_bert_config.json").unlink()
        found = read_source(copied)
        assert (found.pooling, found.max_tokens, found.lowercase) == ("mean", MAX_TOKENS, False)

    def test_length_is_that_of_sentence_transformers(self, copied: Path) -> None:
        (copied / "sentence_bert_config.json").unlink()
        change(copied / "config.json", max_position_embeddings=8192)
        change(copied / "tokenizer_config.json", model_max_length=512)
        assert read_source(copied).max_tokens == 512
        change(copied / "tokenizer_config.json", model_max_length=int(1e30))
        assert read_source(copied).max_tokens == 8192
        change(copied / "config.json", max_position_embeddings=514, model_type="roberta", pad_token_id=1)
        assert read_source(copied).max_tokens == 512
        write(copied / "sentence_bert_config.json", {"max_seq_length": 8192})
        assert read_source(copied).max_tokens == 512

    def test_sharded_weights_are_found(self, copied: Path) -> None:
        (copied / "model.safetensors").rename(copied / "model-00001-of-00001.safetensors")
        assert [path.name for path in read_source(copied).weights] == ["model-00001-of-00001.safetensors"]

    def test_lowercase_goes_into_the_tokenizer(self, copied: Path, tmp_path: Path) -> None:
        content = json.loads((copied / "tokenizer.json").read_text(encoding="utf-8"))
        content["normalizer"]["lowercase"] = False
        write(copied / "tokenizer.json", content)
        change(copied / "tokenizer_config.json", do_lower_case=False)
        change(copied / "sentence_bert_config.json", do_lower_case=True)
        (one,) = export_encoder(copied, Workspace(tmp_path), "fp32")
        vectors = TextEncoder(one.folder).encode(["STAR WARS", "star wars"])
        assert np.array_equal(vectors[0], vectors[1])

    def test_unknown_package_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(EncoderSourceError, match=r"recserve\[export\]"):
            read_source()
