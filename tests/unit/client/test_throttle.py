"""What a client holds back: retries beyond a share of its calls, and calls that would be refused."""

from __future__ import annotations

from collections import deque

import pytest

from recserve_client.throttle import RetryBudget, Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Works on one call a millisecond, has room for a number of them, and refuses the others at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = self.refused = self.held_back = self.idle = 0

    def serve(self, throttle: Throttle, clock: Clock, seconds: float, calls_per_ms: int) -> None:
        """Counts what became of the calls of so many seconds."""
        self.taken = self.refused = self.held_back = self.idle = 0
        waiting: deque[int] = deque()
        for _ in range(int(seconds * 1000)):
            clock.now += 0.001
            if waiting:
                throttle.leave(waiting.popleft(), refused=False)
                self.taken += 1
            else:
                self.idle += 1
            for _ in range(calls_per_ms):
                if not (entered := throttle.enter()):
                    self.held_back += 1
                elif len(waiting) < self.room:
                    waiting.append(entered)
                else:
                    throttle.leave(entered, refused=True)
                    self.refused += 1
        for entered in waiting:
            throttle.leave(entered, refused=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(clock)


def test_nothing_is_held_back_from_a_server_that_keeps_up(throttle: Throttle, clock: Clock) -> None:
    server = Server(2)
    server.serve(throttle, clock, 2, 1)
    assert (server.held_back, server.refused) == (0, 0)


@pytest.mark.parametrize("times", [2, 5, 10])
def test_an_overloaded_server_is_busy_and_refuses_little(throttle: Throttle, clock: Clock, times: int) -> None:
    server = Server(60)
    server.serve(throttle, clock, 5, times)
    server.serve(throttle, clock, 5, times)
    assert server.taken >= 4950
    assert server.refused <= 0.1 * server.taken


def test_a_server_that_refuses_everything_gets_ten_calls_a_second(throttle: Throttle, clock: Clock) -> None:
    server = Server(0)
    server.serve(throttle, clock, 1, 1)
    server.serve(throttle, clock, 10, 1)
    assert 95 <= server.refused <= 105
    assert server.held_back == 10_000 - server.refused


def test_a_rare_caller_is_never_held_back(throttle: Throttle, clock: Clock) -> None:
    for _ in range(100):
        clock.now += 0.2
        assert throttle.enter() == 1
        throttle.leave(1, refused=True)


def test_a_first_burst_brings_the_limit_to_what_the_server_took(throttle: Throttle) -> None:
    entered = [throttle.enter() for _ in range(5000)]
    assert all(entered)
    for number in entered:
        throttle.leave(number, refused=number > 300)
    assert sum(throttle.enter() > 0 for _ in range(5000)) == 300


def test_a_burst_is_sent_while_nothing_was_refused(throttle: Throttle, clock: Clock) -> None:
    clock.now += 10
    assert all(throttle.enter() for _ in range(5000))


def test_the_limit_is_what_was_taken_of_what_was_under_way(throttle: Throttle) -> None:
    entered = [throttle.enter() for _ in range(100)]
    assert entered == list(range(1, 101))
    for number in entered[:60]:
        throttle.leave(number, refused=False)
    for number in entered[60:]:  # refused together with the answers, and read after them
        throttle.leave(number, refused=True)
    assert sum(throttle.enter() > 0 for _ in range(100)) == 60


def test_an_answer_leaves_its_place(throttle: Throttle) -> None:
    entered = [throttle.enter() for _ in range(20)]
    throttle.leave(entered[-1], refused=True)
    assert not throttle.enter()
    throttle.leave(entered[0], refused=False)
    assert throttle.enter() == 19
    assert not throttle.enter()


@pytest.mark.parametrize("after_s", [30, 1e9])
def test_it_lets_go_when_nothing_is_refused_any_more(throttle: Throttle, clock: Clock, after_s: float) -> None:
    Server(0).serve(throttle, clock, 1, 1)
    assert not throttle.enter()
    clock.now += after_s
    assert all(throttle.enter() for _ in range(5000))


def test_retries_are_earned_by_calls() -> None:
    budget = RetryBudget(0.1)
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(10):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]
