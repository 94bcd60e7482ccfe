"""Checkpoints of a training: what a training that was ended goes on from."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from recserve_export.training.base import TrainingLog, TrainSettings
from recserve_server_ext.common.files import write_file


class Saved(NamedTuple):
    """A training after an epoch.

    Attributes:
        losses: Loss on what is held out after each epoch so far.
        epochs: Epochs to train on everything; 0 while they are searched.
        done: Those that were done.
        state: State of the training.
    """

    losses: list[float]
    epochs: int
    done: int
    state: dict[str, Any]


class Checkpoint:
    """A file with the last epoch of one training, or nothing; another log or other settings begin anew."""

    def __init__(self, folder: Path | None, log: TrainingLog, settings: TrainSettings) -> None:
        """
        Args:
            folder: Where the file lies; `None` keeps nothing.
            log: What is trained on.
            settings: Settings of the training.
        """
        self._path = folder and folder / "checkpoint.pt"
        digest = hashlib.sha256(msgspec.json.encode([str(torch.__version__), type(settings).__name__, settings]))
        for array in (log.user, log.item, log.time_us):
            digest.update(array.tobytes())
        self._key = digest.hexdigest()

    def read(self) -> Saved | None:
        """What was saved of this training; `None` without, or where it cannot be read."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            found = torch.load(self._path, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        return Saved(*found["saved"]) if found.get("key") == self._key else None

    def write(self, saved: Saved) -> None:
        """Replace the file atomically."""
        if self._path is not None:
            buffer = io.BytesIO()
            torch.save({"key": self._key, "saved": tuple(saved)}, buffer)
            write_file(self._path, buffer.getvalue())

    def remove(self) -> None:
        """Remove the file: the training has ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
