"""Tiny real models of many architectures, with random weights from a seed and a tokenizer built here."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recserve_export.encoder.recipe import Exporter
from recserve_export.encoder.source.folder import NO_OPTIONS, SourceOptions, read_source
from recserve_server_ext.common.files import sha256_of
from recserve_server_ext.encoder.manifest import MANIFEST, MODEL, TOKENIZER, EncoderManifest
from recserve_server_ext.encoder.text_encoder import TextEncoder

#: transformers 5 dropped the tokenizers in Python that fast ones were compared with.
HAS_SLOW_TOKENIZERS: Final = version("transformers").startswith("4.")

DIM: Final = 32
POSITIONS: Final = 96
WORDS: Final = ("the", "star", "wars", "love", "robot", "falls", "in", "heist", "goes", "wrong", "space", "opera", "a")

#: Of different lengths, from one token to more than `POSITIONS`.
TEXTS: Final = (
    "a",
    "star wars",
    "A robot falls in love, and the heist goes wrong!",
    "the space opera " * 6,
    "Amélie 千と千尋の神隠し مرحبا 🎬",
    "love in space; the robot wars go wrong " * 20,
)

_BERT_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_SPECIAL: Final = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")

_SMALL: Final = {
    "hidden_size": DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    # With the usual 0.02 the layers would do next to nothing to the embeddings.
    "initializer_range": 0.3,
}
#: By architecture: its options besides `_SMALL`, and its tokenizer.
_KINDS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "bert": ({}, "BertTokenizerFast"),
    "electra": ({"embedding_size": 16}, "ElectraTokenizerFast"),
    "distilbert": ({"dim": DIM, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}, "DistilBertTokenizerFast"),
    "mpnet": ({"pad_token_id": 1}, "MPNetTokenizerFast"),
    "roberta": ({"pad_token_id": 1}, "RobertaTokenizerFast"),
    "xlm-roberta": ({"pad_token_id": 1}, "unigram"),
    "albert": ({"embedding_size": 16, "num_hidden_groups": 1}, "unigram"),
    "deberta-v2": (
        {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
         "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0},
        "unigram",
    ),
    "modernbert": (
        {"num_hidden_layers": 3, "global_attn_every_n_layers": 2, "local_attention": 8, "pad_token_id": 1,
         "cls_token_id": 0, "bos_token_id": 0, "sep_token_id": 2, "eos_token_id": 2, "initializer_cutoff_factor": 2.0},
        "unigram",
    ),
    "gpt2": ({"n_embd": DIM, "n_layer": 2, "n_head": 4, "n_inner": 64, "n_positions": POSITIONS}, "GPT2TokenizerFast"),
    "llama": ({"num_key_value_heads": 2}, "unigram"),
    "qwen2": ({"num_key_value_heads": 2, "use_sliding_window": False}, "Qwen2TokenizerFast"),
    "qwen3": ({"num_key_value_heads": 2, "head_dim": 8}, "Qwen2TokenizerFast"),
    # As EmbeddingGemma: a text sees all of itself, in every second layer the neighbours alone.
    "gemma3_text": (
        {"num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8,
         "use_bidirectional_attention": True, "layer_types": ["sliding_attention", "full_attention"],
         "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
        "unigram",
    ),
    "nomic_bert": ({"head_dim": 8}, "BertTokenizerFast"),
    "gte": ({"pad_token_id": 1}, "unigram"),
}  # fmt: skip


def make_tiny_model(folder: Path, kind: str, *, seed: int = 5) -> Path:
    """Write a Hugging Face folder: config.json, model.safetensors, tokenizer.json and, where there is one, vocabulary.

    Args:
        folder: Created; must not exist.
        kind: transformers' `model_type`.
        seed: Of the weights.

    Returns:
        The folder.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    folder.mkdir(parents=True)
    options, tokenizer = _KINDS[kind]
    size = _write_unigram(folder) if tokenizer == "unigram" else _write_vocabulary(folder, tokenizer)
    merged = {**_SMALL, **options, "vocab_size": size}
    if kind == "gpt2":
        merged = {name: value for name, value in merged.items() if name.startswith(("n_", "vocab", "initial"))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModel.from_config(AutoConfig.for_model(kind, **merged)).save_pretrained(folder)
    return folder


def add_modules(folder: Path, pooling: str, *more: tuple[str, dict[str, Any]]) -> None:
    """Make it a sentence-transformers folder.

    Args:
        folder: Of Hugging Face.
        pooling: As sentence-transformers names it.
        more: Kinds and configurations of the modules behind the pooling, without weights.
    """
    kinds = [("Transformer", {}), ("Pooling", {"embedding_dimension": DIM, "pooling_mode": pooling}), *more]
    listed = []
    for at, (kind, config) in enumerate(kinds):
        below = f"{at}_{kind}" if at else ""
        listed.append({"idx": at, "name": str(at), "path": below, "type": f"sentence_transformers.models.{kind}"})
        if config:
            (folder / below).mkdir()
            (folder / below / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "modules.json").write_text(json.dumps(listed), encoding="utf-8")


def quick_encoder(
    folder: Path, target: Path, options: SourceOptions = NO_OPTIONS, exporter: Exporter = "torch"
) -> TextEncoder:
    """Export by the real functions, without the comparison and the measurements that `export_encoder` adds."""
    from recserve_export.encoder.graph.onnx_export import write_onnx
    from recserve_export.encoder.source.tokenizer import write_tokenizer
    from recserve_export.stages import quiet

    source = read_source(folder, options)
    target.mkdir(parents=True, exist_ok=True)
    with quiet():
        vocabulary = write_onnx(source, target / MODEL, exporter)
        write_tokenizer(source, target / TOKENIZER, vocabulary)
    import onnx

    manifest = EncoderManifest(
        name=source.name,
        precision="fp32",
        dim=onnx.load(target / MODEL).graph.output[0].type.tensor_type.shape.dim[1].dim_value,
        max_tokens=source.max_tokens,
        pooling=source.pooling,
        source_sha256=source.sha256(),
        files={name: sha256_of(target / name) for name in (MODEL, TOKENIZER)},
        versions={},
    )
    import msgspec

    (target / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return TextEncoder(target)


def vectors_by_transformers(
    folder: Path, texts: tuple[str, ...], pool: Callable[[NDArray[np.float32]], NDArray[np.float32]], max_tokens: int
) -> NDArray[np.float32]:
    """Unit vectors [texts, dim]: each text alone through transformers, its token vectors through `pool`."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        pooled = pool(hidden[0].numpy())
        rows.append(pooled / np.linalg.norm(pooled))
    return np.stack(rows)


def _write_vocabulary(folder: Path, name: str) -> int:
    """WordPiece (vocab.txt) or byte-level BPE (vocab.json, merges.txt), and their tokenizer.json; returns the size."""
    import transformers

    kind = getattr(transformers, name)
    if "vocab_file" in kind.vocab_files_names and "merges_file" not in kind.vocab_files_names:
        special = _ROBERTA_SPECIAL if name.startswith("MPNet") else _BERT_SPECIAL
        characters = string.ascii_lowercase + string.digits + string.punctuation + "éøßжмир千神"
        words = [*special, "[UNK]"] if "[UNK]" not in special else [*special]
        words += [*characters, *(f"##{one}" for one in string.ascii_lowercase), *(w for w in WORDS if len(w) > 1)]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        made = kind(str(folder / "vocab.txt"))
    else:
        made = kind(*_write_bpe(folder, _ROBERTA_SPECIAL if name.startswith("Roberta") else ("<|endoftext|>",)))
    made.save_pretrained(folder)
    return len(made)


def _write_bpe(folder: Path, special: tuple[str, ...]) -> tuple[str, str]:
    from tokenizers.pre_tokenizers import ByteLevel

    merges: list[tuple[str, str]] = []
    for word in WORDS:
        left = "Ġ"
        for letter in word:
            if (left, letter) not in merges:
                merges.append((left, letter))
            left += letter
    pieces = [*special, *sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    (folder / "vocab.json").write_text(json.dumps({piece: at for at, piece in enumerate(pieces)}), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / "vocab.json"), str(folder / "merges.txt")


def _write_unigram(folder: Path) -> int:
    """A tokenizer.json alone, as sentencepiece models have it, with `<s>` before and `</s>` behind a text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    characters = string.ascii_letters + string.digits + string.punctuation + "éøßжмир千神"
    pieces = [(piece, 0.0) for piece in _ROBERTA_SPECIAL]
    pieces += [("▁", -3.0), *((one, -6.0) for one in characters), *((f"▁{word}", -5.0) for word in WORDS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    named = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), _ROBERTA_SPECIAL, strict=True))
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", **named)
    made.save_pretrained(folder)
    return len(made)
