"""Stages of long work: how they show progress, and how libraries are kept quiet meanwhile."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

#: Opens a stage of known or unknown length; inside, call what it yields with the number of things done.
Stage = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def silent(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A stage that shows nothing."""
    del what, total
    yield lambda _: None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence third-party warnings and log lines below ERROR inside the block."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
