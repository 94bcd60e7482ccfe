"""`recserve bench recommend`: rounds of raw search, echo and serving in turn, and what they say of each other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_benchmarks.corpus import Corpus, infer_requests, known_requests, text_requests, unseen_texts
from recserve_benchmarks.load import Outcome, generate, read_blobs
from recserve_benchmarks.raw import K, RawSearch, means
from recserve_benchmarks.servers import Server, echo, ours
from recserve_client.contract import Slate, models
from recserve_export.recall import sample_histories
from recserve_server_ext.settings import ServeSettings
from recserve_server_ext.text_encoder import TextEncoder
from recserve_server_ext.workspace import Workspace

Rows = NDArray[np.int64]
#: Says what is going on, how much of it is done, and of how much.
Done = Callable[[str, int, int], None]
CALLERS = 32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: Rounds; medians are over them.
        users: Users with known items of each round and kind.
        text_users: Users with unseen texts of each round.
        sweep: Numbers of callers.
        sweep_users: Users of each number.
        soak: Requests between the two looks at memory.
        seed: Of everything drawn.
    """

    rounds: int = 5
    users: int = 2000
    text_users: int = 300
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
        self._raw = RawSearch(Workspace(corpus.home), corpus.snapshot)
        self._samples = Samples()

    def run(self) -> dict[str, Any]:
        """Measure all of it.

        Returns:
            Figures by name; see docs/performance.md.
        """
        with ours(self._corpus.home, self._encoder.manifest.precision) as server:
            recall, answer_bytes = self._recall(server)
            with echo(answer_bytes, ServeSettings()) as echo_server:
                before = server.batches(models.RECOMMEND)
                for number in range(self._plan.rounds):
                    self._done("rounds", number, self._plan.rounds)
                    self._round(number, server, echo_server)
                self._done("rounds", self._plan.rounds, self._plan.rounds)
                after = server.batches(models.RECOMMEND)
                alone = self._one_caller(server, echo_server)
            sweep = self._sweep(server)
            memory = self._soak(server)
        return {
            "known": {**self._known(), **recall},
            "texts": self._texts(),
            "one_caller": alone,
            "sweep": sweep,
            "memory": memory,
            "batch_mean": (after[0] - before[0]) / max(1, after[1] - before[1]),
            "answer_bytes": answer_bytes,
            "rounds": self._samples.values,
        }

    def _histories(self, count: int, part: int) -> dict[str, Rows]:
        """Users that no other part of the run gets."""
        return sample_histories(self._corpus.snapshot.vectors, count=count, seed=self._plan.seed * 1000 + part)

    def _recall(self, server: Server) -> tuple[dict[str, float], int]:
        """Recall@10 of what is served, against exact search with the same exclusions; and the size of an answer."""
        recalls: dict[str, float] = {}
        sizes: list[int] = []
        for kind, rows in self._histories(500, 999).items():
            with tempfile.TemporaryDirectory() as aside:
                path = Path(aside) / "answers"
                generate(server.address, self._requests(rows), CALLERS, answers=path)
                slates = [_slate(blob) for blob in read_blobs(path)]
            sizes.extend(len(raw) for raw, _ in slates)
            found = [[int(item.id[1:]) for item in slate.items] for _, slate in slates]
            recalls[f"recall_at_10_{kind}"] = _recall(self._corpus.snapshot.vectors, rows, found)
        return {**recalls, "recall_at_10": min(recalls.values())}, int(np.mean(sizes))

    def _requests(self, rows: Rows, model: str = models.RECOMMEND) -> list[bytes]:
        return list(infer_requests(model, known_requests(rows)))

    def _round(self, number: int, server: Server, echo_server: Server) -> None:
        vectors, add = self._corpus.snapshot.vectors, self._samples.add
        for kind, rows in self._histories(self._plan.users, number).items():
            raw = self._raw.search(means(vectors[rows]))
            add(f"raw_{kind}_cpu_us", raw.cpu_s / raw.users * 1e6)
            add(f"raw_{kind}_users_per_s", raw.users / raw.wall_s)
            self._serve(f"serve_{kind}", server, self._requests(rows))
            if kind == "interests":
                self._serve("echo", echo_server, self._requests(rows, "echo"))
        texts = unseen_texts(self._corpus.titles, 2 * self._plan.text_users, self._plan.seed * 1000 + number)
        own, other = texts[: self._plan.text_users], texts[self._plan.text_users :]
        raw = self._raw.search_texts(self._encoder, own)
        add("raw_texts_cpu_us", raw.cpu_s / raw.users * 1e6)
        add("raw_texts_users_per_s", raw.users / raw.wall_s)
        self._serve("serve_texts", server, list(infer_requests(models.RECOMMEND, text_requests(other))))

    def _serve(self, name: str, server: Server, requests: Sequence[bytes]) -> None:
        before = server.cpu_s()
        outcome = _good(generate(server.address, requests, CALLERS))
        self._samples.add(f"{name}_cpu_us", (server.cpu_s() - before) / outcome.users * 1e6)
        self._samples.add(f"{name}_users_per_s", outcome.users_per_s)
        self._samples.add(f"{name}_p50_ms", outcome.p50_ms)
        self._samples.add(f"{name}_p99_ms", outcome.p99_ms)

    def _known(self) -> dict[str, float]:
        of = self._samples.median
        raw, serve, echoed = of("raw_interests_cpu_us"), of("serve_interests_cpu_us"), of("echo_cpu_us")
        return {
            "ratio_to_raw": raw / serve,
            "ratio_to_raw_random": of("raw_random_cpu_us") / of("serve_random_cpu_us"),
            "overhead_to_echo": (serve - raw) / echoed,
            "raw_cpu_us": raw,
            "serve_cpu_us": serve,
            "echo_cpu_us": echoed,
            "raw_users_per_s": of("raw_interests_users_per_s"),
            "serve_users_per_s": of("serve_interests_users_per_s"),
            "echo_users_per_s": of("echo_users_per_s"),
            "p50_ms": of("serve_interests_p50_ms"),
            "p99_ms": of("serve_interests_p99_ms"),
        }

    def _texts(self) -> dict[str, float]:
        of = self._samples.median
        raw, serve = of("raw_texts_users_per_s"), of("serve_texts_users_per_s")
        return {
            "ratio_to_raw": serve / raw,
            "raw_users_per_s": raw,
            "serve_users_per_s": serve,
            "raw_cpu_us": of("raw_texts_cpu_us"),
            "serve_cpu_us": of("serve_texts_cpu_us"),
            "p50_ms": of("serve_texts_p50_ms"),
            "p99_ms": of("serve_texts_p99_ms"),
        }

    def _one_caller(self, server: Server, echo_server: Server) -> dict[str, float]:
        rows = self._histories(max(50, self._plan.sweep_users // 2), 800)["interests"]
        raw = self._raw.p50_ms(means(self._corpus.snapshot.vectors[rows]))
        serve = _good(generate(server.address, self._requests(rows), 1)).p50_ms
        echoed = _good(generate(echo_server.address, self._requests(rows, "echo"), 1)).p50_ms
        return {"p50_ms": serve, "raw_p50_ms": raw, "echo_p50_ms": echoed, "allowed_ms": raw + 2 * echoed}

    def _sweep(self, server: Server) -> list[dict[str, float]]:
        points = []
        for number, callers in enumerate(self._plan.sweep):
            self._done("callers", number, len(self._plan.sweep))
            rows = self._histories(self._plan.sweep_users, 700 + number)["interests"]
            outcome = _good(generate(server.address, self._requests(rows), callers))
            point = {"callers": callers, "users_per_s": outcome.users_per_s}
            points.append({**point, "p50_ms": outcome.p50_ms, "p99_ms": outcome.p99_ms})
        self._done("callers", len(self._plan.sweep), len(self._plan.sweep))
        return points

    def _soak(self, server: Server) -> dict[str, float]:
        """Memory of the serving processes before and after many requests."""
        part = max(1, self._plan.soak // 10)
        before = server.memory_mb()
        items = len(self._corpus.snapshot.ids)
        for number in range(10):
            self._done("soak", number * part, 10 * part)
            rows = np.random.default_rng([self._plan.seed, 600 + number]).integers(items, size=(part, 20))
            _good(generate(server.address, self._requests(rows), CALLERS))
        self._done("soak", 10 * part, 10 * part)
        after = server.memory_mb()
        return {"before_mb": before, "after_mb": after, "growth_mb": after - before, "requests": 10 * part}


def _good(outcome: Outcome) -> Outcome:
    if outcome.errors:
        raise RuntimeError(f"requests failed under load: {json.dumps(outcome.errors)}")
    return outcome


def _slate(blob: bytes) -> tuple[bytes, Slate]:
    from tritonclient.grpc import service_pb2

    raw = service_pb2.ModelInferResponse.FromString(blob).raw_output_contents[0][4:]
    return raw, msgspec.json.decode(raw, type=Slate)


def _recall(vectors: NDArray[np.float32], rows: Rows, found: list[list[int]]) -> float:
    """Share of the true ten that were served; an item that ties with the tenth counts."""
    hits = 0
    for history, slate in zip(rows, found, strict=True):
        scores = vectors @ means(vectors[history][None])[0]
        scores[history] = -np.inf
        tenth = np.partition(scores, -K)[-K]
        hits += int(np.count_nonzero(scores[slate] >= tenth - 1e-6))
    return hits / (K * len(found))
