"""What has to be allowed (pickles, code), what lies elsewhere (shards, subfolders), and what is asked for."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from recserve_export.cli.encoder import app
from recserve_export.encoder.checks.fidelity_gate import Gate
from recserve_export.encoder.export import ExportSettings
from recserve_export.encoder.report.report import REPORT
from recserve_export.encoder.source.folder import SourceOptions, read_source
from recserve_export.errors import EncoderSourceError, ExportError
from recserve_server_ext.common.files import LOCK
from recserve_server_ext.encoder.manifest import MANIFEST, Prompts, read_manifest
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.encoder.tokenizer import TextTokenizer, TokenTable
from support.tiny_encoder import DIM
from support.tiny_models import HAS_SLOW_TOKENIZERS, add_modules, quick_encoder

TEXTS = ["star wars", "a robot falls in love", ""]


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:  # type: ignore[type-arg]
    """Vectors of `TEXTS` by the source as it is."""
    return quick_encoder(source, tmp_path_factory.mktemp("plain")).encode(TEXTS)


def same(folder: Path, target: Path, expected: object, options: SourceOptions | None = None) -> bool:
    found = quick_encoder(folder, target, options or SourceOptions()).encode(TEXTS)
    return bool(np.allclose(found, expected, atol=1e-6))  # type: ignore[arg-type]


def pickled(folder: Path) -> Path:
    """The folder with its weights in a pickle instead."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def pickled_shards(folder: Path) -> list[Path]:
    """The weights in two pickles and the index that names them, instead."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {f"pytorch_model-0000{at + 1}-of-00002.bin": names[at::2] for at in range(2)}
    for file, held in files.items():
        torch.save({name: tensors[name] for name in held}, folder / file)
    where = {name: file for file, held in files.items() for name in held}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return [folder / file for file in files]


class _Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self._mark),)


class TestPickles:
    def test_only_by_leave(self, copied: Path, tmp_path: Path, expected: object) -> None:
        pickled(copied)
        with pytest.raises(EncoderSourceError, match="allow it with --allow-pickle"):
            read_source(copied)
        assert same(copied, tmp_path / "out", expected, SourceOptions(allow_pickle=True))

    def test_code_in_a_pickle_never_runs(self, copied: Path, tmp_path: Path) -> None:
        (copied / "model.safetensors").unlink()
        mark = tmp_path / "attacked"
        (copied / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": _Attack(mark)}))
        for options in (SourceOptions(), SourceOptions(allow_pickle=True)):
            with pytest.raises(EncoderSourceError) as caught:
                quick_encoder(copied, tmp_path / "out", options)
            assert len(str(caught.value).splitlines()) == 1
        assert not mark.exists()
        pickle.loads((copied / "pytorch_model.bin").read_bytes())
        assert mark.exists()  # the attack is a real one

    def test_shards(self, copied: Path, tmp_path: Path, expected: object) -> None:
        shards = pickled_shards(copied)
        with pytest.raises(EncoderSourceError, match=f"{shards[0].name} is pickled.*allow it with --allow-pickle"):
            read_source(copied)
        options = SourceOptions(allow_pickle=True)
        assert list(read_source(copied, options).weights) == shards
        assert same(copied, tmp_path / "out", expected, options)
        shards[1].unlink()
        with pytest.raises(EncoderSourceError, match=shards[1].name):
            quick_encoder(copied, tmp_path / "again", options)

    def test_a_dense_module(self, copied: Path, tmp_path: Path) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        shutil.rmtree(copied / "1_Pooling")
        add_modules(copied, "mean", ("Dense", {"in_features": DIM, "out_features": 12, "bias": True}))
        generator = torch.Generator().manual_seed(3)
        weights = {"linear.weight": torch.randn(12, DIM, generator=generator), "linear.bias": torch.ones(12)}
        torch.save(weights, copied / "2_Dense" / "pytorch_model.bin")
        with pytest.raises(EncoderSourceError, match=r"2_Dense has no weights.*allow it with --allow-pickle"):
            quick_encoder(copied, tmp_path / "out")
        theirs = SentenceTransformer(str(copied), device="cpu", local_files_only=True)
        vectors = theirs.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
        assert same(copied, tmp_path / "out", vectors, SourceOptions(allow_pickle=True))


class TestCode:
    @pytest.fixture
    def own(self, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A BERT whose class comes with it and leaves a mark when its code runs."""
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
        monkeypatch.syspath_prepend(str(tmp_path / "modules"))
        code = "from pathlib import Path\nfrom transformers import BertModel\n"
        code += f"Path({str(tmp_path / 'ran')!r}).touch()\n\nclass OwnModel(BertModel):\n    pass\n"
        (copied / "own_model.py").write_text(code)
        config = json.loads((copied / "config.json").read_text())
        (copied / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own_model.OwnModel"}}))
        return copied

    def test_it_runs_only_by_leave(self, own: Path, tmp_path: Path, expected: object) -> None:
        with pytest.raises(EncoderSourceError, match="allow it with --trust-remote-code"):
            quick_encoder(own, tmp_path / "out")
        assert not (tmp_path / "ran").exists()
        assert same(own, tmp_path / "out", expected, SourceOptions(trust_remote_code=True))
        assert (tmp_path / "ran").exists()

    def test_it_counts(self, own: Path) -> None:
        options = SourceOptions(trust_remote_code=True)
        before = read_source(own, options).sha256()
        (own / "own_model.py").write_text("# changed\n")
        assert read_source(own, options).sha256() != before


class TestFolders:
    def test_shards(self, copied: Path, tmp_path: Path, expected: object) -> None:
        from transformers import BertModel

        model = BertModel.from_pretrained(copied)
        (copied / "model.safetensors").unlink()
        model.save_pretrained(copied, max_shard_size="100KB")
        assert len(read_source(copied).weights) > 1
        assert same(copied, tmp_path / "out", expected)

    def test_a_missing_shard_is_named(self, copied: Path, tmp_path: Path) -> None:
        from transformers import BertModel

        model = BertModel.from_pretrained(copied)
        (copied / "model.safetensors").unlink()
        model.save_pretrained(copied, max_shard_size="100KB")
        lost = read_source(copied).weights[0]
        lost.unlink()
        with pytest.raises(EncoderSourceError, match=lost.name):
            quick_encoder(copied, tmp_path / "out")

    def test_a_subfolder(self, source: Path, tmp_path: Path, expected: object) -> None:
        folder = tmp_path / "nested"
        shutil.copytree(source, folder / "0_Transformer", ignore=shutil.ignore_patterns("1_Pooling"))
        shutil.copytree(source / "1_Pooling", folder / "1_Pooling")
        kinds = [("Transformer", "0_Transformer"), ("Pooling", "1_Pooling")]
        modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in kinds]
        (folder / "modules.json").write_text(json.dumps(modules))
        assert same(folder, tmp_path / "out", expected)


