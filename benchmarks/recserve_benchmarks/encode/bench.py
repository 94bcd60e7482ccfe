"""`recserve bench encode`: every system encodes the same texts in interleaved rounds, and how they compare."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np

from recserve_benchmarks.encode import systems
from recserve_benchmarks.encode.systems import COMPARED, PEERS, SYSTEMS, EncodeCost, EncodeJob
from recserve_benchmarks.encode.texts import KINDS, Kind, film_texts
from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.corpus import token_counts
from recserve_benchmarks.harness.report import installed, setup
from recserve_benchmarks.harness.requests import embed_requests
from recserve_benchmarks.harness.run import Rounds, Run
from recserve_benchmarks.harness.servers import CALLERS, Server, ours
from recserve_benchmarks.harness.worker import Worker
from recserve_client import Client
from recserve_client.contract import models
from recserve_export.encoder.source.folder import read_source
from recserve_server_ext.common.arrays import Vectors

TORCH, PLAIN, OURS, GRPC = "torch_sentence_transformers", "onnx_plain", "embedded_in_process", "embedded_grpc"
#: Ratio -> the systems whose texts/s are divided.
RATIOS: Final = {
    "in_process_to_torch": (OURS, TORCH),
    "in_process_to_onnx_plain": (OURS, PLAIN),
    **{f"in_process_to_{peer}": (OURS, peer) for peer in PEERS},
    "grpc_to_in_process": (GRPC, OURS),
}
#: Texts of a round, by kind.
_COUNTS: Final = (4000, 1000)
_QUICK: Final = (400, 100)
_TORCH_BATCHES: Final = (32, 64, 128)
_BATCH: Final = 32
#: torch's batch is chosen on every so many-th text.
_EVERY: Final = 4
#: Texts of a request over gRPC: one title is too short to be worth a request.
TEXTS_PER_REQUEST: Final[dict[Kind, int]] = {"titles": 16, "descriptions": 1}
_WARM_TEXTS: Final = 256
#: Systems whose vectors agree less than this with torch's do not do the same work.
_LEAST_COS: Final = 0.9

Workers = dict[str, Worker[EncodeJob, EncodeCost]]


class EncodeBench:
    """Measures one encoder; every system gets the same texts in every round.

    Attributes:
        absent: Peers that are not measured, and why.
    """

    def __init__(self, run: Run, source: Path) -> None:
        """Draw the texts.

        Args:
            run: Its home needs an index, too, to be served.
            source: The folder that the encoder was exported from.

        Raises:
            BenchmarkError: The encoder was exported from another folder, or there are too few texts.
            ExportError: The source or the films cannot be read.
            ServerError: The encoder cannot be read.
        """
        self._run, self._source = run, source
        if read_source(source).sha256() != run.manifest.source_sha256:
            raise BenchmarkError(
                f"{run.encoder} was not exported from {source}; name the folder it came from: --source"
            )
        self._texts = film_texts(*(_QUICK if run.quick else _COUNTS), run.seed)
        self._rounds = Rounds()
        self.absent: dict[str, str] = {}

    def measure(self) -> dict[str, Any]:
        """Measure all of it; the figures by name.

        Raises:
            BenchmarkError: Requests failed, a process ended, or the systems' vectors differ.
            ServerError: The server did not start.
            RecserveError: It did not answer.
        """
        with ExitStack() as stack:
            workers = self.start(stack)
            agreement = self.warm(workers)
            batches = self._choose_batches(workers[TORCH])
            began = time.perf_counter()
            server = stack.enter_context(ours(self._run.workspace, self._run.manifest.precision))
            with Client(server.address) as client:
                client.embed(self._texts["titles"][:1])
                first_vector_s = time.perf_counter() - began
                served = np.concatenate([client.embed(self._texts[kind][:COMPARED]) for kind in KINDS])
            agreement[GRPC] = compared(GRPC, served, self._torch_vectors)
            for number in self._rounds.each(self._run):
                self._round(number, workers, server, batches)
        return {
            **self._rounds.results(),
            "agreement": agreement,
            "start": {"first_vector_s": first_vector_s},
            "torch_batch": batches,
            "texts": {kind: token_counts(self._run, self._texts[kind]) for kind in KINDS},
            "peers": {
                name: {"version": installed(package), "absent": self.absent.get(name, "")}
                for name, package in PEERS.items()
            },
            "setup": setup(self._run, max_tokens=self._run.manifest.max_tokens, callers=CALLERS),
        }

    def start(self, stack: ExitStack) -> Workers:
        """A process for each system that is installed."""
        names = [system.__name__ for system in SYSTEMS]
        for name, package in PEERS.items():
            if installed(package) is None:
                self.absent[name] = "not installed"
                names.remove(name)
        encoder = self._run.encoder
        return {name: stack.enter_context(systems.start(name, encoder, self._source)) for name in names}

    def warm(self, workers: Workers) -> dict[str, dict[str, float]]:
        """Let every process load and run once, and compare its vectors with torch's, by system.

        A peer that ends, or makes other vectors, takes no further part.
        """
        self._torch_vectors = self._first_vectors(workers[TORCH])
        found: dict[str, dict[str, float]] = {}
        for name in self._run.each("load", [name for name in workers if name != TORCH]):
            try:
                found[name] = compared(name, self._first_vectors(workers[name]), self._torch_vectors)
            except BenchmarkError as error:
                if name not in PEERS:
                    raise
                self.absent[name] = str(error)
                del workers[name]
        return found

    def _first_vectors(self, worker: Worker[EncodeJob, EncodeCost]) -> Vectors:
        jobs = [EncodeJob(self._texts[kind][:_WARM_TEXTS], _BATCH) for kind in KINDS]
        return np.concatenate([worker.ask(job).vectors for job in jobs])

    def _choose_batches(self, torch: Worker[EncodeJob, EncodeCost]) -> dict[Kind, int]:
        """The batch that is fastest for each kind of text, the better of two times each."""
        best: dict[Kind, int] = {}
        for kind in KINDS:
            rates = dict.fromkeys(_TORCH_BATCHES, 0.0)
            for batch in self._run.each(f"batch of torch, {kind}", 2 * _TORCH_BATCHES):
                job = EncodeJob(self._texts[kind][::_EVERY], batch)
                rates[batch] = max(rates[batch], torch.ask(job).texts_per_s)
            best[kind] = max(rates, key=lambda batch: rates[batch])
        return best

    def _round(self, number: int, workers: Workers, server: Server, batches: dict[Kind, int]) -> None:
        """Encode both kinds of texts with all systems, in a random order."""
        random = np.random.default_rng([self._run.seed, 79, number])
        for kind in KINDS:
            rates: dict[str, float] = {}
            for name in random.permutation([*workers, GRPC]).tolist():
                if name == GRPC:
                    rates[name] = self._grpc(server, kind)
                    continue
                cost = workers[name].ask(EncodeJob(self._texts[kind], batches[kind] if name == TORCH else _BATCH))
                rates[name] = cost.texts_per_s
                self._rounds.add(f"cpu_us.{name}", **{kind: cost.cpu_us})
            for name, rate in rates.items():
                self._rounds.add(f"systems.{name}", **{kind: rate})
            for name, ratio in ratios(rates).items():
                self._rounds.add(f"ratios.{name}", **{kind: ratio})

    def _grpc(self, server: Server, kind: Kind) -> float:
        """Texts/s over gRPC."""
        requests = embed_requests(self._texts[kind], TEXTS_PER_REQUEST[kind])
        cost, texts = server.cost(models.EMBED, requests, models.ENCODER), len(self._texts[kind])
        self._rounds.add(f"cpu_us.{GRPC}", **{kind: cost.cpu_us * len(requests) / texts})
        for model, batch in cost.batch.items():
            self._rounds.add(f"batch.{model}", **{kind: batch})
        self._rounds.add(f"latency_ms.{kind}", p50=cost.outcome.p50_ms, p99=cost.outcome.p99_ms)
        return texts / cost.outcome.wall_s


def ratios(rates: dict[str, float]) -> dict[str, float]:
    """The ratios of the texts/s of systems that are measured, by the names of `RATIOS`."""
    return {name: rates[a] / rates[b] for name, (a, b) in RATIOS.items() if {a, b} <= set(rates)}


def compared(name: str, vectors: Vectors, reference: Vectors) -> dict[str, float]:
    """Mean and least cosine of a system's vectors with torch's, both [texts, dim].

    Raises:
        BenchmarkError: They do not agree.
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
