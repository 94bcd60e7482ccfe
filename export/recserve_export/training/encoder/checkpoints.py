"""Checkpoints of a training of an encoder: a folder each, and a mark in those that are whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import msgspec
from transformers import TrainerCallback

from recserve_server_ext.common.files import fsync_path, write_file

#: As transformers names them, before the number of the step.
_PREFIX: Final = "checkpoint-"
_MARK: Final = "WHOLE.json"


class Mark(msgspec.Struct, frozen=True):
    """Content of the mark.

    Attributes:
        key: What is trained, on what.
        seconds: Duration of the training so far.
    """

    key: str
    seconds: float


def newest_whole(folder: Path, key: str) -> tuple[Path | None, float]:
    """The newest whole checkpoint of a training and its seconds, or `None` and 0; what cannot be used is removed."""
    found: list[tuple[int, Path, float]] = []
    for path in folder.glob(f"{_PREFIX}*"):
        mark = _read(path / _MARK)
        if mark is None or mark.key != key:
            shutil.rmtree(path, ignore_errors=True)
        else:
            found.append((int(path.name.removeprefix(_PREFIX)), path, mark.seconds))
    if not found:
        return None, 0.0
    _, path, seconds = max(found)
    return path, seconds


class Marker(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint that was written, when all of it is on the disk."""

    def __init__(self, key: str, seconds: Any) -> None:
        """
        Args:
            key: What is trained, on what.
            seconds: Function that gives the duration of the training so far.
        """
        self._key, self._seconds = key, seconds

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint of the step."""
        del control
        folder = Path(args.output_dir) / f"{_PREFIX}{state.global_step}"
        for file in sorted(folder.rglob("*")):
            fsync_path(file)
        write_file(folder / _MARK, msgspec.json.encode(Mark(self._key, self._seconds())))


def _read(path: Path) -> Mark | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Mark)
    except (OSError, msgspec.MsgspecError):
        return None
