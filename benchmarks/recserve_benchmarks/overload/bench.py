"""`recserve bench overload`: open loops of up to ten times the capacity, for each kind of request and a mix."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain, count, cycle, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.corpus import prepare
from recserve_benchmarks.harness.load import Load
from recserve_benchmarks.harness.open_loop import (
    Fate,
    OpenLoad,
    OpenOutcome,
    open_load_generator,
    poisson_moments,
)
from recserve_benchmarks.harness.report import setup
from recserve_benchmarks.harness.requests import infer_requests, known_requests, text_requests, unseen_texts
from recserve_benchmarks.harness.run import Run
from recserve_benchmarks.harness.servers import CALLERS, Server, ours
from recserve_benchmarks.harness.worker import Worker
from recserve_benchmarks.users.people import by_user_requests, new_interactions, people, record_requests
from recserve_client.contract import NewInteraction, models
from recserve_export.index.recall import sample_histories
from recserve_server_ext.common.arrays import Floats

#: Multiples of the capacity.
LOADS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
KINDS: Final = ("texts", "known", "users", "mix")
#: Shares of texts, known items and users by id in the mix.
_MIX: Final = (0.2, 0.6, 0.2)
#: Deadline of each request.
DEADLINE_S: Final = 1.0
#: Requests that record an interaction, beside each load.
_WRITES_PER_S: Final = 20
_EVENTS: Final = 20


class Sizes(NamedTuple):
    """How much to measure.

    Attributes:
        seconds: Length of each load.
        capacity: Requests that the capacity is measured with, for texts and for the others.
        distinct: Distinct requests of known items and of users.
        probes: Requests after each load, 20 ms apart.
    """

    seconds: float = 3.5
    capacity: tuple[int, int] = (500, 6000)
    distinct: int = 2000
    probes: int = 25


QUICK: Final = Sizes(1.0, (40, 400), 200, 10)
_TEXTS_PART: Final = 1000
#: Vectors of texts that the server keeps. The load before the first that is measured fills it, and no text comes twice.
_TEXT_CACHE: Final = 500
#: Latency of a probe that is quiet on any machine.
_CALM_S: Final = 0.02


class Senders(NamedTuple):
    """Load generators for reads and for writes, and a thread that asks the second one meanwhile."""

    reads: Worker[OpenLoad, OpenOutcome]
    writes: Worker[OpenLoad, OpenOutcome]
    pool: ThreadPoolExecutor


class OverloadBench:
    """Measures one server; no text comes twice."""

    def __init__(self, run: Run, *, raw: bool) -> None:
        """Encode and index the items, unless that was done before.

        Args:
            run: Of the benchmark.
            raw: Whether callers send everything, without the throttle of the client.

        Raises:
            ServerError: The home lacks an encoder or a catalogue.
        """
        self._run, self._raw = run, raw
        # A load of ten times the capacity costs more than the server: it must not take the server's cores.
        self._cores = sorted(os.sched_getaffinity(0))
        self._sizes = QUICK if run.quick else Sizes()
        self._served = prepare(run, run.items)
        items = len(self._served.snapshot.ids)
        known = sample_histories(self._served.vectors, count=self._sizes.distinct, seed=run.seed)["interests"]
        self._users = people("overload", _EVENTS, self._sizes.distinct, items=items, seed=run.seed)
        self._known, self._by_user = known_requests(known), by_user_requests(self._users)
        self._now = time.time()
        writes = int(_WRITES_PER_S * self._sizes.seconds) * (len(LOADS) + 2) * len(KINDS)
        new = new_interactions(writes, users=1000, items=items, now=self._now, seed=run.seed)
        self._writes = iter(record_requests(new, 1))
        # In parts, since how many are needed depends on the capacity.
        self._texts = chain.from_iterable(
            unseen_texts(self._served.titles, _TEXTS_PART, 1000 * run.seed + part) for part in count()
        )

    def measure(self, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Measure all of it; the figures by name. What there is after each kind of request is handed to `keep`.

        Raises:
            BenchmarkError: Requests failed, or a process ended.
            ServerError: The server did not start.
        """
        run = self._run
        with ExitStack() as stack:
            settings = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "settings.toml"
            settings.write_text(f"text_cache = {_TEXT_CACHE}\n")
            with _on(self._cores[:-1] or self._cores):
                server = stack.enter_context(ours(self._served.home, run.manifest.precision, "--config", str(settings)))
            senders = Senders(
                stack.enter_context(open_load_generator()),
                stack.enter_context(open_load_generator()),
                stack.enter_context(ThreadPoolExecutor(1)),
            )
            for generator in (server.generator, senders.reads, senders.writes):
                generator.pin(self._cores[-1:])
            self._record_pasts(server)
            kinds: dict[str, Any] = {}
            for kind in run.each("kinds", KINDS):
                kinds[kind] = self._kind(kind, server, senders)
                keep({"kinds": kinds})
        about = {"items": run.items, "engine": self._served.engine, "callers": CALLERS, "deadline_s": DEADLINE_S}
        about["text_cache"] = _TEXT_CACHE
        about["raw"] = self._raw
        about["server_cores"] = max(1, len(self._cores) - 1)
        return {"kinds": kinds, "setup": setup(run, **about, mix=_MIX, sizes=self._sizes._asdict())}

    def _record_pasts(self, server: Server) -> None:
        """Record what the users did, through the server."""
        past = [
            NewInteraction(user_id=user, type="like", timestamp=self._now - 3600 - number * 60, item=f"t{row}")
            for user, rows in zip(self._users.ids, self._users.rows.tolist(), strict=True)
            for number, row in enumerate(rows)
        ]
        server.ask(models.INTERACTIONS, record_requests(past, 100), 4)

    def _kind(self, kind: str, server: Server, senders: Senders) -> dict[str, Any]:
        """The capacity of the server for a kind of request, and every load of it."""
        capacity = self._capacity(kind, server, senders)
        self._run.show(f"{kind}, to warm up", 0, 1)
        self._load(kind, self._moments(kind, capacity, len(LOADS), LOADS[-1]), server, senders, np.inf)
        start_mb = server.memory_mb()
        loads: dict[str, dict[str, float]] = {}
        for number, times in enumerate(LOADS):
            self._run.show(f"{kind} at {times:g} times", number, len(LOADS))
            moments = self._moments(kind, capacity, number, times)
            calm_s = loads["0.5"]["p99_ms"] / 1000 if loads else np.inf
            cpu_s = server.cpu_s()
            loads[f"{times:g}"] = {
                **self._load(kind, moments, server, senders, 2 * calm_s),
                "server_cpu_s": server.cpu_s() - cpu_s,
                "growth_mb": server.memory_mb() - start_mb,
            }
        at_capacity_ms = loads["1"]["p99_ms"]
        for load in loads.values():
            load["goodput_ratio"] = load["goodput_per_s"] / capacity
            load["p99_ratio"] = load["p99_ms"] / at_capacity_ms
        return {"capacity_per_s": capacity, "loads": loads}

    def _capacity(self, kind: str, server: Server, senders: Senders) -> float:
        """Good answers a second that callers in a closed loop get, while the same writes go on as beside a load."""
        packed = self._packed(kind, self._sizes.capacity[kind != "texts"])
        wrote = self._write(server, senders)
        outcome = server.generator.ask(Load(server.address, list(infer_requests(models.RECOMMEND, packed)), CALLERS))
        wrote.result()
        # Some may be refused, while the encoder's queue is still as short as an overload before has made it.
        if set(outcome.errors) - {"UNAVAILABLE"}:
            raise BenchmarkError(f"requests failed: {outcome.errors}")
        return outcome.users_per_s

    def _moments(self, kind: str, capacity: float, number: int, times: float) -> Floats:
        """When the requests of a load of so many times the capacity are sent."""
        seed = [self._run.seed, KINDS.index(kind), number]
        return poisson_moments(times * capacity, self._sizes.seconds, seed)

    def _write(self, server: Server, senders: Senders) -> Future[OpenOutcome]:
        """Begin to record interactions, for as long as a load takes."""
        count = int(self._sizes.seconds * _WRITES_PER_S)
        some = list(infer_requests(models.INTERACTIONS, islice(self._writes, count)))
        load = OpenLoad(server.address, some, np.arange(count) / _WRITES_PER_S, DEADLINE_S)
        return senders.pool.submit(senders.writes.ask, load)

    def _load(
        self, kind: str, moments: Floats, server: Server, senders: Senders, recovered_s: float
    ) -> dict[str, float]:
        """One load, with writes beside it and probes after it."""
        seconds = self._sizes.seconds
        distinct = self._sizes.distinct if kind in ("known", "users") else len(moments)
        requests = list(infer_requests(models.RECOMMEND, self._packed(kind, distinct)))
        (probe,) = infer_requests(models.RECOMMEND, self._packed("known", 1))
        load = OpenLoad(
            server.address, requests, moments, DEADLINE_S, not self._raw, probe=probe, probes=self._sizes.probes
        )
        wrote = self._write(server, senders)
        found = senders.reads.ask(load)
        return _figures(found, wrote.result(), seconds, recovered_s)

    def _packed(self, kind: str, count: int) -> list[bytes]:
        """So many packed requests of a kind."""
        if kind == "texts":
            return text_requests([next(self._texts) for _ in range(count)])
        if kind == "mix":
            random = np.random.default_rng([self._run.seed, count])
            kinds = random.choice(KINDS[:3], size=count, p=_MIX)
            texts = iter(self._packed("texts", int((kinds == "texts").sum())))
            others = {"known": self._known, "users": self._by_user}
            return [
                next(texts) if one == "texts" else others[one][n % self._sizes.distinct] for n, one in enumerate(kinds)
            ]
        return list(islice(cycle(self._known if kind == "known" else self._by_user), count))


