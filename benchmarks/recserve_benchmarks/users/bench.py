"""`recserve bench users`: recording, recommending by user id and erasing, in rounds, and their ratios."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec
from tritonclient.grpc import service_pb2

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.corpus import Corpus, infer_requests
from recserve_benchmarks.harness.load import Outcome, generate, good, read_blobs
from recserve_benchmarks.harness.servers import Server, ours
from recserve_benchmarks.recommend.bench import Samples
from recserve_benchmarks.users.events import (
    FILL_EVENTS,
    BenchUser,
    Past,
    by_history_requests,
    by_user_requests,
    erase_requests,
    fill_pasts,
    new_events,
    pasts_of,
    record_requests,
    users_with,
)
from recserve_benchmarks.users.homes import homes
from recserve_benchmarks.users.raw import RawStore
from recserve_client.contract import InteractionsRecorded, NewInteraction, Slate, models

CALLERS: Final = 32
#: Interactions of one request, and of one raw transaction.
BATCH: Final = 100
#: Interactions of the users who are recommended for.
SIZES: Final = (20, 50, 500)
#: Users that what is recorded is of.
_RECORDED_USERS: Final = 2000
_ERASED_EVENTS: Final = 50
Done = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: Rounds; medians are over them.
        filled: Users in the store beside those who are measured.
        users: Users of each size and round; those of 500 interactions are a quarter.
        batched: Interactions of each round, 100 a request.
        single: Interactions of each round, one a request.
        erased: Users erased in each round.
        seed: Of everything drawn.
    """

    rounds: int = 5
    filled: int = 10_000
    users: int = 1000
    batched: int = 40_000
    single: int = 8000
    erased: int = 200
    seed: int = 0


