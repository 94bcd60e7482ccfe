"""Exports of the tiny encoders, made once: kept in a cache by what they are made with, and shared by all workers."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from recserve_export.encoder.export import export_encoder
from recserve_export.encoder.source.folder import SourceOptions
from recserve_server_ext.common import cpu
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.manifest import Precision
from support.tiny_encoder import LOOSE, make_tiny_source, measured_once
from support.tiny_home import make_tiny_home

#: Seed of the weights and dimensions of a second encoder.
OTHER_SEED, OTHER_DIM = 8, 16

_ROOT = Path(__file__).parents[2]
#: All code that takes part.
_CODE = ("client", "server_ext", "export", "model_repository", "tests/support")
_PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "onnxscript",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "numpy",
    "hnswlib",
)
#: After so long without use an export is removed.
_UNUSED_S = 24 * 3600


class Exports:
    """Folders that tests must not change: they copy what they do change."""

    def __init__(self, folder: Path) -> None:
        """Of a folder that other processes may use at the same time."""
        self._folder = folder

    def source(self, seed: int = 7) -> Path:
        """The model that the tiny encoder is exported from."""
        return self._kept(f"source{seed}", lambda folder: make_tiny_source(folder / "tiny", seed=seed)) / "tiny"

    def encoders(self, precision: Precision) -> Path:
        """A home with the tiny encoder in a precision, and in fp32, of which all others are made."""

        def make(home: Path) -> None:
            if precision != "fp32":
                shutil.copytree(self.encoders("fp32"), home, symlinks=True, dirs_exist_ok=True)
            with measured_once():
                export_encoder(self.source(), Workspace(home), precision, settings=LOOSE)

        return self._kept(precision, make)

    def home(self) -> Path:
        """A complete home: the tiny encoder, some films and their snapshot."""
        return self._kept("home", lambda home: make_tiny_home(home, self.encoders("fp32")))

    def home_of_two(self) -> Path:
        """That home with a second encoder, of other weights and of `OTHER_DIM` dimensions, which is not served."""

        def make(home: Path) -> None:
            shutil.copytree(self.home(), home, symlinks=True, dirs_exist_ok=True)
            options = SourceOptions(dim=OTHER_DIM)
            with measured_once():
                export_encoder(self.source(OTHER_SEED), Workspace(home), options=options, settings=LOOSE)

        return self._kept("home-of-two", make)

    def _kept(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of this name, made by the first that asks for it."""
        place = self._folder / name / self._key
        place.parent.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.is_dir():
                aside = place.parent / "aside"
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir()
                make(aside)
                aside.rename(place)
            place.touch()
            for old in place.parent.iterdir():
                if old.stat().st_mtime < time.time() - _UNUSED_S:
                    shutil.rmtree(old)
        return place

    @cached_property
    def _key(self) -> str:
        """What decides an export: our code, the packages, and the arithmetic of the CPU."""
        found = hashlib.sha256(cpu.int8_arithmetic().encode())
        for package in _PACKAGES:
            found.update(f"{package} {version(package)}".encode())
        for folder in _CODE:
            for path in sorted(one for end in ("py", "j2") for one in (_ROOT / folder).rglob(f"*.{end}")):
                found.update(path.read_bytes())
        return found.hexdigest()[:16]
