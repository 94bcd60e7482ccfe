"""How fast this CPU multiplies matrices of the encoder's shapes, and how many operations a text takes.

Run as ``python -m recserve_benchmarks.encode.limit ENCODER``; see `recserve_benchmarks.harness.worker`.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.harness.worker import Worker, work_on_jobs
from recserve_server_ext.common import cpu
from recserve_server_ext.encoder.manifest import MODEL, read_manifest

#: Rows of the left matrix, which stand for the tokens of one run; the best of them counts.
_ROWS: Final = (128, 192, 256, 512)
_ATTENTION: Final = frozenset({"Softmax", "Attention", "MultiHeadAttention", "QAttention"})
#: Multiplies all products of a pass once.
Pass = Callable[[], None]


@dataclass(frozen=True)
class EncoderShape:
    """What of a graph decides the number of its operations.

    Attributes:
        weights: Rows and columns of each weight matrix that tokens are multiplied with.
        attentions: Number of attention layers.
        width: Length of a token's vector inside the encoder.
    """

    weights: tuple[tuple[int, int], ...]
    attentions: int
    width: int

    def flop(self, lengths: NDArray[np.int64]) -> float:
        """Floating point operations of texts with these numbers of tokens, without padding.

        A text of n tokens takes 2 n sum(rows x columns) for the weights and 4 n^2 width for each attention layer
        (n^2 scores, then n^2 weighted sums, a multiplication and an addition each). The rest (layer norms, GELU,
        softmax, biases: under 1%) is left out, so time spent on it counts as time not spent on products.
        """
        tokens = lengths.astype(np.float64)
        per_token = 2 * sum(rows * columns for rows, columns in self.weights)
        return float(per_token * tokens.sum() + 4 * self.attentions * self.width * (tokens**2).sum())


def read_shape(encoder: Path) -> EncoderShape:
    """Read it from the ONNX file of an encoder folder.

    Raises:
        BenchmarkError: The graph has no matrix products with weights.
    """
    import onnx

    graph = onnx.load(str(encoder / MODEL), load_external_data=False).graph
    matrices = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if len(tensor.dims) == 2}
    weights = tuple(
        matrices[name]
        for node in graph.node
        if node.op_type != "Gather"  # look-ups of embeddings multiply nothing
        for name in node.input
        if name in matrices and min(matrices[name]) > 1
    )
    if not weights:
        raise BenchmarkError(f"{encoder / MODEL} multiplies with no weight matrix: its operations cannot be counted")
    return EncoderShape(weights, sum(node.op_type in _ATTENTION for node in graph.node), weights[0][0])


class LimitJob(msgspec.Struct, frozen=True):
    """How long to multiply with each library and number of rows."""

    seconds: float


class LimitRates(msgspec.Struct, frozen=True):
    """Best rate of each library, GFLOP/s (for int8: 10^9 integer operations a second)."""

    gflops: dict[str, float]


def start(encoder: Path) -> Worker[LimitRates]:
    """The process that multiplies; its libraries have one thread, which it starts once for each core."""
    alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return Worker("recserve_benchmarks.encode.limit", str(encoder), answer=LimitRates, environment=alone)


def shares_of(shape: EncoderShape) -> list[tuple[int, int]]:
    """The weight shapes in the smallest numbers that keep their shares, e.g. 24, 6 and 6 times as 4, 1 and 1."""
    counts = Counter(shape.weights)
    least = math.gcd(*counts.values())
    return [size for size, count in counts.items() for _ in range(count // least)]


def numpy_pass(sizes: list[tuple[int, int]], rows: int) -> Pass:
    """fp32 products by NumPy's BLAS, into arrays that are there already."""
    random = np.random.default_rng(0)
    operands = [
        (_floats(random, rows, inner), _floats(random, inner, columns), np.empty((rows, columns), np.float32))
        for inner, columns in sizes
    ]

    def multiply() -> None:
        for left, right, out in operands:
            np.matmul(left, right, out=out)

    return multiply


