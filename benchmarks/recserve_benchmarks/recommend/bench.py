"""`recserve bench recommend`: rounds of raw search, echo and serving in turn, and what they say of each other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from recserve_benchmarks.harness.corpus import Corpus, infer_requests, known_requests, text_requests, unseen_texts
from recserve_benchmarks.harness.load import generate, good, read_blobs
from recserve_benchmarks.harness.servers import ECHO, Server, echo, ours
from recserve_benchmarks.recommend.raw import RawCost, RawProcess
from recserve_benchmarks.recommend.slates import read_slate, recall_at_10
from recserve_client.contract import models
from recserve_export.index.recall import sample_histories
from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.encoder.text_encoder import TextEncoder

#: Says what is going on, how much of it is done, and of how much.
Done = Callable[[str, int, int], None]
CALLERS = 32
#: What a round measures.
MEASURED = (
    "raw_interests",
    "raw_random",
    "raw_texts",
    "huge_interests",
    "echo",
    "serve_interests",
    "serve_random",
    "chosen_interests",
    "chosen_random",
    "serve_texts",
)
#: Users of each kind whose slates are compared with exact search.
RECALL_USERS = 500
_SOAK_PARTS = 10
#: Seeds of the parts of a run beside its rounds, so that no two parts have the same users.
_SOAK, _SWEEP, _ALONE, _RECALL = 600, 700, 800, 999


class Servers(NamedTuple):
    """What a round compares.

    Attributes:
        hnsw: Ours over the index of the raw search.
        chosen: Ours over the engine that the index build chose by itself.
        echo: A Triton that does nothing.
        raw: hnswlib in process.
        huge: The same with huge pages.
    """

    hnsw: Server
    chosen: Server
    echo: Server
    raw: RawProcess
    huge: RawProcess


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: Rounds; medians are over them.
        users: Users with known items of each round and kind.
        echo_users: Requests to the echo of each round; many, since the kernel counts CPU in ticks of 10 ms.
        text_users: Users with unseen texts of each round.
        alone_users: Users of the lone caller of each round.
        sweep: Numbers of callers.
        sweep_users: Users of each number.
        soak: Requests between the two looks at memory.
        seed: Of everything drawn.
    """

    rounds: int = 5
    users: int = 2000
    echo_users: int = 10_000
    text_users: int = 300
    alone_users: int = 200
    sweep: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    sweep_users: int = 1000
    soak: int = 50_000
    seed: int = 0


@dataclass
class Samples:
    """One list of figures for each thing measured, a figure a round."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Note a figure."""
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        """Median over the rounds."""
        return median(self.values[name])


