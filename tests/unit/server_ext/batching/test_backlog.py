"""The backlog: taken when no empty queue was seen for long, answered in order, expired calls dropped."""

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
MS = 1_000_000


class Work:
    """Answers each call with its request, once it may."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.open = threading.Event()
        self.started = threading.Event()
        self.admission = Admission("own")
        self.now_ns = 0
        self.backlog = Backlog(self._run, self.admission, 2, lambda: self.now_ns)

    def takes(self, count: int, after_ms: int) -> bool:
        self.now_ns += after_ms * MS
        return self.backlog.takes(count)

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


def test_it_takes_full_batches_once_the_queue_was_not_empty_for_long(work: Work) -> None:
    assert not work.takes(1, 1000)
    assert not work.takes(2, 8)
    assert work.takes(2, 1)
    assert work.takes(2, 0)
    assert not work.takes(1, 0)


def test_it_looks_less_often_while_it_finds_few(work: Work) -> None:
    for pause_ms in (8, 16, 32, 64, 128, 128):
        assert not work.takes(1, 0)
        assert not work.takes(2, pause_ms)
        assert work.takes(2, 1)


def test_it_takes_everything_while_much_waits(work: Work) -> None:
    calls = [Call(str(number).encode()) for number in range(12)]
    assert not work.takes(1, 0)
    assert work.takes(2, 9)
    work.take(calls[0])
    assert work.started.wait(LONG_S)
    work.take(*calls[1:])
    assert work.takes(1, 0)
    work.open.set()
    assert [call.answer() for call in calls] == [str(number).encode() for number in range(12)]
    work.backlog.close()
    assert not work.takes(1, 0)
    assert not work.takes(2, 8)
    assert work.takes(2, 1), "much waited, so it looks again soon"
    assert work.admission.counts.waiting == 0


def test_it_looks_again_soon_after_a_refusal(work: Work) -> None:
    work.take(Call(b"first"))
    assert work.started.wait(LONG_S)
    assert not work.takes(1, 0)
    assert work.takes(2, 9)
    assert work.take(Call(b"late", 0)) != [None]
    assert not work.takes(1, 0)
    assert work.takes(2, 9)


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
