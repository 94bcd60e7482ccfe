"""Group commit: concurrent calls share commits, a failure reaches exactly its group, the queue is bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from recserve_server_ext.storage.group_commit import GroupCommit, QueueFullError
from support.queued import arrived

LONG_S = 60.0


class Slow:
    """A commit that stops until it is let go; keeps what it was given."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.started = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self, works: list[int]) -> list[int]:
        self.groups.append(works)
        self.started.release()
        assert self.go.acquire(timeout=LONG_S)
        if any(work < 0 for work in works):
            raise OSError("disk full")
        return [10 * work for work in works]


def submit(
    pool: ThreadPoolExecutor, commit: Callable[[Sequence[int]], list[int]], works: list[int]
) -> Future[list[int]]:
    return pool.submit(commit, works)


def test_calls_that_wait_share_one_commit() -> None:
    slow = Slow()
    commit: GroupCommit[int, int] = GroupCommit(slow, group=100, queue=100, wait_s=LONG_S)
    with ThreadPoolExecutor(8) as pool:
        first = submit(pool, commit, [0])
        assert slow.started.acquire(timeout=LONG_S)
        others = [submit(pool, commit, [2 * n, 2 * n + 1]) for n in range(1, 6)]
        arrived(commit, 10)
        assert commit.waiting == 11
        slow.go.release(2)
        assert first.result(LONG_S) == [0]
        assert [other.result(LONG_S) for other in others] == [[20 * n, 20 * n + 10] for n in range(1, 6)]
    assert (slow.groups[0], sorted(slow.groups[1]), len(slow.groups)) == ([0], list(range(2, 12)), 2)
    assert commit.waiting == 0


def test_a_failed_commit_fails_all_that_were_in_it_and_no_other() -> None:
    slow = Slow()
    commit: GroupCommit[int, int] = GroupCommit(slow, group=4, queue=100, wait_s=LONG_S)
    with ThreadPoolExecutor(8) as pool:
        first = submit(pool, commit, [1])
        assert slow.started.acquire(timeout=LONG_S)
        bad = [submit(pool, commit, [-1, 2])]
        arrived(commit, 2)
        bad.append(submit(pool, commit, [3, 4]))
        arrived(commit, 4)
        good = submit(pool, commit, [5])
        arrived(commit, 5)
        slow.go.release(3)
        assert first.result(LONG_S) == [10]
        for call in bad:
            with pytest.raises(OSError, match="disk full"):
                call.result(LONG_S)
        assert good.result(LONG_S) == [50]
    assert commit.waiting == 0
    assert slow.groups == [[1], [-1, 2, 3, 4], [5]]


def test_a_full_queue_refuses() -> None:
    slow = Slow()
    commit: GroupCommit[int, int] = GroupCommit(slow, group=2, queue=2, wait_s=0.0)
    with ThreadPoolExecutor(2) as pool:
        first = submit(pool, commit, [1])
        assert slow.started.acquire(timeout=LONG_S)
        second = submit(pool, commit, [2, 3])
        arrived(commit, 2)
        with pytest.raises(QueueFullError):
            commit([4])
        slow.go.release(2)
        assert (first.result(LONG_S), second.result(LONG_S)) == ([10], [20, 30])


def test_many_threads_get_their_own_answers() -> None:
    commits: list[int] = []

    def write(works: list[int]) -> list[int]:
        commits.append(len(works))
        return [work + 1 for work in works]

    commit: GroupCommit[int, int] = GroupCommit(write, group=50, queue=50, wait_s=LONG_S)

    def call(number: int) -> bool:
        works = list(range(number, number + 1 + number % 7))
        return commit(works) == [work + 1 for work in works]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(call, range(2000)))
    assert sum(commits) == sum(1 + number % 7 for number in range(2000))


def test_too_much_in_one_call_and_nothing_at_all() -> None:
    commit: GroupCommit[int, int] = GroupCommit(lambda works: works, group=2, queue=2, wait_s=0.0)
    assert commit([]) == []
    with pytest.raises(ValueError, match="3 pieces"):
        commit([1, 2, 3])
