"""`tokenizer.json` against the slow tokenizer of sentencepiece, and what the report says where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recserve_export.encoder.source.folder import EncoderSource, read_source
from recserve_export.errors import EncoderSourceError
from support.tiny_models import HAS_SLOW_TOKENIZERS, make_tiny_model

_NONE = "not compared: transformers has no slow tokenizer beside"
fast_only = pytest.mark.skipif(HAS_SLOW_TOKENIZERS, reason="transformers 4 has slow tokenizers")
slow = pytest.mark.skipif(not HAS_SLOW_TOKENIZERS, reason="transformers 5 has no slow tokenizers")

#: Architecture, its slow tokenizer, and the file that this one reads.
KINDS = {
    "xlm-roberta": ("XLMRobertaTokenizer", "sentencepiece.bpe.model"),
    "deberta-v2": ("DebertaV2Tokenizer", "spm.model"),
    "albert": ("AlbertTokenizer", "spiece.model"),
}


def write_tokenizer(source: EncoderSource, path: Path, vocabulary: int) -> str:
    """That of the package, which imports transformers."""
    from recserve_export.encoder.source import tokenizer

    return tokenizer.write_tokenizer(source, path, vocabulary)


@pytest.fixture(scope="module")
def sample() -> tuple[str, ...]:
    """The texts that both tokenizers are compared on."""
    from recserve_export.encoder.source.tokenizer import SAMPLE

    return SAMPLE


@pytest.fixture(scope="module")
def pieces(sample: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sentencepiece model over the characters of the sample."""
    import sentencepiece

    path = tmp_path_factory.mktemp("pieces") / "pieces"
    lines = [line for text in sample for line in text.split("\n") if line.strip()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 3), model_prefix=str(path), vocab_size=600, hard_vocab_limit=False,
        character_coverage=1.0, pad_id=-1, max_sentence_length=20_000, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return path.with_suffix(".model").read_bytes()


def source_with(pieces: bytes, folder: Path, kind: str) -> EncoderSource:
    """A tiny model with that sentencepiece model, and the tokenizer.json that transformers makes of it."""
    import transformers

    make_tiny_model(folder, kind)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    slow, file = KINDS[kind]
    (folder / file).write_bytes(pieces)
    getattr(transformers, f"{slow}Fast").from_pretrained(folder).save_pretrained(folder)
    return read_source(folder)


@slow
@pytest.mark.parametrize("kind", ["xlm-roberta", "deberta-v2"])
def test_equals_the_slow_one(kind: str, sample: tuple[str, ...], pieces: bytes, tmp_path: Path) -> None:
    source = source_with(pieces, tmp_path / "source", kind)
    said = write_tokenizer(source, tmp_path / "tokenizer.json", 1000)
    assert said == f"equal to {KINDS[kind][0]} on {len(sample)} texts"


@slow
def test_those_of_albert_differ(pieces: bytes, tmp_path: Path) -> None:
    """As docs/reference/encoders.md says: transformers' own two do, already on a single space."""
    source = source_with(pieces, tmp_path / "source", "albert")
    with pytest.raises(EncoderSourceError, match="gives the text ' ' other tokens than AlbertTokenizer"):
        write_tokenizer(source, tmp_path / "tokenizer.json", 1000)


@slow
def test_another_normalizer_is_seen(pieces: bytes, tmp_path: Path) -> None:
    source = source_with(pieces, tmp_path / "source", "xlm-roberta")
    path = tmp_path / "source" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": None}))
    with pytest.raises(EncoderSourceError, match="other tokens than XLMRobertaTokenizer"):
        write_tokenizer(source, tmp_path / "tokenizer.json", 1000)


@slow
def test_without_sentencepiece_the_report_says_so(
    pieces: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_with(pieces, tmp_path / "source", "xlm-roberta")
    monkeypatch.setattr("transformers.XLMRobertaTokenizerFast.slow_tokenizer_class", None)
    monkeypatch.setattr("recserve_export.encoder.source.tokenizer.is_sentencepiece_available", lambda: False)
    said = write_tokenizer(source, tmp_path / "tokenizer.json", 1000)
    assert said == "not compared: the slow tokenizer needs the package sentencepiece, which is not installed"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param("bert", "equal to BertTokenizer on {texts} texts", marks=slow),
        pytest.param("gpt2", "equal to GPT2Tokenizer on {texts} texts", marks=slow),
        ("modernbert", f"{_NONE} {'PreTrainedTokenizerFast' if HAS_SLOW_TOKENIZERS else 'TokenizersBackend'}"),
        pytest.param("bert", f"{_NONE} BertTokenizer", marks=fast_only),
    ],
)
def test_what_the_report_says(kind: str, said: str, sample: tuple[str, ...], tmp_path: Path) -> None:
    source = read_source(make_tiny_model(tmp_path / "source", kind))
    assert write_tokenizer(source, tmp_path / "tokenizer.json", 1000) == said.format(texts=len(sample))


@slow
def test_a_source_without_vocabulary(tmp_path: Path) -> None:
    source = read_source(make_tiny_model(tmp_path / "source", "bert"))
    (tmp_path / "source" / "vocab.txt").unlink()
    said = write_tokenizer(source, tmp_path / "tokenizer.json", 1000)
    assert said == "not compared: BertTokenizer reads vocab.txt, which the source lacks"
