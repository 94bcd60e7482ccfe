"""`recserve bench users`: recording and recommending by user id, in interleaved rounds, and their ratios."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.corpus import prepare
from recserve_benchmarks.harness.load import Outcome
from recserve_benchmarks.harness.report import setup
from recserve_benchmarks.harness.requests import known_requests
from recserve_benchmarks.harness.run import Rounds, Run
from recserve_benchmarks.harness.servers import CALLERS, Server, ours
from recserve_benchmarks.harness.worker import Worker
from recserve_benchmarks.users.people import (
    FILL_EVENTS,
    People,
    by_user_requests,
    fill_pasts,
    new_interactions,
    pasts_of,
    people,
    record_requests,
)
from recserve_benchmarks.users.raw import RawJob, raw_store
from recserve_benchmarks.users.stores import filled_stores
from recserve_client.contract import AnswerReader, InteractionsRecorded, NewInteraction, Slate, models
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.pseudonyms import Pseudonyms

#: Interactions of one request, and of one raw transaction.
BATCH: Final = 100
#: Interactions of the users who are recommended for.
SIZES: Final = (20, 50, 500)
_read: Final = AnswerReader(Slate)
#: Users of the interactions that are recorded.
_RECORDED_USERS: Final = 2000


class Sizes(NamedTuple):
    """How much to measure in each round.

    Attributes:
        users: Users of each number of interactions; a quarter of them with 500.
        batched: Interactions that are recorded 100 a request.
        single: Interactions that are recorded one a request.
    """

    users: int = 1000
    batched: int = 40_000
    single: int = 8000


QUICK: Final = Sizes(100, 2000, 300)


class UsersBench:
    """Measures one or two stores; a user is asked for once, and a second time only where that is said."""

    def __init__(self, run: Run, filled: int, postgres: str) -> None:
        """Draw the users, and index the items unless that was done before.

        Args:
            run: Of the benchmark.
            filled: Users in the stores beside those who are measured.
            postgres: URL of an empty PostgreSQL database to measure, too; empty for none.
        """
        self._run, self._filled, self._postgres = run, filled, postgres
        self._sizes = QUICK if run.quick else Sizes()
        self._served = prepare(run, run.items)
        self._items = len(self._served.snapshot.ids)
        self._now = time.time()
        self._rounds = {name: Rounds() for name in ("sqlite", *(["postgres"] if postgres else []))}
        counts = {events: self._sizes.users // (4 if events == SIZES[-1] else 1) for events in SIZES}
        self._asked = {events: self._people(f"user{events}", events, count) for events, count in counts.items()}

    def measure(self) -> dict[str, Any]:
        """Measure all of it; the figures by name, those of SQLite at the top.

        Raises:
            BenchmarkError: Requests failed or were refused, a process ended, or the database holds a store.
            ServerError: A server did not start.
        """
        measured = list(chain.from_iterable(self._asked.values()))
        before = FILL_EVENTS * self._filled + sum(some.rows.size for some in measured)

        def pasts(pseudonyms: Pseudonyms) -> Iterator[Interaction]:
            fill = fill_pasts(self._filled, pseudonyms, items=self._items, now=self._now, seed=self._run.seed)
            return chain(fill, *(pasts_of(some, pseudonyms, self._now) for some in measured))

        with ExitStack() as stack:
            stores = stack.enter_context(filled_stores(self._run, self._served.home, self._postgres, pasts, before))
            servers = {
                name: stack.enter_context(ours(home, self._run.manifest.precision, *more))
                for name, (home, more) in stores.options.items()
            }
            raw = stack.enter_context(raw_store(stores.sqlite, stores.copy))
            for number in self._rounds["sqlite"].each(self._run):
                self._round(number, servers, raw)
        about = {"items": self._items, "engine": self._served.engine, "users": self._filled, "callers": CALLERS}
        return {
            **self._rounds["sqlite"].results(),
            **{name: of.results() for name, of in self._rounds.items() if name != "sqlite"},
            "interactions_before": before,
            "fill_s": stores.fill_s,
            "setup": setup(self._run, **about, sizes=self._sizes._asdict()),
        }

    def _people(self, name: str, events: int, count: int) -> list[People]:
        """Users of each round."""
        return [
            people(f"{name}-{number}", events, count, items=self._items, seed=self._run.seed * 100 + number)
            for number in range(self._run.rounds)
        ]

    def _round(self, number: int, servers: dict[str, Server], raw: Worker[RawJob, float]) -> None:
        batched = self._new_interactions(self._sizes.batched, 2 * number)
        single = self._new_interactions(self._sizes.single, 2 * number + 1)
        rates = {name: self._record(server, batched, BATCH).users_per_s * BATCH for name, server in servers.items()}
        # The raw store writes what the server with SQLite has just recorded. Requests of 32 callers may share a
        # transaction, so raw writing with as many interactions in one is measured, too.
        half = len(batched) // 2
        raw_per_s, grouped_per_s = (raw.ask(RawJob(half, size)) for size in (BATCH, CALLERS * BATCH))
        singles = {name: self._record(server, single, 1) for name, server in servers.items()}
        for name, rate in rates.items():
            add = self._rounds[name].add
            add("record", raw_per_s=raw_per_s, raw_grouped_per_s=grouped_per_s, batched_per_s=rate)
            add("record", batched_ratio_to_raw=rate / raw_per_s, batched_ratio_to_raw_grouped=rate / grouped_per_s)
        # The server has at most as many of these in a transaction as there are callers.
        single_per_s = raw.ask(RawJob(len(single), CALLERS))
        for name, of in singles.items():
            self._rounds[name].add(
                "record",
                raw_single_per_s=single_per_s,
                single_per_s=of.users_per_s,
                single_p50_ms=of.p50_ms,
                single_p99_ms=of.p99_ms,
                single_ratio_to_raw=of.users_per_s / single_per_s,
            )
        written = self._new_interactions(len(SIZES) * len(servers), 2 * self._run.rounds + number)
        for name, server in servers.items():
            for events in SIZES:
                self._recommend(number, name, server, events, written.pop())

    def _recommend(self, number: int, name: str, server: Server, events: int, written: NewInteraction) -> None:
        """By id with nothing kept of these users, from the caller, by id again, and again after somebody's write."""
        some = self._asked[events][number]
        asked = {"id": by_user_requests(some), "caller": known_requests(some.rows)}
        # The order changes from round to round, so that neither always finds the machine as the other left it.
        order = sorted(asked, reverse=bool(number % 2))
        costs = {kind: server.cost(models.RECOMMEND, asked[kind]) for kind in order}
        by_id, caller = costs["id"], costs["caller"]
        warm = self._checked_slates(server, asked["id"])
        self._record(server, [written], 1)
        after_write = self._checked_slates(server, asked["id"])
        rate = caller.outcome.users_per_s
        self._rounds[name].add(
            f"recommend_by_user.{events}",
            per_s=by_id.outcome.users_per_s,
            p50_ms=by_id.outcome.p50_ms,
            p99_ms=by_id.outcome.p99_ms,
            cpu_us=by_id.cpu_us,
            caller_per_s=rate,
            caller_cpu_us=caller.cpu_us,
            ratio_to_caller_history=by_id.outcome.users_per_s / rate,
            warm_per_s=warm.users_per_s,
            warm_ratio_to_caller_history=warm.users_per_s / rate,
            after_write_per_s=after_write.users_per_s,
            after_write_ratio_to_caller_history=after_write.users_per_s / rate,
        )

    def _new_interactions(self, count: int, part: int) -> list[NewInteraction]:
        seed = self._run.seed * 1000 + part
        return new_interactions(count, users=_RECORDED_USERS, items=self._items, now=self._now, seed=seed)

    def _record(self, server: Server, interactions: Sequence[NewInteraction], size: int) -> Outcome:
        """Record, and make sure that every interaction was acknowledged as new."""
        outcome = server.ask(models.INTERACTIONS, record_requests(interactions, size), keep_answers=True)
        answers = (msgspec.json.decode(answer, type=InteractionsRecorded) for answer in outcome.answers)
        recorded = sum(result.status == "recorded" for answer in answers for result in answer.results)
        if recorded != len(interactions):
            raise BenchmarkError(f"{recorded:,} of {len(interactions):,} interactions were recorded")
        return outcome

    def _checked_slates(self, server: Server, packed: Sequence[bytes]) -> Outcome:
        """Ask, and make sure that every slate was made from the history of its user."""
        outcome = server.ask(models.RECOMMEND, packed, keep_answers=True)
        slates = map(_read, outcome.answers)
        if not all(slate.strategy == "text" and slate.items for slate in slates):
            raise BenchmarkError("a user with a history got a slate that was not made from it")
        return outcome
