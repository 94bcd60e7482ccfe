"""`tokenizer.json` of an encoder, and the proof that it gives the ids of the source's own tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase, Sequence
from transformers import AutoTokenizer
from transformers.utils import is_sentencepiece_available

from recserve_export.encoder.source.folder import EncoderSource
from recserve_export.errors import EncoderSourceError, first_line

#: Scripts, signs and lengths on which tokenizers have been known to differ.
SAMPLE: Final = (
    "",
    " ",
    "Star Wars: Episode IV \u2013 A New Hope",
    "don't  STOP,\tnow!\nplease…  ",
    "Amélie Ångström naïve Œuvre ẞtraße İstanbul",
    "Ame\u0301lie A\u030angstro\u0308m q\u0323\u0307 Z\u0351\u036b\u0343a\u0316lgo",
    "千と千尋の神隠し 传统與简体 기생충 ｶﾀｶﾅ",
    "مرحبا بالعالم، أهلاً وسهلاً ١٢٣",
    "שלום עולם नमस्ते दुनिया สวัสดีชาวโลก Привет, мир",
    "🎬🍿 👩‍👩‍👧‍👦 🇫🇷 ❤️ 👍🏽",
    "zero\u200bwidth non\u00a0breaking soft\u00adhyphen \ufeffbom",
    "1,234.5 km² ½ ™ №5 x² €100 C++ a_b-c/d@e.f #1",
    ("A robot falls in love; 千尋 и Мир, مرحبا 🎬 e\u0301. " * 250)[:10_000],
)


def load_tokenizer(source: EncoderSource) -> Any:
    """The fast tokenizer of a source.

    Raises:
        EncoderSourceError: transformers cannot load it, or there is no fast one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.model_folder,
            local_files_only=True,
            use_fast=True,
            trust_remote_code=source.options.trust_remote_code,
        )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, RuntimeError and others
        raise EncoderSourceError(
            f"transformers cannot load the tokenizer of {source.model_folder}: {first_line(error)}"
        ) from error
    if not tokenizer.is_fast:
        raise EncoderSourceError(f"{source.model_folder} has no fast tokenizer; save it with a tokenizer.json")
    return tokenizer


def write_tokenizer(source: EncoderSource, path: Path, vocabulary: int) -> str:
    """Write `tokenizer.json`: no padding, truncated to the source's `max_tokens`.

    `vocabulary` is the number of token ids that the model knows. Returns what the tokenizer was compared with, or why
    with nothing.

    Raises:
        EncoderSourceError: The tokenizer cannot be loaded, gives ids that the model does not know, or gives a text
            other ids than the slow one of the same folder.
    """
    fast = load_tokenizer(source)
    tokenizer = fast.backend_tokenizer
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > vocabulary:
        raise EncoderSourceError(
            f"the tokenizer of {source.model_folder} has {size} tokens, the model knows {vocabulary}; "
            "they do not belong together"
        )
    if source.lowercase:
        tokenizer.normalizer = Sequence([Lowercase(), *([tokenizer.normalizer] if tokenizer.normalizer else [])])
    tokenizer.no_padding()
    tokenizer.enable_truncation(source.max_tokens)
    # Its own `save` raises no OSError when the disk is full.
    path.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    slow = _load_slow(source, fast)
    if isinstance(slow, str):
        return f"not compared: {slow}"
    check_equal(source, path, slow)
    return f"equal to {type(slow).__name__} on {len(SAMPLE)} texts"


def check_equal(source: EncoderSource, path: Path, slow: Any) -> None:
    """Compare a written tokenizer with the slow one on `SAMPLE`, whole and truncated.

    Raises:
        EncoderSourceError: Names the first text that gets other ids.
    """
    whole, truncated = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(path))
    whole.no_truncation()
    for text in SAMPLE:
        given = text.lower() if source.lowercase else text
        expected = slow(given)["input_ids"]
        cut = slow(given, truncation=True, max_length=source.max_tokens)["input_ids"]
        if whole.encode(text).ids != expected or truncated.encode(text).ids != cut:
            shown = text if len(text) <= 60 else f"{text[:60]}… ({len(text):,} characters)"
            raise EncoderSourceError(
                f"tokenizer.json gives the text {shown!r} other tokens than {type(slow).__name__} with the vocabulary "
                f"in {source.model_folder}; save both anew from one tokenizer, or remove the wrong one"
            )


def _load_slow(source: EncoderSource, fast: Any) -> Any | str:
    """The tokenizer in Python over the source's vocabulary files, or why there is none."""
    folder = source.model_folder
    kind = getattr(fast, "slow_tokenizer_class", None)
    if kind is None:
        if any(folder.glob("*.model")) and not is_sentencepiece_available():
            return "the slow tokenizer needs the package sentencepiece, which is not installed"
        return f"transformers has no slow tokenizer beside {type(fast).__name__}"
    needed = [name for part, name in kind.vocab_files_names.items() if part != "tokenizer_file"]
    if missing := [name for name in needed if not (folder / name).is_file()]:
        return f"{kind.__name__} reads {missing[0]}, which the source lacks"
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # see load_tokenizer
        raise EncoderSourceError(
            f"transformers cannot load {kind.__name__} of {folder}: {first_line(error)}"
        ) from error
