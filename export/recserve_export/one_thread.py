"""Threads of torch. One: small steps wait longer for other threads than they gain, and sums do not depend on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


def one_thread() -> AbstractContextManager[None]:
    """Run torch on one thread within the block."""
    return threads(1)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run torch on so many threads within the block, and on as many as before afterwards."""
    # Here, since loading torch takes a while.
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