@contextmanager
def _on(cores: Collection[int]) -> Iterator[None]:
    """Start processes on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    yield
    os.sched_setaffinity(0, before)


def _figures(found: OpenOutcome, wrote: OpenOutcome, seconds: float, recovered_s: float) -> dict[str, float]:
    """The figures of one load; `recovered_s` is the latency of a probe that counts as recovered."""
    if found.errors or wrote.errors:
        raise BenchmarkError(f"requests failed under load: {(found.errors or wrote.errors)[0]}")
    good, by_server = found.fates == Fate.GOOD, found.fates == Fate.REFUSED
    refused = by_server | (found.fates == Fate.HELD_BACK)
    in_time = good & (found.sent + found.took <= seconds)
    quiet = found.probes_took <= max(recovered_s, _CALM_S)
    return {
        "offered_per_s": float((found.sent <= seconds).sum() / seconds),
        "goodput_per_s": float(in_time.sum() / seconds),
        "p50_ms": _percentile_ms(found.took[good], 50),
        "p99_ms": _percentile_ms(found.took[good], 99),
        "refused_per_s": float(refused.sum() / seconds),
        "refusal_p50_ms": _percentile_ms(found.took[refused], 50),
        "refusal_p99_ms": _percentile_ms(found.took[refused], 99),
        "server_refused_per_s": float(by_server.sum() / seconds),
        "server_refusal_p99_ms": _percentile_ms(found.took[by_server], 99),
        "missed_share": float((found.fates == Fate.MISSED).mean()),
        "recovery_s": float(found.probes_sent[np.argmax(quiet)]) if quiet.any() else float(found.probes_sent[-1]),
        "writes_ratio": float((wrote.fates == Fate.GOOD).mean()),
        "writes_p99_ms": _percentile_ms(wrote.took[wrote.fates == Fate.GOOD], 99),
    }


def _percentile_ms(values_s: Floats, percentile: float) -> float:
    return float(np.percentile(values_s, percentile) * 1000) if len(values_s) else 0.0
