"""What a client holds back: retries beyond a share of its calls, and calls that would be refused; bursts wait."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from recserve_client.throttle import RetryBudget, Throttle

#: Places, calls that may wait, and the seconds that a call has.
FIRST, ROOM, LEFT_S = int(Throttle.FIRST), Throttle.ROOM, 1.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Works on one call a millisecond, has room for a number of them, and refuses the others at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = self.refused = self.held_back = self.idle = self.longest_ms = 0
        self.waiting: deque[tuple[int, int]] = deque()
        self.coming: deque[tuple[Future[int], int]] = deque()

    def serve(self, throttle: Throttle, clock: Clock, seconds: float, calls_per_ms: int, at_once: int = 0) -> None:
        """Counts what became of the calls of so many seconds, and of those that come at once in the beginning."""
        self.taken = self.refused = self.held_back = self.idle = self.longest_ms = 0
        for now in range(int(seconds * 1000)):
            clock.now += 0.001
            if self.waiting:
                place, came = self.waiting.popleft()
                self.taken, self.longest_ms = self.taken + 1, max(self.longest_ms, now - came)
                throttle.leave(place, (now - came) / 1000, refused=False)
            else:
                self.idle += 1
            for _ in range(calls_per_ms + (0 if now else at_once)):
                self.come(throttle, throttle.enter(LEFT_S), now)
            while self.coming and self.coming[0][0].done():
                future, came = self.coming.popleft()
                self.come(throttle, future.result(), came)
        while self.waiting:
            throttle.leave(self.waiting.popleft()[0], 1, refused=False)

    def come(self, throttle: Throttle, place: int | Future[int], now: int) -> None:
        if not isinstance(place, int):
            self.coming.append((place, now))
        elif not place:
            self.held_back += 1
        elif len(self.waiting) < self.room:
            self.waiting.append((place, now))
        else:
            throttle.leave(place, 0, refused=True)
            self.refused += 1


def enter(throttle: Throttle, count: int) -> list[int | Future[int]]:
    return [throttle.enter(LEFT_S) for _ in range(count)]


def sent(throttle: Throttle, count: int) -> int:
    """How many of so many calls are sent at once."""
    return sum(isinstance(place, int) and place > 0 for place in enter(throttle, count))


def waiting(places: list[int | Future[int]]) -> list[Future[int]]:
    return [place for place in places if not isinstance(place, int)]


def overload(throttle: Throttle, clock: Clock) -> None:
    """Calls go on coming while others wait."""
    enter(throttle, FIRST + ROOM)
    clock.now += 0.05
    enter(throttle, 20)


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


def test_an_overload_from_the_first_moment_is_answered_as_fast_as_ever(throttle: Throttle, clock: Clock) -> None:
    server = Server(128)
    server.serve(throttle, clock, 5, 10)
    assert server.idle <= 10
    assert server.longest_ms <= 30 + 128 + FIRST


def test_a_server_that_refuses_everything_gets_ten_calls_a_second(throttle: Throttle, clock: Clock) -> None:
    server = Server(0)
    server.serve(throttle, clock, 1, 1)
    server.serve(throttle, clock, 10, 1)
    assert 95 <= server.refused <= 105
    assert server.held_back == 10_000 - server.refused


def test_a_rare_caller_is_never_held_back(throttle: Throttle, clock: Clock) -> None:
    for _ in range(100):
        clock.now += 0.2
        assert throttle.enter(LEFT_S) == 1
        throttle.leave(1, 0.001, refused=True)


@pytest.mark.parametrize("times", range(2))
def test_a_burst_waits_and_is_answered(throttle: Throttle, clock: Clock, times: int) -> None:
    server = Server(2 * FIRST)
    for _ in range(times):
        server.serve(throttle, clock, 1, 1)
    server.serve(throttle, clock, 1, 0, at_once=FIRST + ROOM)
    assert (server.taken, server.refused, server.held_back) == (FIRST + ROOM, 0, 0)


def test_some_may_come_while_a_burst_waits(throttle: Throttle, clock: Clock) -> None:
    server = Server(2 * FIRST)
    burst = enter(throttle, 500)
    clock.now += 0.1
    stray = enter(throttle, 10)
    for place in burst + stray:
        server.come(throttle, place, 0)
    server.serve(throttle, clock, 1, 0)
    assert (server.taken, server.refused, server.held_back) == (510, 0, 0)


def test_no_more_wait_than_there_is_room(throttle: Throttle) -> None:
    places = enter(throttle, FIRST + ROOM + 5)
    assert places[:FIRST] == list(range(1, FIRST + 1))
    assert len(waiting(places)) == ROOM
    assert places[FIRST + ROOM :] == [0] * 5


def test_places_are_given_in_order(throttle: Throttle) -> None:
    places = enter(throttle, FIRST + 3)
    first, second, third = waiting(places)
    throttle.leave(1, 0.1, refused=False)
    assert (first.done(), second.done(), third.done()) == (True, False, False)
    assert first.result() == FIRST
    overtaking = throttle.enter(LEFT_S)
    throttle.leave(1, 1, refused=False)
    assert (second.done(), third.done()) == (True, False)
    assert not isinstance(overtaking, int)


def test_calls_that_go_on_coming_end_the_wait(throttle: Throttle, clock: Clock) -> None:
    places = waiting(enter(throttle, FIRST + 100))
    clock.now += 0.025
    places += waiting(enter(throttle, 50))
    assert len(places) == 150
    clock.now += 0.02
    enter(throttle, 20)
    assert [place.result(0) for place in places] == [0] * 150
    assert throttle.enter(LEFT_S) == 0


def test_refusals_end_the_wait(throttle: Throttle) -> None:
    places = enter(throttle, FIRST + 200)
    for number in range(FIRST // 2, FIRST + 1):
        throttle.leave(number, 0.01, refused=True)
    assert {place.result(0) for place in waiting(places)} == {0}


def test_a_burst_may_wait_again_when_the_overload_has_ended(throttle: Throttle, clock: Clock) -> None:
    overload(throttle, clock)
    clock.now += 0.9
    assert throttle.enter(LEFT_S) == 0 or sent(throttle, 1000) < 100
    for _ in range(FIRST + 50):
        throttle.leave(1, 0.1, refused=False)
    clock.now += 1.1
    assert waiting(enter(throttle, 500))


def test_the_limit_is_what_was_taken_of_what_was_under_way(throttle: Throttle) -> None:
    enter(throttle, FIRST)
    for number in range(1, 45):
        throttle.leave(number, 0.1, refused=False)
    for number in range(45, FIRST + 1):  # refused together with the answers, and read after them
        throttle.leave(number, 0.1, refused=True)
    assert sent(throttle, 100) == 44


def test_an_answer_leaves_its_place(throttle: Throttle, clock: Clock) -> None:
    overload(throttle, clock)
    assert throttle.enter(LEFT_S) == 0
    throttle.leave(1, 0.1, refused=False)
    assert throttle.enter(LEFT_S) == FIRST
    assert throttle.enter(LEFT_S) == 0


@pytest.mark.parametrize("after_s", [30, 1e9])
def test_it_lets_go_when_nothing_is_refused_any_more(throttle: Throttle, clock: Clock, after_s: float) -> None:
    Server(0).serve(throttle, clock, 1, 1)
    assert not throttle.enter(LEFT_S)
    clock.now += after_s
    assert sent(throttle, 500) == FIRST


def test_a_distant_server_gets_more_and_more(throttle: Throttle) -> None:
    under_way = list(range(1, FIRST + 1))
    assert enter(throttle, FIRST) == under_way
    queue = deque(waiting(enter(throttle, ROOM)))
    for _ in range(3):
        for number in under_way:
            throttle.leave(number, 0.1, refused=False)
        under_way = [queue.popleft().result() for _ in range(len(queue)) if queue[0].done()]
    assert max(under_way) > 1.8 * FIRST


def test_a_near_server_gets_no_more_than_it_takes(throttle: Throttle) -> None:
    places = enter(throttle, FIRST + ROOM)
    for number in range(FIRST):
        throttle.leave(number + 1, 0.01 * (number + 1), refused=False)
    assert sum(place.done() for place in waiting(places)) == FIRST


def test_an_unused_limit_is_the_first_one(throttle: Throttle, clock: Clock) -> None:
    Server(FIRST).serve(throttle, clock, 5, 2)
    clock.now += 100
    assert sent(throttle, 500) == FIRST


def test_who_gives_up_leaves_nothing_behind(throttle: Throttle) -> None:
    places = enter(throttle, FIRST + 4)
    first, second, third, fourth = waiting(places)
    throttle.give_up(first)
    throttle.leave(1, 1, refused=False)
    assert second.result(0) == FIRST
    throttle.give_up(second)  # after it was granted
    assert third.result(0) == FIRST
    throttle.give_up(fourth)
    for _ in range(FIRST):
        throttle.leave(1, 1, refused=False)
    assert sent(throttle, 500) == FIRST


def test_a_blocked_caller_gets_the_place_of_another_or_its_deadline(throttle: Throttle) -> None:
    enter(throttle, FIRST)
    with pytest.raises(TimeoutError):
        throttle.wait(0.01)
    with ThreadPoolExecutor(1) as pool:
        place = pool.submit(throttle.wait, 30)
        while not throttle.waiting:
            pass
        throttle.leave(1, 0.1, refused=False)
        assert place.result(30) == FIRST
    throttle.leave(FIRST, 0.1, refused=False)
    assert throttle.enter(LEFT_S) == FIRST


def test_a_cancelled_task_leaves_nothing_behind(throttle: Throttle) -> None:
    async def run() -> None:
        enter(throttle, FIRST)
        with pytest.raises(TimeoutError):
            await throttle.wait_async(0.01)
        begun: asyncio.Queue[None] = asyncio.Queue()

        async def waiting() -> int:
            begun.put_nowait(None)
            return await throttle.wait_async(30)

        tasks = [asyncio.create_task(waiting()) for _ in range(3)]
        for _ in tasks:
            await begun.get()
        assert throttle.waiting == 3
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        assert throttle.waiting == 2
        throttle.leave(1, 1, refused=False)
        tasks[1].cancel()  # after its place was granted, before it knows
        await asyncio.wait(tasks[1:2])
        assert tasks[1].cancelled()
        assert await tasks[2] == FIRST

    asyncio.run(run())
    for _ in range(FIRST):
        throttle.leave(1, 1, refused=False)
    assert sent(throttle, 500) == FIRST


def test_retries_are_earned_by_calls() -> None:
    budget = RetryBudget(0.1)
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(10):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]
