"""Modules of a sentence-transformers folder, from their JSON files: pooling, Dense and Normalize."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

from recserve_export.errors import EncoderSourceError

T = TypeVar("T")
Pooling = Literal["mean", "cls", "max", "last", "weighted_mean"]
Activation = Literal["Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU", "LeakyReLU", "ELU", "Softsign", "Hardtanh"]

MODULES: Final = "modules.json"
CONFIG: Final = "config.json"

_OLD_POOLING: Final = "1_Pooling"
#: Poolings by their names in sentence-transformers.
POOLINGS: Final[dict[str, Pooling]] = {
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "lasttoken": "last",
    "weightedmean": "weighted_mean",
}
_KINDS: Final = "Transformer, then Pooling, then any of Dense and Normalize"


@dataclass(frozen=True, kw_only=True)
class DenseLayer:
    """A Dense module: activation(W x + b).

    Attributes:
        folder: Where it is.
        inputs: Length of x.
        outputs: Length of the result.
        has_bias: Whether there is b.
        activation: A class of `torch.nn` without options.
    """

    folder: Path
    inputs: int
    outputs: int
    has_bias: bool
    activation: Activation


#: A module behind the pooling.
Step = DenseLayer | Literal["normalise"]


@dataclass(frozen=True, kw_only=True)
class SentenceModules:
    """What a folder says about the way from texts to vectors.

    Attributes:
        model: Folder of the transformer inside the source, `""` for the source itself.
        pooling: How token vectors become one; `None` where the folder does not say.
        steps: What follows the pooling, in this order; the L2 normalisation that ends every encoder is left out.
        folders: Folders of the modules below the source.
        pools_prompt: Whether the tokens of a prompt are pooled like those of the text.
    """

    model: str
    pooling: Pooling | None
    steps: tuple[Step, ...]
    folders: tuple[str, ...]
    pools_prompt: bool = True


class _Module(msgspec.Struct):
    """An entry of `modules.json`."""

    type: str
    path: str = ""


class _DenseConfig(msgspec.Struct):
    """`config.json` of a Dense module."""

    in_features: Annotated[int, Meta(ge=1)]
    out_features: Annotated[int, Meta(ge=1)]
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    module_input_name: str | None = None
    module_output_name: str | None = None


def read_json(path: Path, kind: type[T]) -> T | None:
    """The content of a JSON file; `None` where there is no such file.

    Raises:
        EncoderSourceError: It cannot be read, or does not fit the type.
    """
    try:
        return msgspec.convert(json.loads(path.read_bytes()), kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise EncoderSourceError(f"{path} cannot be read: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no such file. Errors as of `read_json`."""
    return read_json(path, dict[str, Any]) or {}


def read_modules(folder: Path, pooling: Pooling | None = None) -> SentenceModules:
    """Read `modules.json` and the files it names; a folder without it is a transformer with at most a `1_Pooling`.

    `pooling` takes the place of what the folder says.

    Raises:
        EncoderSourceError: A file is damaged, or asks for something that the graph would leave out.
    """
    path = folder / MODULES
    modules = read_json(path, list[_Module])
    if modules is None:
        pooling = pooling or _read_pooling(folder / _OLD_POOLING / CONFIG)
        return SentenceModules(model="", pooling=pooling, steps=(), folders=(_OLD_POOLING,))
    kinds = [_kind(path, module.type) for module in modules]
    if kinds[:1] != ["Transformer"] or kinds[1:2] not in ([], ["Pooling"]) or {"Transformer", "Pooling"} & {*kinds[2:]}:
        raise EncoderSourceError(f"{path} has the modules {', '.join(kinds) or 'none'}; supported are {_KINDS}")
    steps: list[Step] = []
    pools_prompt = True
    folders = tuple(module.path for module in modules)
    for kind, below in list(zip(kinds, folders, strict=True))[1:]:
        if kind == "Normalize":
            steps.append("normalise")
        elif kind == "Pooling":
            pools_prompt = read_object(folder / below / CONFIG).get("include_prompt", True) is True
            pooling = pooling or _read_pooling(folder / below / CONFIG) or "mean"
        else:
            steps.append(_read_dense(folder / below))
    while steps and steps[-1] == "normalise":  # every graph ends in it
        steps.pop()
    return SentenceModules(
        model=folders[0], pooling=pooling, steps=tuple(steps), folders=folders, pools_prompt=pools_prompt
    )


def _kind(path: Path, name: str) -> str:
    package, _, kind = name.rpartition(".")
    if not package.startswith("sentence_transformers"):
        raise EncoderSourceError(f"{path} has the module {name}, code of its own; supported are {_KINDS}")
    if kind not in {"Transformer", "Pooling", "Dense", "Normalize"}:
        raise EncoderSourceError(f"{path} has the module {kind}; supported are {_KINDS}")
    return kind


def _read_pooling(path: Path) -> Pooling | None:
    config = read_json(path, dict[str, Any])
    if config is None:
        return None
    modes = config.get("pooling_mode")
    if modes is None:
        flags = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
        short = [key.removeprefix("pooling_mode_").removesuffix("s").removesuffix("_token") for key in flags]
        modes = [name if name in POOLINGS else flag for name, flag in zip(short, flags, strict=True)]
    if isinstance(modes, str):
        modes = [modes]
    if len(modes) == 1 and modes[0] in POOLINGS:
        return POOLINGS[modes[0]]
    named = ", ".join(map(str, modes)) or "none"
    raise EncoderSourceError(
        f"{path} asks for pooling {named}; choose one of {', '.join(get_args(Pooling))} with --pooling"
    )


def _read_dense(folder: Path) -> DenseLayer:
    path = folder / CONFIG
    config = read_json(path, _DenseConfig)
    if config is None:
        raise EncoderSourceError(f"{folder} is a Dense module and has no {CONFIG}")
    where = config.module_input_name or "sentence_embedding"
    if where != "sentence_embedding" or (config.module_output_name or where) != where:
        raise EncoderSourceError(f"{path} is a Dense module of {where}; supported are those of sentence_embedding")
    package, _, name = config.activation_function.rpartition(".")
    activation = next((one for one in get_args(Activation) if one == name), None)
    if activation is None or not f"{package}.".startswith("torch.nn."):
        raise EncoderSourceError(
            f"{path} has the activation {config.activation_function}; supported are those of torch.nn: "
            f"{', '.join(get_args(Activation))}"
        )
    return DenseLayer(
        folder=folder,
        inputs=config.in_features,
        outputs=config.out_features,
        has_bias=config.bias,
        activation=activation,
    )
