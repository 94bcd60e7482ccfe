"""Models of the Hugging Face hub as folders, by huggingface_hub: its cache, its token, its offline mode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recserve_export.encoder.source.folder import SourceOptions, suffixes
from recserve_export.errors import EncoderSourceError, first_line

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NOT_FILES: Final = ("onnx/*", "openvino/*", "*.onnx")
#: Stands in the model's folder of the cache until all its files are there.
_UNFINISHED: Final = "recserve.unfinished"
#: How long the hub may take to say what a model has.
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class NamedFolder:
    """A source folder and the name of the model in it.

    Attributes:
        folder: Where it is.
        name: Name on the hub; `None` for a local folder.
    """

    folder: Path
    name: str | None


def resolve(source: str, options: SourceOptions) -> NamedFolder:
    """The folder of a source: a folder here, or a name of the form `owner/model` on the hub.

    Raises:
        EncoderSourceError: The hub cannot be reached and the model is not in the cache, or not whole; or the hub has no
            such model, refuses it, or breaks off.
    """
    folder = Path(source)
    if folder.exists() or not _NAME.fullmatch(source):
        return NamedFolder(folder, None)
    with _explained(source):
        return NamedFolder(_fetch(source, [f"*{suffix}" for suffix in suffixes(options)]), source)


def _fetch(source: str, patterns: list[str]) -> Path:
    """The model's folder in the cache, whole.

    Without a connection huggingface_hub gives what is in its cache, even when a download ended in the middle. Without,
    say, its pooling's file a model would be another one. So a mark stands beside it while a download is under way.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="model")
    mark = cached / _UNFINISHED
    if mark.exists():
        try:
            HfApi().model_info(source, timeout=_TIMEOUT_S)
        except Exception as error:  # see _explained
            raise EncoderSourceError(
                f"a download of {source} was broken off and cannot be completed now: {first_line(error)}; "
                "try again with a connection"
            ) from error
    if not constants.HF_HUB_OFFLINE:
        with suppress(OSError):  # a cache that others may only read gets no downloads
            cached.mkdir(parents=True, exist_ok=True)
            mark.touch()
    try:
        found = Path(snapshot_download(source, allow_patterns=patterns, ignore_patterns=list(_NOT_FILES)))
    except Exception:
        if not (cached / "refs").exists():  # not even begun
            mark.unlink(missing_ok=True)
            with suppress(OSError):
                cached.rmdir()
        raise
    mark.unlink(missing_ok=True)
    return found


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Each failure of huggingface_hub in one line."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    hint = f"{source} is no folder here"
    try:
        yield
    except LocalEntryNotFoundError as error:
        raise EncoderSourceError(
            f"{hint}, not in the cache of huggingface_hub, and the hub cannot be reached (or HF_HUB_OFFLINE is set); "
            "give a folder, or try again with a connection"
        ) from error
    except GatedRepoError as error:
        raise EncoderSourceError(f"{source} asks for an agreement on the hub; log in with: hf auth login") from error
    except RepositoryNotFoundError as error:
        raise EncoderSourceError(f"{hint}, and the hub has no such model (or it is private)") from error
    except Exception as error:  # of the disk, of the hub, and of its HTTP library, which is another one in each version
        raise EncoderSourceError(
            f"{hint}, and it cannot be fetched from the hub: {first_line(error)}; try again: what came is kept"
        ) from error