class TestRefused:
    @pytest.mark.parametrize(("kind", "nearest"), [("t5", "gte"), ("bart", "bert")])
    def test_an_encoder_with_a_decoder(self, kind: str, nearest: str, copied: Path, tmp_path: Path) -> None:
        config = {"model_type": kind, "vocab_size": 100, "d_model": DIM}
        (copied / "config.json").write_text(json.dumps(config))
        said = f"^{kind} has an encoder and a decoder, which is not supported; supported are bert.*by name: {nearest}"
        with pytest.raises(EncoderSourceError, match=said) as found:
            quick_encoder(copied, tmp_path / "out")
        assert "\n" not in str(found.value)

    def test_more_than_one_file_holds(self, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """At a lower limit: the tiny model has about 300 kB."""
        monkeypatch.setattr("recserve_export.encoder.graph.loading._MOST_WEIGHT_BYTES", 10**5)
        command = ["encoder", str(copied), "--home", str(tmp_path / "home"), "--precision", "fp32"]
        found = CliRunner().invoke(app, command)
        assert found.exit_code == 1
        assert "one ONNX file holds 2 GB; take a smaller one" in " ".join(found.stderr.split())
        assert not list(tmp_path.rglob("*.onnx*"))
        assert {path.name for path in (tmp_path / "home").rglob("*") if path.is_file()} <= {LOCK}


class TestPrompts:
    def test_those_of_the_folder(self, copied: Path) -> None:
        path = copied / "config_sentence_transformers.json"
        plain = read_source(copied).sha256()
        for content, prompts in (
            ({}, Prompts()),
            ({"prompts": {"query": "q: ", "passage": "p: "}}, Prompts(query="q: ", passage="p: ")),
            ({"prompts": {"query": "q: ", "document": "d: "}}, Prompts(query="q: ", passage="d: ")),
            ({"prompts": {"s": "all: "}, "default_prompt_name": "s"}, Prompts(query="all: ", passage="all: ")),
            ({"prompts": {"s": "all: "}}, Prompts()),
        ):
            path.write_text(json.dumps(content))
            assert read_source(copied).prompts == prompts
            assert (read_source(copied).sha256() == plain) == (prompts == Prompts())
        path.write_text(json.dumps({"prompts": {"query": "q: ", "passage": "p: "}}))
        assert read_source(copied, SourceOptions(query_prompt="x ", passage_prompt="")).prompts == Prompts(query="x ")
        path.write_text(json.dumps({"prompts": ["query"]}))
        with pytest.raises(EncoderSourceError, match=r"Expected `object \| null`, got `array` - at `\$.prompts`"):
            read_source(copied)

    def test_a_text_gets_that_of_its_role(self, source: Path, tmp_path: Path) -> None:
        plain = quick_encoder(source, tmp_path / "out")
        manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
        manifest["prompts"] = {"query": "star ", "passage": "wars "}
        (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest))
        encoder = TextEncoder(tmp_path / "out")
        assert encoder.fingerprint != plain.fingerprint
        assert np.array_equal(encoder.encode(["love"]), plain.encode(["wars love"]))
        assert np.array_equal(encoder.encode(["love"], role="query"), plain.encode(["star love"]))
        served = TextTokenizer(tmp_path / "out", encoder.manifest.max_tokens)
        assert served(["love"]).ids.tolist() == plain.tokenizer(["star love"]).ids.tolist()


