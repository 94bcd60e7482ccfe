"""`recserve bench encode`: rounds of every way to encode texts in turn, and what they say of each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from recserve_benchmarks.encode import systems as encode_systems
from recserve_benchmarks.encode.corpus import KINDS, Kind, embed_requests, film_texts
from recserve_benchmarks.encode.fast import FastEncoder, fast_encoder
from recserve_benchmarks.encode.peers import PEERS
from recserve_benchmarks.encode.systems import COMPARED, EncodeCost, EncodeJob
from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.contention import CpuContention
from recserve_benchmarks.harness.servers import Server, ours
from recserve_benchmarks.harness.worker import Worker
from recserve_client import Client
from recserve_client.contract import models
from recserve_export.encoder.source.folder import read_source
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.encoder.manifest import read_manifest
from recserve_server_ext.encoder.text_encoder import TextTokenizer

#: Says what is going on, how much of it is done, and of how much.
Done = Callable[[str, int, int], None]
CALLERS: Final = 32
TORCH, PLAIN, OURS, GRPC = "torch_sentence_transformers", "onnx_plain", "embedded_in_process", "embedded_grpc"
#: `OURS` with the faster int8 encoder.
FAST_OURS: Final = "int8_fast_in_process"
SYSTEMS: Final = (TORCH, PLAIN, OURS, GRPC)
#: Ratio -> the systems whose texts/s are divided; one is reported where both systems are measured.
RATIOS: Final = {
    "in_process_to_torch": (OURS, TORCH),
    "int8_fast_to_torch": (FAST_OURS, TORCH),
    "in_process_to_onnx_plain": (OURS, PLAIN),
    **{f"in_process_to_{peer}": (OURS, peer) for peer in PEERS},
    "grpc_to_in_process": (GRPC, OURS),
}
_TORCH_BATCHES: Final = (32, 64, 128)
_PLAIN_BATCH: Final = 32
#: torch's batch is chosen on every so many-th text, twice each.
_EVERY: Final = 4
_STARTS: Final = 3
_WARM_TEXTS: Final = 256
#: Systems whose vectors agree less than this with torch's do not do the same work.
_LEAST_COS: Final = 0.9


@dataclass(frozen=True, kw_only=True)
class EncodePlan:
    """How much to measure.

    Attributes:
        rounds: Rounds; medians are over them.
        titles: Titles of each round.
        descriptions: Descriptions of each round.
        seed: Of the draw of the texts and of the order within a round.
    """

    rounds: int = 5
    titles: int = 4000
    descriptions: int = 1000
    seed: int = 0


class EncodeBench:
    """Measures one encoder; every system gets the same texts in every round."""

    def __init__(self, home: Path, encoder: Path, source: Path, plan: EncodePlan, done: Done) -> None:
        """Draw the texts.

        Args:
            home: With an encoder and an index, served by `recserve serve --home`.
            encoder: The encoder folder of it that is served.
            source: The folder that it was exported from.
            plan: How much to measure.
            done: Called with what is going on.

        Raises:
            BenchmarkError: The encoder was exported from another folder, or there are too few texts.
            ExportError: The source or the films cannot be read.
            ServerError: The encoder cannot be read.
        """
        self._home, self._encoder, self._source, self._plan, self._done = home, encoder, source, plan, done
        self._manifest = read_manifest(encoder)
        if read_source(source).sha256() != self._manifest.source_sha256:
            raise BenchmarkError(f"{encoder} was not exported from {source}; name the folder it came from: --source")
        self._texts = film_texts(plan.titles, plan.descriptions, plan.seed)
        tokenizer = TextTokenizer(encoder, self._manifest.max_tokens)
        self._lengths = {kind: tokenizer(self._texts[kind]).lengths for kind in KINDS}
        self._rounds: dict[str, list[float]] = {}
        self._first_vector_s: list[float] = []
        self._contention: list[float] = []
        #: Peers that are not measured, and why.
        self._absent: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        """Measure all of it.

        Returns:
            Figures by name; see docs/results/encoding.md.

        Raises:
            BenchmarkError: Requests failed, a process ended, or the systems' vectors differ.
            ServerError: The server did not start.
            RecserveError: It did not answer.
        """
        with ExitStack() as stack:
            self._done("find or make int8-fast", 0, 1)
            fast = stack.enter_context(fast_encoder(self._home, self._manifest, self._source))
            workers = self._start(stack, fast)
            agreement = self._warm(workers)
            batches = self._choose_batches(workers[TORCH])
            for number in range(_STARTS - 1):
                self._done("start the server", number, _STARTS)
                with self._served():
                    pass
            server = stack.enter_context(self._served())
            agreement[GRPC] = _compared(GRPC, self._grpc_vectors(server), self._torch_vectors)
            self._measure(workers, server, batches)
        return {
            **self._results(),
            "agreement": agreement,
            "torch_batch": batches,
            "int8_fast": fast.figures(),
            "peers": {
                name: {"version": peer.version(), "absent": self._absent.get(name, "")} for name, peer in PEERS.items()
            },
        }

    def _start(self, stack: ExitStack, fast: FastEncoder) -> dict[str, Worker[EncodeCost]]:
        """A process for each system, for the faster int8 encoder and for the peers that are installed."""
        runs = {name: (name, self._encoder) for name in encode_systems.SYSTEMS}
        if fast.folder is not None:
            runs[FAST_OURS] = (OURS, fast.folder)
        for name, peer in PEERS.items():
            if peer.version() is None:
                self._absent[name] = "not installed"
            else:
                runs[name] = (name, self._encoder)
        return {
            name: stack.enter_context(encode_systems.start(system, encoder, self._source))
            for name, (system, encoder) in runs.items()
        }

    def _warm(self, workers: dict[str, Worker[EncodeCost]]) -> dict[str, dict[str, float]]:
        """Let every process load and run once, and compare the vectors of both kinds with torch's.

        A peer that ends, or makes other vectors, takes no further part.
        """
        self._done("load", 0, len(workers))
        self._torch_vectors = self._first_vectors(workers[TORCH])
        found: dict[str, dict[str, float]] = {}
        for number, name in enumerate([name for name in workers if name != TORCH], start=1):
            self._done("load", number, len(workers))
            try:
                found[name] = _compared(name, self._first_vectors(workers[name]), self._torch_vectors)
            except BenchmarkError as error:
                if name not in PEERS:
                    raise
                self._absent[name] = str(error)
                del workers[name]
        return found

    def _first_vectors(self, worker: Worker[EncodeCost]) -> Vectors:
        found = []
        for kind in KINDS:
            cost = worker.ask(EncodeJob(self._texts[kind][:_WARM_TEXTS], _PLAIN_BATCH))
            found.append(np.frombuffer(cost.vectors, "<f4").reshape(-1, self._manifest.dim))
        return np.concatenate(found)

    def _choose_batches(self, torch: Worker[EncodeCost]) -> dict[Kind, int]:
        """The batch that is fastest for each kind of text."""
        best: dict[Kind, int] = {}
        for kind in KINDS:
            texts = self._texts[kind][::_EVERY]
            rates = dict.fromkeys(_TORCH_BATCHES, 0.0)
            for turn in range(2):
                for number, batch in enumerate(_TORCH_BATCHES):
                    self._done(f"batch of torch, {kind}", turn * len(_TORCH_BATCHES) + number, 2 * len(_TORCH_BATCHES))
                    rates[batch] = max(rates[batch], torch.ask(EncodeJob(texts, batch)).texts_per_s)
            best[kind] = max(rates, key=lambda batch: rates[batch])
        return best

    @contextmanager
    def _served(self) -> Iterator[Server]:
        """The server, once it has answered with its first vector; notes how long that took."""
        start_s = time.perf_counter()
        with ours(self._home, self._manifest.precision) as server:
            with Client(server.address) as client:
                client.embed(self._texts["titles"][:1])
            self._first_vector_s.append(time.perf_counter() - start_s)
            yield server

    def _grpc_vectors(self, server: Server) -> Vectors:
        with Client(server.address) as client:
            return np.concatenate([client.embed(self._texts[kind][:COMPARED]) for kind in KINDS])

    def _measure(self, workers: dict[str, Worker[EncodeCost]], server: Server, batches: dict[Kind, int]) -> None:
        """All rounds; the order of the systems is another one in each."""
        random = np.random.default_rng([self._plan.seed, 79])
        names = [*workers, GRPC]
        steps = self._plan.rounds * len(KINDS) * len(names)
        step = 0
        for number in range(self._plan.rounds):
            contention = CpuContention()
            for kind in KINDS:
                for name in random.permutation(names).tolist():
                    self._done(f"round {number + 1}: {name}, {kind}", step, steps)
                    if name == GRPC:
                        self._grpc(server, kind)
                    else:
                        batch = batches[kind] if name == TORCH else _PLAIN_BATCH
                        cost = workers[name].ask(EncodeJob(self._texts[kind], batch))
                        self._note(f"{name}.{kind}", cost.texts_per_s, cost.cpu_us)
                    step += 1
            self._contention.append(contention.share())
        self._done("rounds", steps, steps)

    def _grpc(self, server: Server, kind: Kind) -> None:
        cost = server.under_load(embed_requests(self._texts[kind]), CALLERS, models.EMBED, models.ENCODER)
        self._note(f"{GRPC}.{kind}", cost.outcome.users_per_s, cost.cpu_us)
        for model, batch in cost.batch.items():
            self._rounds.setdefault(f"batch.{model}.{kind}", []).append(batch)
        self._rounds.setdefault(f"p50_ms.{kind}", []).append(cost.outcome.p50_ms)
        self._rounds.setdefault(f"p99_ms.{kind}", []).append(cost.outcome.p99_ms)

    def _note(self, name: str, texts_per_s: float, cpu_us: float) -> None:
        self._rounds.setdefault(f"texts_per_s.{name}", []).append(texts_per_s)
        self._rounds.setdefault(f"cpu_us.{name}", []).append(cpu_us)

    def _results(self) -> dict[str, Any]:
        lengths = self._lengths
        return {
            **summary(self._rounds),
            "start": {"first_vector_s": median(self._first_vector_s), "starts_s": self._first_vector_s},
            "contention": self._contention,
            "rounds": self._rounds,
            "texts": {
                kind: {
                    "count": len(lengths[kind]),
                    "tokens_mean": float(lengths[kind].mean()),
                    "tokens_p90": float(np.percentile(lengths[kind], 90)),
                    "tokens_most": int(lengths[kind].max()),
                }
                for kind in KINDS
            },
        }


def measured(rounds: dict[str, list[float]]) -> list[str]:
    """Names of the systems that took part: the four, then the faster int8 encoder and peers."""
    return [name for name in (*SYSTEMS, FAST_OURS, *PEERS) if f"texts_per_s.{name}.{KINDS[0]}" in rounds]


def summary(rounds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of the systems, the ratios of these medians, and the ratios' ranges when each round is taken alone."""

    def medians(what: str, name: str) -> dict[str, float]:
        return {kind: median(rounds[f"{what}.{name}.{kind}"]) for kind in KINDS}

    names = measured(rounds)
    systems = {name: medians("texts_per_s", name) for name in names}
    ratios = {ratio: pair for ratio, pair in RATIOS.items() if set(pair) <= set(names)}
    spread = {}
    for ratio, (above, below) in ratios.items():
        for kind in KINDS:
            pairs = zip(rounds[f"texts_per_s.{above}.{kind}"], rounds[f"texts_per_s.{below}.{kind}"], strict=True)
            alone = [one / other for one, other in pairs]
            spread[f"ratios.{ratio}.{kind}"] = (min(alone), max(alone))
    return {
        "systems": systems,
        "ratios": {
            ratio: {kind: systems[above][kind] / systems[below][kind] for kind in KINDS}
            for ratio, (above, below) in ratios.items()
        },
        "cpu_us": {name: medians("cpu_us", name) for name in names},
        "batch": {model: medians("batch", model) for model in (models.EMBED, models.ENCODER)},
        "latency_ms": {kind: {p: median(rounds[f"{p}_ms.{kind}"]) for p in ("p50", "p99")} for kind in KINDS},
        "spread": spread,
    }


def _compared(name: str, vectors: Vectors, reference: Vectors) -> dict[str, float]:
    """How a system's vectors agree with torch's, both [texts, dim].

    Raises:
        BenchmarkError: They do not.
    """
    cos = (vectors * reference).sum(axis=1)
    found = {"mean_cos": float(cos.mean()), "min_cos": float(cos.min())}
    if not found["mean_cos"] >= _LEAST_COS:
        hint = "" if name in PEERS else ". Export the encoder again: recserve export encoder --force"
        raise BenchmarkError(
            f"{name} makes other vectors than {TORCH}: mean cosine {found['mean_cos']:.3f}, at least {_LEAST_COS} "
            f"is wanted; their speeds cannot be compared{hint}"
        )
    return found
