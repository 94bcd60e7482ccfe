"""What may wait: a limit that adapts, deadlines by the measured rate, and refusals that say when to come again."""

from __future__ import annotations

import pytest

from recserve_client.contract import ErrorKind, RequestError, retry_after_ms
from recserve_server_ext.batching.admission import NO_DEADLINE, Admission, waited_share

MS = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    return Admission("encoder", clock_ns=clock)


def refused(error: RequestError | None) -> int:
    """Checks a refusal; returns its `retry_after_ms`."""
    assert error is not None
    assert error.kind is ErrorKind.OVERLOADED
    assert error.status == "UNAVAILABLE"
    found = retry_after_ms(error.text)
    assert found is not None
    return found


def fill(admission: Admission) -> int:
    """Admits until the queue is full; returns how many."""
    count = 0
    while admission.admit(1, NO_DEADLINE) is None:
        count += 1
    return count


def test_what_would_wait_beyond_its_deadline_is_refused(admission: Admission, clock: Clock) -> None:
    admission.measure(10, 100 * MS, 0)  # 10 ms for each text
    assert admission.admit(5, NO_DEADLINE) is None
    clock.now_ns = 7 * MS
    assert admission.admit(5, 107 * MS) is None  # 50 ms for those before, 50 for its own
    assert refused(admission.admit(5, 156 * MS)) == 100
    assert admission.counts[2:] == (0, 1, 0)
    admission.leave(5)
    assert admission.admit(5, 156 * MS) is None


def test_before_anything_is_measured_only_a_passed_deadline_is_refused(admission: Admission, clock: Clock) -> None:
    clock.now_ns = 5
    assert admission.admit(100, 5) is None
    refused(admission.admit(1, 4))


def test_a_queue_in_which_requests_wait_too_long_gets_shorter(admission: Admission) -> None:
    first = fill(admission)
    for _ in range(100):
        admission.measure(1, MS, 0.11)
    for _ in range(first):
        admission.leave(1)
    assert fill(admission) == 2
    assert admission.counts.full == 2


def test_a_queue_grows_while_it_is_full_and_nobody_waits_long(admission: Admission) -> None:
    first = fill(admission)
    admission.measure(1, MS, 0.1)
    assert fill(admission) == 1
    for _ in range(10):
        admission.measure(1, MS, 0.1)
    assert admission.counts.limit == first + 2  # it was not full again after the last call


def test_the_number_of_waiting_requests_is_bounded(admission: Admission) -> None:
    for _ in range(2000):
        fill(admission)
        admission.measure(1, MS, 0)
    assert admission.counts.waiting == 1024


def test_the_rate_follows_the_newest_calls(admission: Admission, clock: Clock) -> None:
    admission.measure(1, 100 * MS, 0)
    for _ in range(30):
        admission.measure(1, 10 * MS, 0)
    assert admission.admit(1, 11 * MS) is None
    admission.admit(1, NO_DEADLINE)
    assert 20 <= refused(admission.admit(1, 15 * MS)) <= 22


def test_what_expired_is_counted(admission: Admission) -> None:
    refused(admission.expire())
    assert admission.counts.expired == 1


def test_shares_of_the_time_of_a_request() -> None:
    assert waited_share(1000, 1250, 2000) == 0.25
    assert waited_share(0, 6000 * MS, NO_DEADLINE) == 0.1
    assert waited_share(0, 6000 * MS, 120_000 * MS) == 0.1
    assert waited_share(5, 6, 5) == 1
