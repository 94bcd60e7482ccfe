"""What a client holds back: retries beyond a share of its calls, and calls that would be refused."""

from __future__ import annotations

from random import Random

import pytest

from recserve_client.throttle import RetryBudget, Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def sent_of(throttle: Throttle, clock: Clock, calls: int, capacity_share: float) -> int:
    """Makes calls, a millisecond apart, to a server that accepts this share of them; how many were sent."""
    sent, room = 0, 0.0
    for _ in range(calls):
        clock.now += 0.001
        room = min(50.0, room + capacity_share)
        if throttle.refuses():
            continue
        sent += 1
        has_room = room >= 1
        room -= has_room
        throttle.answered(accepted=has_room)
    return sent


def test_nothing_is_held_back_from_a_server_that_keeps_up() -> None:
    clock = Clock()
    assert sent_of(Throttle(Random(1), clock), clock, 2000, 1.0) == 2000


@pytest.mark.parametrize("times", [2, 5, 10])
def test_an_overloaded_server_gets_little_more_than_it_can_do(times: int) -> None:
    clock = Clock()
    throttle = Throttle(Random(1), clock)
    sent_of(throttle, clock, 5000, 1 / times)
    assert 1 <= sent_of(throttle, clock, 5000, 1 / times) / (5000 / times) <= 1.8


def test_a_rare_caller_is_never_held_back() -> None:
    clock = Clock()
    throttle = Throttle(Random(1), clock)
    for _ in range(100):
        clock.now += 1
        assert not throttle.refuses()


def test_a_burst_is_sent_while_nothing_was_refused() -> None:
    throttle = Throttle(Random(1), Clock())
    assert not any(throttle.refuses() for _ in range(1000))


def test_it_lets_go_when_the_server_has_time_again() -> None:
    clock = Clock()
    throttle = Throttle(Random(1), clock)
    sent_of(throttle, clock, 5000, 0.1)
    sent_of(throttle, clock, 4000, 1.0)
    assert sent_of(throttle, clock, 1000, 1.0) >= 990


def test_retries_are_earned_by_calls() -> None:
    budget = RetryBudget(0.1)
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(10):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]
