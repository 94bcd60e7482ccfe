"""What was encoded before a kill is not encoded again, and what is damaged is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from recserve_export.bulk_encoding.journal import VectorJournal

DIM = 8


class Encoder:
    """A made-up encoder that is killed after so many calls."""

    dim = DIM

    def __init__(self, calls: int = 1000) -> None:
        self.calls = calls
        self.asked: list[str] = []

    def encode(self, texts: list[str], *, done: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        self.asked += texts
        return np.stack([vector_of(text) for text in texts])


def vector_of(text: str) -> NDArray[np.float32]:
    return np.asarray(np.random.default_rng(list(text.encode("utf-8", "surrogatepass"))).normal(size=DIM), np.float32)


TEXTS = [f"{'x' * (n % 7)} text {n}" for n in range(50)] + ["", "\ud800"]


def expected(texts: list[str]) -> NDArray[np.float32]:
    return np.stack([vector_of(text) for text in texts])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "encoding" / "fingerprint"


def test_a_killed_job_goes_on_where_it_stopped(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        VectorJournal(Encoder(calls=3), folder, part=10).encode(TEXTS)
    again, counts = Encoder(), list[int]()
    journal = VectorJournal(again, folder, part=10)
    assert journal.encode(TEXTS, done=counts.append).tobytes() == expected(TEXTS).tobytes()
    assert len(again.asked) == len(TEXTS) - 30
    assert counts[0] == 30
    assert sum(counts) == len(TEXTS)
    # Other texts between, in another order: only they are encoded.
    again.asked.clear()
    mixed = ["new one", *reversed(TEXTS), "new two"]
    assert journal.encode(mixed).tobytes() == expected(mixed).tobytes()
    assert sorted(again.asked) == ["new one", "new two"]
    journal.forget()
    assert not folder.parent.exists()


def test_a_damaged_part_is_encoded_again(folder: Path) -> None:
    VectorJournal(Encoder(), folder, part=10).encode(TEXTS)
    first, second, *_ = sorted(folder.iterdir())
    first.write_bytes(first.read_bytes()[:-3])
    content = bytearray(second.read_bytes())
    content[-1] ^= 1
    second.write_bytes(content)
    again = Encoder()
    assert VectorJournal(again, folder, part=10).encode(TEXTS).tobytes() == expected(TEXTS).tobytes()
    lost = len(again.asked)
    assert 11 < lost <= 20


def test_what_another_encoder_left_is_removed(folder: Path) -> None:
    VectorJournal(Encoder(), folder, part=10).encode(TEXTS)
    other = Encoder()
    VectorJournal(other, folder.with_name("other"), part=10).encode(TEXTS)
    assert len(other.asked) == len(TEXTS)
    assert not folder.exists()
