"""Networks: their inputs, their runs, and the table of those that are loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recserve_client.contract import RequestError
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import ModelNotLoadedError, SnapshotError
from recserve_server_ext.networks.loaded import LoadedNetwork, ServedNetworks, read_serving, write_table
from recserve_server_ext.networks.network import (
    MAX_ROWS,
    NETWORK,
    Behaviours,
    NetworkManifest,
    Tensors,
    new_network,
    padded,
    read_network,
    write_network,
)
from recserve_server_ext.networks.runner import NetworkRunner
from support.sequence import DIM, LENGTH, tiny_network

MANIFEST = NetworkManifest(fingerprint="0123456789abcdef", dim=2, length=3)


def behaviours(count: int, seed: int = 0) -> Behaviours:
    random = np.random.default_rng(seed)
    return Behaviours(random.standard_normal((count, DIM)).astype(np.float32), random.uniform(0, 100, count))


def test_inputs_are_padded_before_the_first_behaviour() -> None:
    one = Behaviours(np.ones((1, 2), np.float32), np.array([5.0]))
    many = Behaviours(np.arange(10, dtype=np.float32).reshape(5, 2), np.arange(5.0))
    tensors = padded([one, many, Behaviours(np.empty((0, 2), np.float32), np.empty(0))], MANIFEST)
    assert tensors.mask.tolist() == [[0, 0, 1], [1, 1, 1], [0, 0, 0]]
    assert tensors.vectors[0].tolist() == [[0, 0], [0, 0], [1, 1]]
    assert tensors.vectors[1].tolist() == [[4, 5], [6, 7], [8, 9]]
    assert tensors.pauses.tolist() == [[0, 0, 5], [2, 3, 4], [0, 0, 0]]


def test_without_a_behaviour_the_next_pause_grows() -> None:
    whole = Behaviours(np.arange(3, dtype=np.float32)[:, None], np.array([0.0, 10.0, 20.0]))
    middle, last = whole.without(1), whole.without(2)
    assert (middle.vectors[:, 0].tolist(), middle.pauses.tolist()) == ([0.0, 2.0], [0.0, 30.0])
    assert (last.vectors[:, 0].tolist(), last.pauses.tolist()) == ([0.0, 1.0], [0.0, 10.0])


def test_the_vector_of_a_user_is_the_same_in_any_batch() -> None:
    network = tiny_network()
    runner = NetworkRunner(network.content)
    tensors = padded([behaviours(n % (LENGTH + 2), n) for n in range(64)], network.manifest)
    whole = runner.run(tensors)
    for size in (1, 2, 3, 5, 7, 31):
        parts = [runner.run(Tensors(*(of[at : at + size] for of in tensors))) for at in range(0, 64, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_file_that_is_no_network_is_refused() -> None:
    with pytest.raises(SnapshotError, match="onnxruntime cannot load the network"):
        NetworkRunner(b"nothing")


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    network = tiny_network()
    write_network(tmp_path, network)
    assert read_network(tmp_path, network.manifest, "train again") == network
    assert read_network(tmp_path, None, "train again") is None
    content = bytearray(network.content)
    content[100] ^= 1
    (tmp_path / NETWORK).write_bytes(content)
    with pytest.raises(SnapshotError, match=r"the manifest says .*train again"):
        read_network(tmp_path, network.manifest, "train again")
    (tmp_path / NETWORK).unlink()
    with pytest.raises(SnapshotError, match="cannot be read"):
        read_network(tmp_path, network.manifest, "train again")


def test_calls_go_to_the_model_of_the_network_in_bounded_requests(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def run(model: str, tensors: Tensors) -> Vectors:
        asked.append((model, len(tensors.mask)))
        return tensors.vectors[:, -1]

    served = ServedNetworks(tmp_path, run)
    with pytest.raises(ModelNotLoadedError, match="0123456789abcdef is not loaded"):
        served.require([MANIFEST])
    with pytest.raises(RequestError, match="not loaded"):
        served([Behaviours(np.ones((1, 2), np.float32), np.zeros(1))], MANIFEST.fingerprint)
    before = served.stamp()
    write_table(tmp_path, [LoadedNetwork("sequence_01234567", MANIFEST)])
    assert served.stamp() != before
    served.require([MANIFEST])
    inputs = [Behaviours(np.full((1, 2), n, np.float32), np.zeros(1)) for n in range(MAX_ROWS + 2)]
    assert served(inputs, MANIFEST.fingerprint)[:, 0].tolist() == list(range(MAX_ROWS + 2))
    assert asked == [("sequence_01234567", MAX_ROWS), ("sequence_01234567", 2)]


def test_what_is_served_is_written(tmp_path: Path) -> None:
    served = ServedNetworks(tmp_path, lambda _, tensors: tensors.vectors[:, -1])
    assert read_serving(tmp_path) == []
    served.serve([MANIFEST])
    assert read_serving(tmp_path) == [MANIFEST.fingerprint]
    served.serve([])
    assert read_serving(tmp_path) == []


def test_fingerprints_follow_the_content() -> None:
    one, other = new_network(b"a", 2, 3), new_network(b"b", 2, 3)
    assert one.manifest.fingerprint != other.manifest.fingerprint
