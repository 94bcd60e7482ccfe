"""The transformers model of a source, and the refusals that name a supported architecture."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from transformers import CONFIG_MAPPING, AutoConfig, AutoModel
from transformers import __version__ as version
from transformers.utils import logging as transformers_logging

from recserve_export.encoder.source.folder import EncoderSource
from recserve_export.encoder.source.sentence_modules import CONFIG, read_object
from recserve_export.errors import EncoderSourceError, first_line

#: Architectures whose export is tested, by transformers' `model_type`; others may do as well.
TESTED: Final = (
    "bert",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "distilbert",
    "electra",
    "albert",
    "deberta-v2",
    "modernbert",
    "gpt2",
    "llama",
    "qwen2",
    "qwen3",
    "gemma3_text",
    "nomic_bert",
    "gte",
)

#: A protobuf holds 2 GB; this much is left to the graph.
_MOST_WEIGHT_BYTES: Final = 2**31 - 2**24


def load_model(source: EncoderSource) -> Any:
    """The transformers model of a source, in float32, for inference; attention is written out as matrix products.

    Raises:
        EncoderSourceError: transformers cannot load it, weights are missing in the file, or there are too many.
    """
    _check_architecture(source)
    try:
        with _no_bars():
            model, loading = AutoModel.from_pretrained(
                source.model_folder,
                local_files_only=True,
                use_safetensors=source.weights[0].suffix == ".safetensors",
                trust_remote_code=source.options.trust_remote_code,
                output_loading_info=True,
                attn_implementation="eager",
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, RuntimeError and others
        raise EncoderSourceError(f"transformers cannot load {source.model_folder}: {first_line(error)}") from error
    # transformers fills weights that are missing with random numbers; only its pooler, which is not used, may be.
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise EncoderSourceError(
            f"{source.weights[0]} lacks {len(missing)} weights that config.json asks for, such as {missing[0]}"
        )
    _check_size(model, source)
    model.config.use_cache = False  # a decoder's keys and values are for generating text
    return model.float().eval()


def _check_size(model: Any, source: EncoderSource) -> None:
    size = sum(weight.numel() for weight in model.parameters()) * 4
    if size > _MOST_WEIGHT_BYTES:
        raise EncoderSourceError(
            f"{source.name} has {size / 1e9:.1f} GB of weights in float32; one ONNX file holds 2 GB; take a smaller one"
        )


def _check_architecture(source: EncoderSource) -> None:
    """Refuse what transformers does not know, and encoder-decoder models, before it says so in many lines."""
    kind = read_object(source.model_folder / CONFIG).get("model_type")
    if source.options.trust_remote_code:
        return
    if kind not in CONFIG_MAPPING:
        raise EncoderSourceError(
            f"{source.model_folder / CONFIG}: transformers {version} knows no architecture {kind}; {nearest(str(kind))}"
        )
    try:
        config = AutoConfig.from_pretrained(source.model_folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # see load_model
        raise EncoderSourceError(f"transformers cannot load {source.model_folder}: {first_line(error)}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise EncoderSourceError(f"{kind} has an encoder and a decoder, which is not supported; {nearest(str(kind))}")


def nearest(kind: str) -> str:
    """Names the architectures that are tested, and the one that is nearest by name."""
    near = difflib.get_close_matches(kind, TESTED, n=1, cutoff=0)[0]
    return f"supported are {', '.join(TESTED)} (nearest by name: {near})"


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of transformers."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()