@pytest.fixture(scope="module")
def asked(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export with everything that can be asked for: its encoder folder."""
    home = tmp_path_factory.mktemp("asked")
    options = ["--max-tokens", "16", "--dim", "8", "--long-text", "chunk_mean"]
    options += ["--query-prompt", "query: ", "--passage-prompt", "passage: ", "--precision", "fp32"]
    found = CliRunner().invoke(app, ["encoder", str(source), "--home", str(home), *options])
    assert found.exit_code == 0, found.output
    return home / "encoder" / "fp32"


class TestCommandLine:
    def test_every_option_arrives(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: dict[str, object] = {}

        def export(source: object, workspace: object, precision: object, **more: object) -> None:
            asked.update(source=source, precision=precision, **more)
            raise ExportError("that will do")

        monkeypatch.setattr("recserve_export.cli.encoder.export_encoder", export)
        words = "owner/model --precision int8-fast --pooling weighted_mean --max-tokens 17 --dim 5 --allow-pickle"
        words += " --trust-remote-code --query-prompt q: --passage-prompt p: --long-text chunk_mean --texts t.txt"
        words += " --min-mean-cos 0.1 --min-p01-cos 0.2 --min-overlap 0.3 --min-spearman 0.4 --target all"
        words += " --max-batch 7 --exporter optimum --force"
        found = CliRunner().invoke(app, ["encoder", *words.split(), "--home", str(tmp_path)])
        assert "that will do" in found.stderr
        assert (asked["source"], asked["precision"]) == ("owner/model", "int8-fast")
        assert asked["options"] == SourceOptions(
            pooling="weighted_mean",
            max_tokens=17,
            dim=5,
            allow_pickle=True,
            trust_remote_code=True,
            query_prompt="q:",
            passage_prompt="p:",
            long_text="chunk_mean",
        )
        assert asked["settings"] == ExportSettings(
            gate=Gate(mean_cos=0.1, p01_cos=0.2, overlap=0.3, spearman=0.4),
            texts=Path("t.txt"),
            exporter="optimum",
            force=True,
            targets=("embedded", "onnxruntime", "tensorrt"),
            max_batch=7,
        )

    def test_the_manifest_says_so(self, asked: Path) -> None:
        manifest = read_manifest(asked)
        assert (manifest.dim, manifest.max_tokens, manifest.long_text) == (8, 16, "chunk_mean")
        assert manifest.prompts == Prompts(query="query: ", passage="passage: ")

    def test_it_was_compared_with_pytorch(self, asked: Path) -> None:
        report = json.loads((asked / REPORT).read_text())
        compared = "equal to BertTokenizer on " if HAS_SLOW_TOKENIZERS else "not compared: transformers has no slow "
        assert report["tokenizer"].startswith(compared)
        assert report["fidelity"]["min_cos"] >= 0.9999  # nearly all longer texts have several parts
        # At most 32 parts of 14 tokens count: the four longest texts and few others have more.
        assert 4 <= report["truncated_texts"] <= 20

    def test_a_long_passage_is_the_mean_of_its_parts(self, asked: Path, source: Path, tmp_path: Path) -> None:
        encoder = TextEncoder(asked)
        cut = quick_encoder(source, tmp_path / "out", SourceOptions(max_tokens=16, dim=8))
        text = "star love war night " * 10
        plain = Tokenizer.from_file(str(source / "tokenizer.json"))
        first, last = plain.token_to_id("[CLS]"), plain.token_to_id("[SEP]")
        ids = plain.encode("passage: " + text, add_special_tokens=False).ids
        parts = [np.array([[first, *ids[at : at + 14], last]]) for at in range(0, len(ids), 14)]
        assert len(parts) >= 3
        vectors = [cut.run(TokenTable(part, np.array([part.shape[1]]))) for part in parts]
        mean = np.sum(vectors, axis=0)[0]
        alone = encoder.encode([text])[0]
        assert np.allclose(alone, mean / np.linalg.norm(mean), atol=1e-6)
        assert encoder.truncated_texts == 0
        together = encoder.encode(["star", text, "love"])
        assert np.allclose(together[1], alone, atol=1e-6)
        encoder.encode([text], role="query")
        assert encoder.truncated_texts == 1

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--max-tokens", "65"), "--max-tokens 65"),
            (("--max-tokens", "2"), "takes texts of 3 to 64 tokens"),
            (("--dim", str(DIM + 1)), f"vectors of tiny have {DIM} elements"),
            (("--dim", "0"), "ask for 1 to"),
        ],
    )
    def test_too_much_is_refused(self, options: tuple[str, ...], said: str, source: Path, tmp_path: Path) -> None:
        found = CliRunner().invoke(app, ["encoder", str(source), "--home", str(tmp_path / "home"), *options])
        assert found.exit_code == 1
        assert said in " ".join(found.stderr.split())
