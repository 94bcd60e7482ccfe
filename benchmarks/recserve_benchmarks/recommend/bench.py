"""`recserve bench recommend`: raw search, a Triton echo and serving in interleaved rounds, and their ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np

from recserve_benchmarks.harness.corpus import prepare, token_counts, with_graph
from recserve_benchmarks.harness.recall import recall_at_10
from recserve_benchmarks.harness.report import setup
from recserve_benchmarks.harness.requests import known_requests, text_requests, unseen_texts
from recserve_benchmarks.harness.run import Rounds, Run
from recserve_benchmarks.harness.servers import CALLERS, ECHO, LoadCost, Server, echo, ours
from recserve_benchmarks.harness.worker import Worker
from recserve_benchmarks.recommend.raw import RawCost, RawJob, raw_search
from recserve_client.contract import AnswerReader, RecommendTimings, Slate, models
from recserve_client.contract.recommend import STAGES
from recserve_export.index.recall import normalised_means, sample_histories
from recserve_server_ext.common.arrays import Rows

_SOAK_PARTS: Final = 10
#: Bytes of an answer of the echo in a short run: a slate of ten items with contributions of 20 behaviours.
_CHECK_ANSWER: Final = 2500
_read: Final = AnswerReader(Slate)
#: Seeds of the parts of a run beside its rounds, so that no two parts have the same users.
_SOAK, _SWEEP, _ALONE, _RECALL = 600, 700, 800, 999


class Sizes(NamedTuple):
    """How much to measure.

    Attributes:
        users: Users with known items of each round and kind.
        echo_users: Requests to the echo of each round; many, since the kernel counts CPU in ticks of 10 ms.
        text_users: Users with unseen texts of each round.
        alone_users: Users of the lone caller of each round.
        recall_users: Users of each kind whose slates are compared with exact search.
        sweep: Numbers of callers, for `sweep_users` users each.
        soak: Requests between the two looks at memory.
    """

    users: int = 2000
    echo_users: int = 10_000
    text_users: int = 300
    alone_users: int = 200
    recall_users: int = 500
    sweep: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    sweep_users: int = 1000
    soak: int = 50_000


QUICK: Final = Sizes(200, 1000, 40, 40, 100, (1, 8, 32), 100, 500)
#: Of a short run that compares ratios with a recorded one.
CHECK: Final = Sizes(users=1000, echo_users=4000, text_users=100)


class Systems(NamedTuple):
    """What a round compares: serving over a graph and over the chosen engine, both engines alone, and an echo."""

    hnsw: Server
    chosen: Server
    echo: Server
    raw: Worker[RawJob, RawCost]
    raw_chosen: Worker[RawJob, RawCost]


class RecommendBench:
    """Measures serving; every request is of a user of its own."""

    def __init__(self, run: Run, sizes: Sizes | None = None) -> None:
        """Encode and index the items, unless that was done before.

        Args:
            run: What to measure.
            sizes: How much; by default as the run says.

        Raises:
            ServerError: The home lacks an encoder or a catalogue.
        """
        self._run = run
        self._sizes = QUICK if run.quick else sizes or Sizes()
        self._chosen = prepare(run, run.items)
        self._hnsw = with_graph(run, self._chosen)
        self._vectors = self._chosen.vectors
        self._rounds = Rounds()
        # All rounds at once, so that no text comes twice: the server would have it in its cache.
        self._histories_of_texts = unseen_texts(self._chosen.titles, 2 * run.rounds * self._sizes.text_users, run.seed)

    @property
    def items(self) -> int:
        """Number of items that are served."""
        return len(self._vectors)

    def ratios(
        self, prepare: Callable[[Server], None], more: Callable[[Server, float], Mapping[str, float]]
    ) -> dict[str, Any]:
        """Measure the rounds alone.

        Args:
            prepare: Called with the server of the chosen engine before the first round.
            more: Called in each round with that server and the CPU of a user with a history; figures of users by id.

        Raises:
            BenchmarkError: Requests failed, or a process ended.
            ServerError: A server did not start.
        """
        run, precision = self._run, self._run.manifest.precision
        with ours(self._hnsw.home, precision) as hnsw, self._systems(hnsw, _CHECK_ANSWER) as systems:
            prepare(systems.chosen)
            for number in self._rounds.each(run):
                self._round(number, systems)
                known_us = self._rounds.values["costs.chosen_interests.cpu_us"][-1]
                self._rounds.add("user", **more(systems.chosen, known_us))
        return self._rounds.results()

    def measure(self) -> dict[str, Any]:
        """Measure all of it; the figures by name.

        Raises:
            BenchmarkError: Requests failed, or a process ended.
            ServerError: A server did not start.
        """
        run, precision = self._run, self._run.manifest.precision
        with ours(self._hnsw.home, precision) as hnsw:
            start = {"start_s": hnsw.start_s, "start_mb": hnsw.memory_mb()}
            known, answer_bytes = self._recall(hnsw)
            with self._systems(hnsw, answer_bytes) as systems:
                of_chosen, _ = self._recall(systems.chosen)
                for number in self._rounds.each(run):
                    self._round(number, systems)
            sweep = self._sweep(hnsw)
            memory = {**start, **self._soak(hnsw)}
        found = self._rounds.results()
        found["known"] |= known
        found["chosen"] |= of_chosen
        found["texts"] |= token_counts(run, [text for history in self._histories_of_texts for text in history])
        engines = {"engine": self._hnsw.engine, "chosen_engine": self._chosen.engine}
        about = setup(run, items=len(self._vectors), **engines, callers=CALLERS, sizes=self._sizes._asdict())
        return {**found, "sweep": sweep, "memory": memory, "answer_bytes": answer_bytes, "setup": about}

    @contextmanager
    def _systems(self, hnsw: Server, answer_bytes: int) -> Iterator[Systems]:
        """Start what is compared with serving over the graph."""
        encoder = self._run.encoder
        with (
            ours(self._chosen.home, self._run.manifest.precision) as chosen,
            echo(answer_bytes) as echo_server,
            raw_search(self._hnsw.home, encoder) as raw,
            raw_search(self._chosen.home, encoder) as raw_chosen,
        ):
            yield Systems(hnsw, chosen, echo_server, raw, raw_chosen)

    def _histories(self, count: int, part: int) -> dict[str, Rows]:
        """Histories by kind of users that no other part of the run gets."""
        return sample_histories(self._vectors, count=count, seed=self._run.seed * 1000 + part)

    def _recall(self, server: Server) -> tuple[dict[str, float], int]:
        """Recall@10 of what is served, by kind of user and of the worse kind; and the mean size of an answer."""
        recalls: dict[str, float] = {}
        sizes: list[int] = []
        everything = np.ones(len(self._vectors), np.bool_)
        for kind, rows in self._histories(self._sizes.recall_users, _RECALL).items():
            answers = server.ask(models.RECOMMEND, known_requests(rows), keep_answers=True).answers
            sizes += map(len, answers)
            slates = [_read(answer) for answer in answers]
            found = [[int(item.id[1:]) for item in slate.items] for slate in slates]
            recalls[f"recall_at_10_{kind}"] = recall_at_10(self._vectors, rows, found, everything)
        return {**recalls, "recall_at_10": min(recalls.values())}, int(np.mean(sizes))

    def _round(self, number: int, of: Systems) -> None:
        add, histories = self._rounds.add, self._histories(self._sizes.users, number)
        rows = histories["interests"]
        repeated = np.resize(rows, (self._sizes.echo_users, rows.shape[1]))
        echo = self._load("echo", of.echo, ECHO, known_requests(repeated))
        for kind, rows in histories.items():
            users = normalised_means(self._vectors[rows])
            raw = self._raw(f"raw_{kind}", of.raw, users)
            raw_chosen = self._raw(f"raw_chosen_{kind}", of.raw_chosen, users)
            packed = known_requests(rows)
            hnsw = self._load(f"serve_{kind}", of.hnsw, models.RECOMMEND, packed)
            chosen = self._load(f"chosen_{kind}", of.chosen, models.RECOMMEND, packed)
            suffix = "" if kind == "interests" else f"_{kind}"
            overhead = (hnsw.cpu_us - raw.cpu_us) / echo.cpu_us
            add("known", **{f"ratio_to_raw{suffix}": raw.cpu_us / hnsw.cpu_us, f"overhead_to_echo{suffix}": overhead})
            faster = chosen.outcome.users_per_s / hnsw.outcome.users_per_s
            add("chosen", **{f"raw_to_chosen{suffix}": raw.cpu_us / chosen.cpu_us, f"users_to_hnsw{suffix}": faster})
            add("chosen", **{f"overhead_to_echo{suffix}": (chosen.cpu_us - raw_chosen.cpu_us) / echo.cpu_us})
        count = self._sizes.text_users
        start = 2 * count * number
        raw = self._raw("raw_texts", of.raw, self._histories_of_texts[start : start + count])
        others = text_requests(self._histories_of_texts[start + count : start + 2 * count])
        texts = self._load("serve_texts", of.hnsw, models.RECOMMEND, others, keep_answers=True)
        ratio = texts.outcome.users_per_s / raw.users_per_s
        share = encoder_share([_read(answer).timings for answer in texts.outcome.answers])
        add("texts", ratio_to_raw=ratio, ratio_to_raw_cpu=raw.cpu_us / texts.cpu_us, encoder_share=share)
        self._alone(number, of)

    def _alone(self, number: int, of: Systems) -> None:
        """One caller, one request at a time."""
        rows = self._histories(self._sizes.alone_users, _ALONE + number)["interests"]
        packed = known_requests(rows)
        raw_ms = of.raw.ask(RawJob(normalised_means(self._vectors[rows]), batch=1)).p50_ms
        echo_ms = of.echo.ask(ECHO, packed, 1).p50_ms
        p50_ms = of.hnsw.ask(models.RECOMMEND, packed, 1).p50_ms
        allowed_ms = raw_ms + 1.5 * echo_ms
        self._rounds.add("one_caller", p50_ms=p50_ms, raw_p50_ms=raw_ms, echo_p50_ms=echo_ms, allowed_ms=allowed_ms)
        self._rounds.add("chosen", p50_ms=of.chosen.ask(models.RECOMMEND, packed, 1).p50_ms)

    def _raw(self, name: str, raw: Worker[RawJob, RawCost], users: Any) -> RawCost:
        cost = raw.ask(RawJob(users))
        self._rounds.add(f"costs.{name}", cpu_us=cost.cpu_us, users_per_s=cost.users_per_s)
        return cost

    def _load(
        self, name: str, server: Server, model: str, packed: Sequence[bytes], *, keep_answers: bool = False
    ) -> LoadCost:
        cost = server.cost(model, packed, keep_answers=keep_answers)
        of = cost.outcome
        self._rounds.add(
            f"costs.{name}", cpu_us=cost.cpu_us, users_per_s=of.users_per_s, p50_ms=of.p50_ms, p99_ms=of.p99_ms,
            batch=cost.batch[model],
        )  # fmt: skip
        return cost

    def _sweep(self, server: Server) -> list[dict[str, float]]:
        """Throughput and latency by number of callers."""
        points = []
        for number, callers in enumerate(self._run.each("callers", self._sizes.sweep)):
            rows = self._histories(self._sizes.sweep_users, _SWEEP + number)["interests"]
            of = server.ask(models.RECOMMEND, known_requests(rows), callers)
            points.append({"callers": callers, "users_per_s": of.users_per_s, "p50_ms": of.p50_ms, "p99_ms": of.p99_ms})
        return points

    def _soak(self, server: Server) -> dict[str, Any]:
        """Memory of the serving processes (MiB) before and after many requests; they are warm when it begins."""
        part = self._sizes.soak // _SOAK_PARTS
        series_mb = [server.memory_mb()]
        for number in self._run.each("soak", range(_SOAK_PARTS)):
            random = np.random.default_rng([self._run.seed, _SOAK + number])
            server.ask(models.RECOMMEND, known_requests(random.integers(len(self._vectors), size=(part, 20))))
            series_mb.append(server.memory_mb())
        return {
            "before_mb": series_mb[0],
            "after_mb": series_mb[-1],
            "growth_mb": series_mb[-1] - series_mb[0],
            "requests": _SOAK_PARTS * part,
            "series_mb": series_mb,
        }


def encoder_share(timings: Sequence[RecommendTimings]) -> float:
    """Median over answers of the share of the encoder's call in the time of all stages."""
    shares = [of.encode_us / sum(getattr(of, f"{stage}_us") for stage in STAGES) for of in timings]
    return float(np.median(shares))
