"""Names on the Hugging Face hub -> folders, by huggingface_hub: its cache, its token, its offline mode."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recserve_export.encoder_source import SourceOptions
from recserve_export.errors import EncoderSourceError

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: What an export reads; a repository holds the same weights in other formats as well.
_FILES: Final = ("*.json", "*.safetensors", "*.txt", "*.model")
_NOT_FILES: Final = ("onnx/*", "openvino/*", "*.onnx")


@dataclass(frozen=True)
class NamedFolder:
    """A source folder and the name of the model in it.

    Attributes:
        folder: Where it is.
        name: On the hub; none = that of the folder.
    """

    folder: Path
    name: str | None


def resolve(source: str, options: SourceOptions) -> NamedFolder:
    """The folder of a source; a name of the form `owner/model` that is no folder here is looked up on the hub.

    Args:
        source: A folder, or a name on the hub.
        options: Whether pickled weights and code may be fetched, too.

    Raises:
        EncoderSourceError: The hub cannot be reached and the model is not in the cache, or the hub has no such model.
    """
    folder = Path(source)
    if folder.exists() or not _NAME.fullmatch(source):
        return NamedFolder(folder, None)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    patterns = [*_FILES, *(["*.bin"] if options.allow_pickle else []), *(["*.py"] if options.trust_remote_code else [])]
    hint = f"{source} is no folder here"
    try:
        return NamedFolder(
            Path(snapshot_download(source, allow_patterns=patterns, ignore_patterns=list(_NOT_FILES))), source
        )
    except LocalEntryNotFoundError as error:
        raise EncoderSourceError(
            f"{hint}, not in the cache of huggingface_hub, and the hub cannot be reached (or HF_HUB_OFFLINE is set); "
            "give a folder, or try again with a connection"
        ) from error
    except GatedRepoError as error:
        raise EncoderSourceError(f"{source} asks for an agreement on the hub; log in with: hf auth login") from error
    except RepositoryNotFoundError as error:
        raise EncoderSourceError(f"{hint}, and the hub has no such model (or it is private)") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderSourceError(f"{hint}, and the hub refused: {first}") from error