def torch_pass(sizes: list[tuple[int, int]], rows: int) -> Pass:
    """fp32 products by torch, into tensors that are there already."""
    import torch

    random = np.random.default_rng(0)
    operands = [
        (
            torch.from_numpy(_floats(random, rows, inner)),
            torch.from_numpy(_floats(random, inner, columns)),
            torch.empty(rows, columns),
        )
        for inner, columns in sizes
    ]

    def multiply() -> None:
        for left, right, out in operands:
            torch.mm(left, right, out=out)

    return multiply


def onnxruntime_pass(sizes: list[tuple[int, int]], rows: int, *, int8: bool = False) -> Pass:
    """fp32 or int8 products by onnxruntime in a single-threaded session, weights prepacked as in an encoder."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = _products_model(sizes, int8=int8)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    inputs: dict[str, NDArray[Any]] = {
        f"left_{inner}": random.integers(0, 256, (rows, inner)).astype(np.uint8)
        if int8
        else _floats(random, rows, inner)
        for inner in {inner for inner, _ in sizes}
    }
    return lambda: session.run(None, inputs) and None


def _products_model(sizes: list[tuple[int, int]], *, int8: bool) -> bytes:
    """An ONNX model with one product for each size; products with the same number of inner rows share their input."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    left, out, kind = (
        (TensorProto.UINT8, TensorProto.INT32, "MatMulInteger")
        if int8
        else (TensorProto.FLOAT, TensorProto.FLOAT, "MatMul")
    )
    weights = [random.integers(-64, 64, size).astype(np.int8) if int8 else _floats(random, *size) for size in sizes]
    graph = helper.make_graph(
        [
            helper.make_node(kind, [f"left_{inner}", f"weight_{at}"], [f"out_{at}"])
            for at, (inner, _) in enumerate(sizes)
        ],
        "products",
        [helper.make_tensor_value_info(f"left_{inner}", left, [None, inner]) for inner in {one for one, _ in sizes}],
        [helper.make_tensor_value_info(f"out_{at}", out, [None, columns]) for at, (_, columns) in enumerate(sizes)],
        [numpy_helper.from_array(weight, f"weight_{at}") for at, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def passes(sizes: list[tuple[int, int]], rows: int, *, int8: bool) -> Iterator[tuple[str, Callable[[], Pass]]]:
    """Every library that multiplies in this precision, and what makes a pass of it."""
    yield "onnxruntime", lambda: onnxruntime_pass(sizes, rows, int8=int8)
    if not int8:
        yield "numpy", lambda: numpy_pass(sizes, rows)
        yield "torch", lambda: torch_pass(sizes, rows)


def rate(make: Callable[[], Pass], threads: int, flop: float, seconds: float) -> float:
    """GFLOP/s of all threads together, each with matrices of its own.

    Args:
        make: What makes the pass of a thread.
        threads: That multiply at the same time.
        flop: Of one pass.
        seconds: How long.
    """
    todo = [make() for _ in range(threads)]
    for multiply in todo:
        multiply()  # the first one packs weights and touches memory
    start_s = time.perf_counter()

    def work(multiply: Pass) -> int:
        done = 0
        while time.perf_counter() - start_s < seconds:
            multiply()
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, todo))
    return done * flop / (time.perf_counter() - start_s) / 1e9


def _floats(random: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    return random.standard_normal((rows, columns), np.float32)


def _main() -> None:
    folder = Path(sys.argv[1])
    sizes = shares_of(read_shape(folder))
    int8 = read_manifest(folder, verify=False).precision != "fp32"

    def measure(job: LimitJob) -> LimitRates:
        best: dict[str, float] = {}
        for rows in _ROWS:
            flop = 2 * rows * sum(inner * columns for inner, columns in sizes)
            for library, make in passes(sizes, rows, int8=int8):
                reached = rate(make, cpu.usable_cores(), flop, job.seconds)
                best[library] = max(best.get(library, 0), reached)
        return LimitRates(best)

    work_on_jobs(LimitJob, measure)


if __name__ == "__main__":
    _main()
