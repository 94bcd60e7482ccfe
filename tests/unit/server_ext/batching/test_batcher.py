"""Requests that wait for models: one after the other, together where they can, and each answered exactly once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.batching.admission import OWN_QUEUE
from recserve_server_ext.batching.batcher import OWN, Answer, Batcher, Handler, ModelCall
from support.calls import Call

FIRST, SECOND = "first", "second"


@dataclass
class Job:
    """A word that goes through the models whose letters it starts with, and what they made of it."""

    rounds: list[str]
    word: str
    seen: list[str] = field(default_factory=list)
    waited_ns: int = 0
    resolve_ns: int = 0


class Words(Handler[Job]):
    """``ab:word`` goes to the model a, then to b, and is answered with what they made of it."""

    def __init__(self) -> None:
        self.answered: list[int] = []

    def accept(self, raw: bytes) -> Job:
        rounds, word = raw.decode().split(":")
        if word == "bad":
            raise RequestError(ErrorKind.INVALID_REQUEST, word)
        return Job([{"a": FIRST, "b": SECOND}[letter] for letter in rounds], word)

    def pending(self, job: Job) -> ModelCall | None:
        left = job.rounds[len(job.seen) :]
        return ModelCall(left[0], "1", [job.word]) if left else None

    def resume(self, jobs: Sequence[Job], call: ModelCall, results: Any, took_ns: int) -> None:
        made = dict(zip(call.inputs, results, strict=True))
        for job in jobs:
            job.seen.append(made[job.word])

    def together(self, job: Job) -> Hashable:
        return job.word[0]

    def answer(self, jobs: Sequence[Job]) -> list[Answer]:
        self.answered.append(len(jobs))
        return [" ".join([job.word, *job.seen]).encode() for job in jobs]


class Models:
    """Two models that say what they were asked; a test can stop and break them."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.broken: set[str] = set()
        self.open = threading.Event()
        self.open.set()
        self.started = threading.Event()

    def of(self, name: str) -> Callable[[Sequence[Any], str], Any]:
        def call(inputs: Sequence[Any], version: str) -> Any:
            self.started.set()
            assert self.open.wait(30)
            self.asked.append((name, list(inputs)))
            if name in self.broken:
                raise RequestError(ErrorKind.UNAVAILABLE, f"{name} is away")
            return [f"{name}({word})" for word in inputs]

        return call


def batcher(models: Models, at_once: int, handler: Words | None = None) -> Batcher[Job]:
    calls = {name: models.of(name) for name in (FIRST, SECOND)}
    return Batcher(handler or Words(), calls, at_once=at_once, max_batch=8)


def answers(models: Models, at_once: int, *raws: bytes) -> list[Answer]:
    calls = [Call(raw) for raw in raws]
    model = batcher(models, at_once)
    now = model.run(calls)
    model.close()
    assert [len(call.answers) for call in calls] == [int(answer is None) for answer in now]
    return [call.answers[0] if answer is None else answer for call, answer in zip(calls, now, strict=True)]


@pytest.mark.parametrize("at_once", [0, 1, 2])
def test_one_model_after_the_other(at_once: int) -> None:
    found = answers(Models(), at_once, b"ab:x", b":y", b"b:z", b"ba:w", b"aab:v")
    assert found == [
        b"x first(x) second(x)",
        b"y",
        b"z second(z)",
        b"w second(w) first(w)",
        b"v first(v) first(v) second(v)",
    ]


@pytest.mark.parametrize("at_once", [0, 1])
def test_what_waits_together_is_worked_out_once(at_once: int) -> None:
    models = Models()
    answers(models, at_once, b"ab:x", b"ab:x", b"ab:y")
    assert models.asked == [(FIRST, ["x", "y"]), (SECOND, ["x", "y"])]


@pytest.mark.parametrize("at_once", [0, 1])
def test_a_model_that_is_away_fails_those_who_wait_for_it(at_once: int) -> None:
    models = Models()
    models.broken = {SECOND}
    found = answers(models, at_once, b"ab:x", b"a:y", b":z", b":bad")
    assert isinstance(found[0], RequestError)
    assert found[0].kind is ErrorKind.UNAVAILABLE
    assert found[2] == b"z"
    if at_once:
        assert found[1] == b"y first(y)"
    assert isinstance(found[3], RequestError)
    assert found[3].kind is ErrorKind.INVALID_REQUEST


def test_a_quick_model_is_called_within_the_batch_and_the_other_one_later() -> None:
    models = Models()
    calls = {name: models.of(name) for name in (FIRST, SECOND)}
    model = Batcher(Words(), calls, at_once=1, max_batch=8, in_run=[SECOND])
    later = [Call(b"a:x"), Call(b"ab:y")]
    now = model.run([later[0], Call(b"b:v"), later[1], Call(b":w"), Call(b"b:u")])
    assert now == [None, b"v second(v)", None, b"w", b"u second(u)"]
    assert (later[0].answer(), later[1].answer()) == (b"x first(x)", b"y first(y) second(y)")
    assert (SECOND, ["v", "u"]) in models.asked
    models.broken = {SECOND}
    refused, known = model.run([Call(b"b:v"), Call(b":w")])
    assert isinstance(refused, RequestError)
    assert known == b"w"
    model.close()