class RecommendBench:
    """Measures one corpus; every request goes to a user of its own."""

    def __init__(self, corpus: Corpus, encoder: TextEncoder, plan: Plan, done: Done) -> None:
        self._corpus = corpus
        self._encoder = encoder
        self._plan = plan
        self._done = done
        self._samples = Samples()
        self._one_samples = Samples()
        # All rounds at once, so that no round has a text of another: the server would have it in its cache.
        self._texts_of_users = unseen_texts(corpus.titles, 2 * plan.rounds * plan.text_users, plan.seed)

    def run(self) -> dict[str, Any]:
        """Measure all of it.

        Returns:
            Figures by name; see docs/results/serving.md.

        Raises:
            BenchmarkError: Requests failed, or a process ended.
            ServerError: A server did not start.
        """
        folder, precision = self._corpus.encoder_folder, self._encoder.manifest.precision
        with ours(self._corpus.home, precision) as server:
            start_mb = server.memory_mb()
            recall, answer_bytes = self._recall(server)
            with (
                ours(self._corpus.chosen_home, precision) as chosen,
                echo(answer_bytes, ServeSettings()) as echo_server,
                RawProcess(self._corpus.home, folder) as raw,
                RawProcess(self._corpus.home, folder, huge_pages=True) as huge,
            ):
                chosen_recall, _ = self._recall(chosen)
                for number in range(self._plan.rounds):
                    self._done("rounds", number, self._plan.rounds)
                    self._round(number, Servers(server, chosen, echo_server, raw, huge))
                self._done("rounds", self._plan.rounds, self._plan.rounds)
            sweep = self._sweep(server)
            memory = {"start_mb": start_mb, **self._soak(server)}
        return {
            "known": {**self._medians("known"), **recall},
            "chosen": {
                **self._medians("chosen"),
                "p50_ms": self._one_samples.median("chosen_p50_ms"),
                **chosen_recall,
            },
            "texts": self._texts(),
            "one_caller": self._one_caller(),
            "sweep": sweep,
            "memory": memory,
            "answer_bytes": answer_bytes,
            "costs": self._costs(),
            "spread": {name: (min(rounds), max(rounds)) for name, rounds in self._ratios().items()},
            "rounds": {**self._samples.values, **{f"one_{k}": v for k, v in self._one_samples.values.items()}},
        }

    def _histories(self, count: int, part: int) -> dict[str, Rows]:
        """Users that no other part of the run gets."""
        return sample_histories(self._corpus.snapshot.text.vectors, count=count, seed=self._plan.seed * 1000 + part)

    def _recall(self, server: Server) -> tuple[dict[str, float], int]:
        """Recall@10 of what is served, against exact search with the same exclusions; and the size of an answer."""
        recalls: dict[str, float] = {}
        sizes: list[int] = []
        for kind, rows in self._histories(RECALL_USERS, _RECALL).items():
            with tempfile.TemporaryDirectory() as aside:
                path = Path(aside) / "answers"
                good(generate(server.address, self._requests(rows), CALLERS, answers=path))
                slates = [read_slate(blob) for blob in read_blobs(path)]
            sizes.extend(len(raw) for raw, _ in slates)
            found = [[int(item.id[1:]) for item in slate.items] for _, slate in slates]
            recalls[f"recall_at_10_{kind}"] = recall_at_10(self._corpus.snapshot.text.vectors, rows, found)
        return {**recalls, "recall_at_10": min(recalls.values())}, int(np.mean(sizes))

    def _requests(self, rows: Rows, model: str = models.RECOMMEND) -> list[bytes]:
        return list(infer_requests(model, known_requests(rows)))

    def _round(self, number: int, of: Servers) -> None:
        for kind, rows in self._histories(self._plan.users, number).items():
            self._note_raw(f"raw_{kind}", of.raw.known(rows))
            self._serve(f"serve_{kind}", of.hnsw, models.RECOMMEND, known_requests(rows))
            self._serve(f"chosen_{kind}", of.chosen, models.RECOMMEND, known_requests(rows))
            if kind == "interests":
                self._note_raw("huge_interests", of.huge.known(rows))
                repeated = np.resize(rows, (self._plan.echo_users, rows.shape[1]))
                self._serve("echo", of.echo, ECHO, known_requests(repeated))
        count = self._plan.text_users
        start = 2 * count * number
        self._note_raw("raw_texts", of.raw.texts(self._texts_of_users[start : start + count]))
        others = self._texts_of_users[start + count : start + 2 * count]
        self._serve("serve_texts", of.hnsw, models.RECOMMEND, text_requests(others))
        self._alone(number, of)

    def _alone(self, number: int, of: Servers) -> None:
        """One caller, one request at a time."""
        rows = self._histories(self._plan.alone_users, _ALONE + number)["interests"]
        requests = self._requests(rows)
        self._one_samples.add("raw_p50_ms", of.raw.known(rows, batch=1).call_p50_ms)
        self._one_samples.add("p50_ms", good(generate(of.hnsw.address, requests, 1)).p50_ms)
        self._one_samples.add("chosen_p50_ms", good(generate(of.chosen.address, requests, 1)).p50_ms)
        self._one_samples.add("echo_p50_ms", good(generate(of.echo.address, self._requests(rows, ECHO), 1)).p50_ms)

    def _note_raw(self, name: str, cost: RawCost) -> None:
        self._samples.add(f"{name}_cpu_us", cost.cpu_us)
        self._samples.add(f"{name}_users_per_s", cost.users_per_s)

    def _serve(self, name: str, server: Server, model: str, packed: Sequence[bytes]) -> None:
        cost = server.under_load(list(infer_requests(model, packed)), CALLERS, model)
        self._samples.add(f"{name}_cpu_us", cost.cpu_us)
        self._samples.add(f"{name}_users_per_s", cost.outcome.users_per_s)
        self._samples.add(f"{name}_p50_ms", cost.outcome.p50_ms)
        self._samples.add(f"{name}_p99_ms", cost.outcome.p99_ms)
        self._samples.add(f"{name}_batch", cost.batch[model])

    def _costs(self) -> dict[str, dict[str, float]]:
        """Medians of all that was noted, by what was measured."""
        costs: dict[str, dict[str, float]] = {}
        for name in self._samples.values:
            what = next(what for what in MEASURED if name.startswith(f"{what}_"))
            costs.setdefault(what, {})[name.removeprefix(f"{what}_")] = self._samples.median(name)
        return costs

    def _ratios(self) -> dict[str, list[float]]:
        """The ratios of each round, of what was measured in it: the machine's speed drifts from round to round."""
        of = self._samples.values

        def cpu_us(*whats: str) -> Iterator[tuple[float, ...]]:
            return zip(*(of[f"{what}_cpu_us"] for what in whats), strict=True)

        texts = zip(of["serve_texts_users_per_s"], of["raw_texts_users_per_s"], strict=True)
        users = zip(of["chosen_interests_users_per_s"], of["serve_interests_users_per_s"], strict=True)
        return {
            "known.ratio_to_raw": [a / b for a, b in cpu_us("raw_interests", "serve_interests")],
            "known.ratio_to_raw_huge_pages": [a / b for a, b in cpu_us("huge_interests", "serve_interests")],
            "known.ratio_to_raw_random": [a / b for a, b in cpu_us("raw_random", "serve_random")],
            "known.overhead_to_echo": [(b - a) / c for a, b, c in cpu_us("raw_interests", "serve_interests", "echo")],
            "known.overhead_to_echo_random": [(b - a) / c for a, b, c in cpu_us("raw_random", "serve_random", "echo")],
            "chosen.raw_to_chosen": [a / b for a, b in cpu_us("raw_interests", "chosen_interests")],
            "chosen.raw_to_chosen_random": [a / b for a, b in cpu_us("raw_random", "chosen_random")],
            "chosen.users_to_hnsw": [a / b for a, b in users],
            "texts.ratio_to_raw": [a / b for a, b in texts],
            "texts.ratio_to_raw_cpu": [a / b for a, b in cpu_us("raw_texts", "serve_texts")],
            "one_caller.p50_ms": self._one_samples.values["p50_ms"],
        }

    def _medians(self, group: str) -> dict[str, float]:
        """Medians over the rounds of the ratios of a group."""
        return {
            name.removeprefix(f"{group}."): median(rounds)
            for name, rounds in self._ratios().items()
            if name.startswith(f"{group}.")
        }

    def _texts(self) -> dict[str, float]:
        lengths = self._encoder.tokenizer([text for texts in self._texts_of_users for text in texts]).lengths
        return {
            **self._medians("texts"),
            "tokens_mean": float(lengths.mean()),
            "tokens_most": int(lengths.max()),
        }

    def _one_caller(self) -> dict[str, float]:
        of = self._one_samples.median
        raw_ms, echo_ms = of("raw_p50_ms"), of("echo_p50_ms")
        allowed_ms = raw_ms + 2 * echo_ms
        return {"p50_ms": of("p50_ms"), "raw_p50_ms": raw_ms, "echo_p50_ms": echo_ms, "allowed_ms": allowed_ms}

    def _sweep(self, server: Server) -> list[dict[str, float]]:
        points = []
        for number, callers in enumerate(self._plan.sweep):
            self._done("callers", number, len(self._plan.sweep))
            rows = self._histories(self._plan.sweep_users, _SWEEP + number)["interests"]
            outcome = good(generate(server.address, self._requests(rows), callers))
            point = {"callers": callers, "users_per_s": outcome.users_per_s}
            points.append({**point, "p50_ms": outcome.p50_ms, "p99_ms": outcome.p99_ms})
        self._done("callers", len(self._plan.sweep), len(self._plan.sweep))
        return points

    def _soak(self, server: Server) -> dict[str, Any]:
        """Memory of the serving processes before and after many requests; they are warm when it begins."""
        part = max(1, self._plan.soak // _SOAK_PARTS)
        items = len(self._corpus.snapshot.ids)
        series_mb = [server.memory_mb()]
        for number in range(_SOAK_PARTS):
            self._done("soak", number * part, _SOAK_PARTS * part)
            rows = np.random.default_rng([self._plan.seed, _SOAK + number]).integers(items, size=(part, 20))
            good(generate(server.address, self._requests(rows), CALLERS))
            series_mb.append(server.memory_mb())
        self._done("soak", _SOAK_PARTS * part, _SOAK_PARTS * part)
        return {
            "before_mb": series_mb[0],
            "after_mb": series_mb[-1],
            "growth_mb": series_mb[-1] - series_mb[0],
            "requests": _SOAK_PARTS * part,
            "series_mb": series_mb,
        }
