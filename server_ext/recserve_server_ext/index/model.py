"""A trained model that is no space and no matrix: named arrays, kept as they were trained in every snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import reading

#: The files of a model are `model.NAME.npy`.
_PREFIX: Final = "model."
_SUFFIX: Final = ".npy"


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model in the manifest of its snapshot.

    Attributes:
        ids: Number of items that it names.
        version: Version of the training that it comes from.
    """

    ids: int = 0
    version: str = ""


@dataclass(frozen=True, eq=False)
class Model:
    """Named arrays, and the items that they are about; immutable.

    Attributes:
        arrays: The arrays by name. Their meaning is that of the strategy.
        ids: Ids of the items that arrays refer to by position; a catalogue may have other items.
        version: See `ModelManifest`.
    """

    arrays: Mapping[str, NDArray[Any]]
    ids: list[str] = field(default_factory=list)
    version: str = ""

    def manifest(self) -> ModelManifest:
        """Its part of the snapshot's manifest."""
        return ModelManifest(ids=len(self.ids), version=self.version)

    def write(self, folder: Path) -> None:
        """Write the arrays into a folder, which may be new."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self.arrays.items():
            np.save(folder / f"{_PREFIX}{name}{_SUFFIX}", array)

    @classmethod
    def load(cls, folder: Path, ids: list[str], version: str = "", advice: str = REBUILD) -> Model:
        """Open the model in a folder; its arrays are mapped. Raises SnapshotError where one cannot be read."""
        with reading(folder, SnapshotError, advice):
            arrays = {
                file.name.removeprefix(_PREFIX).removesuffix(_SUFFIX): np.load(file, mmap_mode="r").view(np.ndarray)
                for file in sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))
            }
        if not arrays:
            raise SnapshotError(f"{folder} holds no model; {advice}")
        return cls(arrays, ids, version)


def model_folder(snapshot: Path, name: str) -> Path:
    """The folder of a model in that of its snapshot."""
    return snapshot / "models" / name


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model."""
    return any(folder.glob(f"{_PREFIX}*{_SUFFIX}"))