def test_batches_that_waited_together_are_answered_together_where_they_may_be() -> None:
    models, handler = Models(), Words()
    models.open.clear()
    model = batcher(models, 1, handler)
    first = Call(b"a:first")
    model.run([first])
    assert models.started.wait(30)
    later = [Call(raw) for raw in (b"a:xa", b"a:yb", b"a:xc", b"a:xd")]
    for call in later:  # batches of one, while the model is busy
        model.run([call])
    models.open.set()
    model.close()
    assert [call.answer() for call in later] == [f"{word} first({word})".encode() for word in ("xa", "yb", "xc", "xd")]
    assert handler.answered == [1, 3, 1]


def test_who_waits_for_one_model_does_not_hold_up_the_other() -> None:
    models = Models()
    models.open.clear()
    model = batcher(models, 1)
    slow = Call(b"a:slow")
    assert model.run([slow]) == [None]
    assert models.started.wait(30)
    assert model.run([Call(b":known")]) == [b"known"]
    other = Call(b"b:other")
    models.started.clear()
    assert model.run([other]) == [None]
    assert models.started.wait(30)  # the second model works while the first one does
    models.open.set()
    assert (slow.answer(), other.answer()) == (b"slow first(slow)", b"other second(other)")
    model.close()


def test_a_caller_who_gave_up_between_two_models_is_answered_once() -> None:
    models, handler = Models(), Words()
    model = batcher(models, 1, handler)
    calls = [Call(b"ab:x"), Call(b"ab:y")]
    calls[0].gave_up = True
    model.run(calls)
    model.close()
    assert [len(call.answers) for call in calls] == [1, 1]


def test_a_model_without_time_refuses_at_once_and_holds_up_nobody() -> None:
    models = Models()
    model = batcher(models, 1)
    model.admissions[FIRST].measure(1, 1_000_000_000, 0)  # a second for each word
    late, known = Call(b"a:late", time.monotonic_ns() + 900_000_000), Call(b":known")
    refusal, answer = model.run([late, known])
    assert isinstance(refusal, RequestError)
    assert refusal.kind is ErrorKind.OVERLOADED
    assert answer == b"known"
    model.close()
    assert late.answers == []
    assert models.asked == []


def test_more_than_may_wait_is_refused() -> None:
    models = Models()
    models.open.clear()
    model = batcher(models, 1)
    calls = [Call(f"a:{number}".encode()) for number in range(100)]
    refused = [answer for answer in model.run(calls) if answer is not None]
    assert len(refused) == 100 - 64
    assert model.admissions[FIRST].counts.waiting == 64
    models.open.set()
    model.close()
    assert model.admissions[FIRST].counts.waiting == 0
    assert sum(len(call.answers) for call in calls) == 64


def test_what_expired_in_the_queue_is_not_sent_to_the_model() -> None:
    models = Models()
    models.open.clear()
    model = batcher(models, 1)
    model.run([Call(b"a:first")])
    assert models.started.wait(30)
    expired, last = Call(b"a:expired", time.monotonic_ns() + 10_000_000), Call(b"a:last")
    assert model.run([expired, last]) == [None, None]
    while time.monotonic_ns() < expired.deadline_ns:
        pass
    models.open.set()
    model.close()
    assert models.asked == [(FIRST, ["first"]), (FIRST, ["last"])]
    (dropped,) = expired.answers
    assert isinstance(dropped, RequestError)
    assert dropped.kind is ErrorKind.OVERLOADED
    assert last.answers == [b"last first(last)"]


def small(models: Models) -> Batcher[Job]:
    """A batcher that answers two calls together."""
    return Batcher(Words(), {name: models.of(name) for name in (FIRST, SECOND)}, max_batch=8, run_batch=2)


def test_many_calls_are_answered_in_batches_and_in_order() -> None:
    handler = Words()
    model = Batcher(handler, {}, run_batch=2)
    assert model.run([Call(f":{word}".encode()) for word in "abcde"]) == [b"a", b"b", b"c", b"d", b"e"]
    assert handler.answered == [2, 2, 1]
    assert model.admissions[OWN].counts.waiting == 0
    model.close()


def test_what_there_is_no_time_for_is_refused() -> None:
    handler = Words()
    model = Batcher(handler, {}, run_batch=2)
    first, refused, last = model.run([Call(b":a"), Call(b":late", deadline_ns=0), Call(b":b")])
    assert (first, last) == (b"a", b"b")
    assert handler.answered == [2], "the refused one was worked on"
    assert isinstance(refused, RequestError)
    assert refused.kind is ErrorKind.OVERLOADED
    model.close()


def test_more_calls_than_there_may_be_are_refused() -> None:
    model = small(Models())
    most = int(OWN_QUEUE.first)
    answers = model.run([Call(b":x") for _ in range(most + 3)])
    assert answers[:most] == [b"x"] * most
    assert [isinstance(answer, RequestError) for answer in answers[most:]] == [True] * 3
    assert model.admissions[OWN].counts.full == 3
    model.close()


def test_a_call_that_waits_for_a_model_leaves_the_own_queue_at_once() -> None:
    models = Models()
    models.open.clear()
    model = small(models)
    waiting = Call(b"a:y")
    assert model.run([Call(b":x"), waiting]) == [b"x", None]
    assert {name: admission.counts.waiting for name, admission in model.admissions.items()} == {
        FIRST: 1,
        SECOND: 0,
        OWN: 0,
    }
    models.open.set()
    assert waiting.answer() == b"y first(y)"
    model.close()