class UsersBench:
    """Measures one or two stores; a user is asked for once, and a second time only where it says so."""

    def __init__(self, corpus: Corpus, precision: str, postgres: str, plan: Plan, done: Done) -> None:
        self._corpus = corpus
        self._precision = precision
        self._postgres = postgres
        self._plan = plan
        self._done = done
        self._items = len(corpus.snapshot.ids)
        self._now = time.time()
        self._samples = {name: Samples() for name in ("sqlite", *(["postgres"] if postgres else []))}
        self._erased = self._users("erased", _ERASED_EVENTS, plan.erased)
        self._asked = {
            events: self._users(f"user{events}", events, max(1, plan.users // (4 if events == SIZES[-1] else 1)))
            for events in SIZES
        }
        measured = [*self._erased, *chain.from_iterable(self._asked.values())]
        self._measured = list(chain.from_iterable(measured))
        self._count = sum(len(user.items) for user in self._measured)
        self._filled_events = 0

    def run(self) -> dict[str, Any]:
        """Measure all of it.

        Returns:
            Figures by name; see docs/results/users.md.

        Raises:
            BenchmarkError: Requests failed or were refused, a process ended, or the database holds a store.
            ServerError: A server did not start.
        """
        with ExitStack() as stack:
            lie = stack.enter_context(homes(self._corpus.chosen_home, self._postgres, self._pasts, self._fill))
            servers = {"sqlite": stack.enter_context(ours(lie.sqlite.home, self._precision))}
            if lie.postgres is not None:
                more = ("--config", str(lie.config))
                servers["postgres"] = stack.enter_context(ours(lie.postgres.home, self._precision, *more))
            raw = stack.enter_context(RawStore(lie.raw, lie.sqlite.pseudonym_key))
            for number in range(self._plan.rounds):
                self._done("rounds", number, self._plan.rounds)
                self._round(number, servers, raw)
            self._done("rounds", self._plan.rounds, self._plan.rounds)
        found = {name: _figures(samples) for name, samples in self._samples.items()}
        return {
            **found["sqlite"],
            **{name: figures for name, figures in found.items() if name != "sqlite"},
            "spread": _spread(self._samples["sqlite"]),
            "rounds": {name: samples.values for name, samples in self._samples.items()},
            "interactions_before": self._filled_events,
            "filled": {name: filled._asdict() for name, filled in lie.filled.items()},
        }

    def _users(self, name: str, events: int, count: int) -> list[list[BenchUser]]:
        """Users of each round."""
        plan = self._plan
        return [
            users_with(events, count, items=self._items, name=f"{name}-{number}", seed=plan.seed * 100 + number)
            for number in range(plan.rounds)
        ]

    def _pasts(self) -> chain[Past]:
        self._filled_events = 0
        fill = fill_pasts(self._plan.filled, items=self._items, now=self._now, seed=self._plan.seed)
        return chain(fill, pasts_of(self._measured, self._now))

    def _fill(self, more: int) -> None:
        self._filled_events += more
        total = self._count + FILL_EVENTS * self._plan.filled
        self._done("fill the store", self._filled_events, total)

    def _round(self, number: int, servers: dict[str, Server], raw: RawStore) -> None:
        plan = self._plan
        batches, singles, others = (
            self._events(count, 3 * number + part)
            for part, count in enumerate((plan.batched, plan.single, plan.batched))
        )
        raw_per_s, grouped_per_s = raw.per_s(batches, BATCH), raw.per_s(others, CALLERS * BATCH)
        for name, server in servers.items():
            note = self._samples[name].add
            batched = self._record(server, batches, BATCH)
            note("record.raw_per_s", raw_per_s)
            # What 32 callers send at a time may share a transaction: that is also how raw writing is at its best.
            note("record.raw_grouped_per_s", grouped_per_s)
            note("record.batched_ratio_to_raw_grouped", batched.users_per_s * BATCH / grouped_per_s)
            note("record.batched_per_s", batched.users_per_s * BATCH)
            note("record.batched_ratio_to_raw", batched.users_per_s * BATCH / raw_per_s)
            single = self._record(server, singles, 1)
            note("record.single_per_s", single.users_per_s)
            note("record.single_p50_ms", single.p50_ms)
            note("record.single_p99_ms", single.p99_ms)
            for events in SIZES:
                self._recommend(number, name, server, events)
            erased = self._load(server, models.INTERACTIONS, erase_requests(self._erased[number]), 1)
            note("erase.p50_ms", erased.p50_ms)
            note("erase.p99_ms", erased.p99_ms)

    def _recommend(self, number: int, name: str, server: Server, events: int) -> None:
        """By id with nothing kept of these users, from the caller, and by id again."""
        users = self._asked[events][number]
        by_id, by_history = by_user_requests(users), by_history_requests(users)

        def ask(packed: list[bytes]) -> Outcome:
            return self._load(server, models.RECOMMEND, packed, CALLERS)

        # The one goes first in every other round, so that neither always finds the machine as the other left it.
        if number % 2:
            caller, cold = ask(by_history), ask(by_id)
        else:
            cold, caller = ask(by_id), ask(by_history)
        warm = self._checked_slates(server, by_id)
        group = f"recommend_by_user.{events}"
        figures = {
            "per_s": cold.users_per_s,
            "p50_ms": cold.p50_ms,
            "p99_ms": cold.p99_ms,
            "caller_per_s": caller.users_per_s,
            "ratio_to_caller_history": cold.users_per_s / caller.users_per_s,
            "warm_per_s": warm.users_per_s,
            "warm_ratio_to_caller_history": warm.users_per_s / caller.users_per_s,
        }
        for key, value in figures.items():
            self._samples[name].add(f"{group}.{key}", value)

    def _events(self, count: int, part: int) -> list[NewInteraction]:
        seed = self._plan.seed * 1000 + part
        return new_events(count, users=_RECORDED_USERS, items=self._items, now=self._now, seed=seed)

    def _load(self, server: Server, model: str, packed: Sequence[bytes], callers: int) -> Outcome:
        return good(generate(server.address, infer_requests(model, packed), callers))

    def _record(self, server: Server, events: Sequence[NewInteraction], size: int) -> Outcome:
        """Record, and make sure that every interaction was acknowledged as new."""
        requests = list(infer_requests(models.INTERACTIONS, record_requests(events, size)))
        outcome, answers = _answered(server, requests)
        results = chain.from_iterable(msgspec.json.decode(raw, type=InteractionsRecorded).results for raw in answers)
        recorded = sum(result.status == "recorded" for result in results)
        if recorded != len(events):
            raise BenchmarkError(f"{recorded:,} of {len(events):,} interactions were recorded; the others were refused")
        return outcome

    def _checked_slates(self, server: Server, packed: Sequence[bytes]) -> Outcome:
        """Ask, and make sure that every slate was made from the history of its user."""
        outcome, answers = _answered(server, list(infer_requests(models.RECOMMEND, packed)))
        slates = [msgspec.json.decode(raw, type=Slate) for raw in answers]
        if not all(slate.strategy == "text" and slate.items for slate in slates):
            raise BenchmarkError("a user with a history got a slate that was not made from it")
        return outcome


def _answered(server: Server, requests: Sequence[bytes]) -> tuple[Outcome, list[bytes]]:
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / "answers"
        outcome = good(generate(server.address, requests, CALLERS, answers=path))
        answers = [service_pb2.ModelInferResponse.FromString(blob) for blob in read_blobs(path)]
    return outcome, [answer.raw_output_contents[0][4:] for answer in answers]


def _figures(samples: Samples) -> dict[str, Any]:
    """Medians over the rounds, as nested as their names are."""
    figures: dict[str, Any] = {}
    for name in samples.values:
        *groups, key = name.split(".")
        into = figures
        for group in groups:
            into = into.setdefault(group, {})
        into[key] = samples.median(name)
    return figures


def _spread(samples: Samples) -> dict[str, tuple[float, float]]:
    return {name: (min(rounds), max(rounds)) for name, rounds in samples.values.items()}
