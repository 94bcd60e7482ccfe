"""Modules of a sentence-transformers folder, from their JSON files: pooling, Dense and Normalize."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from recserve_export.errors import EncoderSourceError

Pooling = Literal["mean", "cls", "max", "last", "weighted_mean"]
Activation = Literal["Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU", "LeakyReLU", "ELU", "Softsign", "Hardtanh"]

MODULES: Final = "modules.json"
CONFIG: Final = "config.json"

_OLD_POOLING: Final = "1_Pooling"
#: Poolings by their names in sentence-transformers.
_POOLINGS: Final[dict[str, Pooling]] = {
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
    """

    model: str
    pooling: Pooling | None
    steps: tuple[Step, ...]
    folders: tuple[str, ...]


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; `None` where there is no such file.

    Raises:
        EncoderSourceError: It cannot be read, or holds something else.
    """
    content = _read(path)
    if content is not None and not isinstance(content, dict):
        raise EncoderSourceError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def read_modules(folder: Path, pooling: Pooling | None = None) -> SentenceModules:
    """Read `modules.json` and the files it names; a folder without it is a transformer with at most a `1_Pooling`.

    `pooling` takes the place of what the folder says.

    Raises:
        EncoderSourceError: A file is damaged, or asks for something that the graph would leave out.
    """
    path = folder / MODULES
    listed = _read(path)
    if listed is None:
        pooling = pooling or _read_pooling(folder / _OLD_POOLING / CONFIG)
        return SentenceModules(model="", pooling=pooling, steps=(), folders=(_OLD_POOLING,))
    try:
        modules = [(str(module["type"]), str(module.get("path", ""))) for module in listed]
    except (TypeError, KeyError, AttributeError) as error:
        raise EncoderSourceError(f"{path} cannot be read: every module needs a type ({error!r})") from error
    return _in_order(folder, modules, pooling)


def _in_order(folder: Path, modules: list[tuple[str, str]], pooling: Pooling | None) -> SentenceModules:
    path = folder / MODULES
    kinds = [_kind(path, name) for name, _ in modules]
    if kinds[:1] != ["Transformer"] or kinds[1:2] not in ([], ["Pooling"]) or {"Transformer", "Pooling"} & {*kinds[2:]}:
        raise EncoderSourceError(f"{path} has the modules {', '.join(kinds) or 'none'}; supported are {_KINDS}")
    steps: list[Step] = []
    for kind, (_, below) in list(zip(kinds, modules, strict=True))[1:]:
        if kind == "Normalize":
            steps.append("normalise")
        elif kind == "Pooling":
            pooling = pooling or _read_pooling(folder / below / CONFIG) or "mean"
        else:
            steps.append(_read_dense(folder / below))
    while steps and steps[-1] == "normalise":  # every graph ends in it
        steps.pop()
    folders = tuple(below for _, below in modules)
    return SentenceModules(model=folders[0], pooling=pooling, steps=tuple(steps), folders=folders)


def _kind(path: Path, name: str) -> str:
    package, _, kind = name.rpartition(".")
    if not package.startswith("sentence_transformers"):
        raise EncoderSourceError(f"{path} has the module {name}, code of its own; supported are {_KINDS}")
    if kind not in {"Transformer", "Pooling", "Dense", "Normalize"}:
        raise EncoderSourceError(f"{path} has the module {kind}; supported are {_KINDS}")
    return kind


def _read_pooling(path: Path) -> Pooling | None:
    config = read_object(path)
    if config is None:
        return None
    modes = config.get("pooling_mode")
    if modes is None:
        flags = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
        short = [key.removeprefix("pooling_mode_").removesuffix("s").removesuffix("_token") for key in flags]
        modes = [name if name in _POOLINGS else flag for name, flag in zip(short, flags, strict=True)]
    if isinstance(modes, str):
        modes = [modes]
    if len(modes) == 1 and modes[0] in _POOLINGS:
        return _POOLINGS[modes[0]]
    named = ", ".join(map(str, modes)) or "none"
    raise EncoderSourceError(
        f"{path} asks for pooling {named}; choose one of {', '.join(get_args(Pooling))} with --pooling"
    )


def _read_dense(folder: Path) -> DenseLayer:
    path = folder / CONFIG
    config = read_object(path)
    if config is None:
        raise EncoderSourceError(f"{folder} is a Dense module and has no {CONFIG}")
    where = config.get("module_input_name") or "sentence_embedding"
    if where != "sentence_embedding" or (config.get("module_output_name") or where) != where:
        raise EncoderSourceError(f"{path} is a Dense module of {where}; supported are those of sentence_embedding")
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = next((one for one in get_args(Activation) if str(name).rpartition(".")[2] == one), None)
    if activation is None or not str(name).startswith("torch.nn."):
        raise EncoderSourceError(
            f"{path} has the activation {name}; supported are those of torch.nn: {', '.join(get_args(Activation))}"
        )
    inputs, outputs = config.get("in_features"), config.get("out_features")
    if not isinstance(inputs, int) or not isinstance(outputs, int) or min(inputs, outputs) < 1:
        raise EncoderSourceError(f"{path} must give in_features and out_features as whole numbers of at least 1")
    bias = config.get("bias", True) is not False
    return DenseLayer(folder=folder, inputs=inputs, outputs=outputs, has_bias=bias, activation=activation)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EncoderSourceError(f"{path} cannot be read: {error}") from error
