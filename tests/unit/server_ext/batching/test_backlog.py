"""The backlog: taken after full batches, answered in order, expired calls dropped before they cost anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.batching.admission import Admission
from recserve_server_ext.batching.backlog import Backlog, TakenCall
from recserve_server_ext.batching.batcher import Answer
from recserve_server_ext.batching.batcher import Call as Received
from support.calls import Call

LONG_S = 30


class Work:
    """Answers each call with its request, once it may."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.open = threading.Event()
        self.started = threading.Event()
        self.admission = Admission("own")
        self.backlog = Backlog(self._run, self.admission, 2)

    def take(self, *calls: Call) -> list[RequestError | None]:
        return [self.backlog.take(call, call.read) for call in calls]

    def _run(self, calls: Sequence[TakenCall]) -> list[Answer | None]:
        self.batches.append([call.read() for call in calls])
        self.started.set()
        assert self.open.wait(LONG_S)
        return [call.read() for call in calls]


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.open.set()
    work.backlog.close()


def test_it_takes_full_batches_and_what_comes_after_them(work: Work) -> None:
    assert not work.backlog.takes(1)
    assert work.backlog.takes(2)
    first, second = Call(b"first"), Call(b"second")
    assert work.take(first) == [None]
    assert work.started.wait(LONG_S)
    assert work.backlog.takes(1)
    assert work.take(second) == [None]
    work.open.set()
    assert (first.answer(), second.answer()) == (b"first", b"second")
    work.backlog.close()
    assert not work.backlog.takes(1)
    assert work.admission.counts.waiting == 0


def test_calls_are_answered_in_order_and_in_batches(work: Work) -> None:
    first = Call(b"0")
    work.take(first)
    assert work.started.wait(LONG_S)
    later = [Call(str(number).encode()) for number in range(1, 6)]
    work.take(*later)
    work.open.set()
    assert [call.answer() for call in later] == [b"1", b"2", b"3", b"4", b"5"]
    assert work.batches == [[b"0"], [b"1", b"2"], [b"3", b"4"], [b"5"]]


def test_an_expired_call_is_dropped_before_it_is_worked_on(work: Work) -> None:
    first = Call(b"first")
    work.take(first)
    assert work.started.wait(LONG_S)
    expired, last = Call(b"expired", time.monotonic_ns() + 10_000_000), Call(b"last")
    assert work.take(expired, last) == [None, None]
    while time.monotonic_ns() < expired.deadline_ns:
        pass
    work.open.set()
    dropped = expired.answer()
    assert isinstance(dropped, RequestError)
    assert dropped.kind is ErrorKind.OVERLOADED
    assert last.answer() == b"last"
    assert work.batches == [[b"first"], [b"last"]]
    assert work.admission.counts.expired == 1


def test_a_full_backlog_refuses_at_once_and_reads_nothing(work: Work) -> None:
    work.take(Call(b"first"))
    assert work.started.wait(LONG_S)
    while work.take(Call(b"more")) == [None]:
        pass

    def read() -> bytes:
        raise AssertionError("a refused request was read")

    call: Received = Call(b"")
    refusal = work.backlog.take(call, read)
    assert refusal is not None
    assert refusal.kind is ErrorKind.OVERLOADED


def test_the_size_of_what_waits_is_bounded(work: Work) -> None:
    work.take(Call(b"first"))
    assert work.started.wait(LONG_S)
    half = bytes(33 * 2**20)
    (taken, refusal) = work.take(Call(half), Call(half))
    assert taken is None
    assert refusal is not None
    assert refusal.kind is ErrorKind.OVERLOADED
    assert work.take(Call(b"small")) == [None]


def test_a_call_that_cannot_be_read_is_refused_and_leaves_its_place(work: Work) -> None:
    error = RequestError(ErrorKind.WRONG_TENSOR, "empty")
    assert work.take(Call(error)) == [error]
    assert work.admission.counts.waiting == 0
